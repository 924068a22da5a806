//! The weights of a folder under inner names, from one file or from shards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use burn::tensor::Device;
use serde_json::Value;

use super::{INDEX_FILE, MODEL_FILE, TensorFile, read_text};
use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::family::Family;
use crate::weights::transpose;

/// The language model of a folder whose config is `config`: every tensor of it, and no other.
///
/// # Errors
/// A tensor that is missing, unknown or of another shape; a head beside tied embeddings that is another
/// matrix.
pub fn load_decoder(dir: &Path, config: &DecoderConfig, device: &Device) -> Result<Decoder, Error> {
    let mut checkpoint = Checkpoint::open(dir, config.family())?;
    let model = Decoder::build(config, &mut |name, shape| checkpoint.tensor(name, shape), device)?;
    checkpoint.finish()?;
    checkpoint.check_tied_head()?;
    Ok(model)
}

/// The safetensors of a folder, mapped into memory: a tensor is converted when it is asked for.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    family: Family,
    files: Vec<TensorFile>,
    /// Which file holds each tensor.
    place: HashMap<String, usize>,
    asked: BTreeSet<String>,
}

impl Checkpoint {
    /// Opens `DIR/model.safetensors`, or the shards that `model.safetensors.index.json` names, of a
    /// model of this family. A single file goes before shards, as in `transformers`.
    ///
    /// # Errors
    /// A file that is missing or is no safetensors file, an index that contradicts its shards.
    pub fn open(dir: &Path, family: Family) -> Result<Self, Error> {
        let (single, index) = (dir.join(MODEL_FILE), dir.join(INDEX_FILE));
        let files = if single.exists() || !index.exists() {
            vec![TensorFile::open(&single)?]
        } else {
            shards(dir, &index)?
        };
        let mut place: HashMap<String, usize> = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = place.insert(name.to_owned(), i) {
                    let (a, b) = (files[other].path().display(), file.path().display());
                    return Err(Error::Tensor {
                        name: name.to_owned(),
                        expected: "one file that holds it".into(),
                        found: format!("two: {a} and {b}"),
                    });
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), family, files, place, asked: BTreeSet::new() })
    }

    /// The name under which the file has the parameter with the inner name `name`.
    fn place_of(&self, name: &str) -> Option<(String, usize)> {
        let full = self.family.disk_name(name);
        // A bare trunk is saved without what stands before its parameters in a language model.
        let bare = full.strip_prefix(self.family.prefix()).unwrap_or(&full).to_owned();
        [full, bare].into_iter().find_map(|n| self.place.get(&n).copied().map(|file| (n, file)))
    }

    /// The shape of the parameter with the inner name `name`, as the file has it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (name, file) = self.place_of(name)?;
        self.files[file].shape(&name).map(<[usize]>::to_vec)
    }

    /// The parameter with the inner name `name` as `f32`, checked against `shape`.
    ///
    /// # Errors
    /// A tensor that is missing, or has another shape or a type other than f32, bf16, f16.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let turned = shape.len() == 2 && self.family.is_turned(name);
        let on_disk: Vec<usize> = if turned { shape.iter().rev().copied().collect() } else { shape.to_vec() };
        let data = self.on_disk(name, &on_disk)?;
        Ok(if turned { transpose(&data, shape[1], shape[0]) } else { data })
    }

    fn on_disk(&mut self, inner: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let wanted = || format!("{shape:?} in {}", self.dir.display());
        let Some((name, file)) = self.place_of(inner) else {
            let name = self.family.disk_name(inner);
            return Err(Error::Tensor { name, expected: wanted(), found: "nothing".into() });
        };
        let file = &self.files[file];
        match file.shape(&name) {
            Some(found) if found == shape => {}
            found => {
                let found = found.map_or_else(|| "nothing".to_owned(), |s| format!("{s:?}"));
                return Err(Error::Tensor { name, expected: wanted(), found });
            }
        }
        let data = file.floats(&name)?;
        self.asked.insert(name);
        Ok(data)
    }

    /// Checks that every tensor of the folder was asked for, but for those a model leaves out by
    /// right: old rotary tables and masks, and `lm_head.weight` beside tied embeddings or a reward
    /// head.
    ///
    /// # Errors
    /// The first tensor that nothing asked for.
    pub fn finish(&self) -> Result<(), Error> {
        let head = self.family.disk_name("lm_head.weight");
        let buffers =
            [".inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
        let by_right = |name: &str| name == head || buffers.iter().any(|end| name.ends_with(end));
        let mut left: Vec<&String> =
            self.place.keys().filter(|n| !self.asked.contains(*n) && !by_right(n)).collect();
        left.sort();
        match left.first() {
            None => Ok(()),
            Some(name) => Err(Error::Tensor {
                name: (*name).clone(),
                expected: "a parameter of this model".into(),
                found: format!("one it does not have, in {} ({} such)", self.dir.display(), left.len()),
            }),
        }
    }
}

impl Checkpoint {
    /// Whether the head that a tied language model leaves unread is the embedding; a model whose head was
    /// asked for, or whose folder has none, has nothing to check.
    ///
    /// # Errors
    /// A head beside tied embeddings that is another matrix, or one that cannot be read.
    fn check_tied_head(&self) -> Result<(), Error> {
        let places = ["lm_head.weight", "model.embed_tokens.weight"].map(|n| self.place_of(n));
        let [Some((head, a)), Some((table, b))] = places else { return Ok(()) };
        if self.asked.contains(&head) || self.files[a].floats(&head)? == self.files[b].floats(&table)? {
            return Ok(());
        }
        Err(Error::Tensor {
            name: head,
            expected: format!("the numbers of {table}, since tie_word_embeddings is true"),
            found: format!("others, in {}", self.dir.display()),
        })
    }
}

/// The files that an index names, each of which must hold what the index says.
fn shards(dir: &Path, index: &Path) -> Result<Vec<TensorFile>, Error> {
    let value: Value = serde_json::from_str(&read_text(index)?)
        .map_err(|e| Error::file(index, format!("expected a JSON object, found {e}")))?;
    let map = value.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map =
        map.ok_or_else(|| Error::file(index, "weight_map: expected an object of tensor names, found none"))?;
    let mut by_shard: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (tensor, shard) in map {
        let name = shard.as_str().filter(|name| is_plain(name)).ok_or_else(|| {
            let what =
                format!("weight_map.{tensor}: expected the name of a file in this folder, found {shard}");
            Error::file(index, what)
        })?;
        by_shard.entry(name).or_default().push(tensor);
    }
    let mut files = Vec::with_capacity(by_shard.len());
    for (shard, tensors) in by_shard {
        let file = TensorFile::open(&dir.join(shard))?;
        if let Some(tensor) = tensors.iter().find(|t| file.shape(t).is_none()) {
            let what = format!("weight_map.{tensor}: expected a tensor of {shard}, found none of this name");
            return Err(Error::file(index, what));
        }
        files.push(file);
    }
    Ok(files)
}

/// Whether a name stays inside the folder.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}
