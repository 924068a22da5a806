//! Hugging Face model folders: `config.json` and safetensors, in and out.
//!
//! What is saved here loads in `transformers` with `from_pretrained`; what it saves loads here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value};

use crate::config::{DecoderConfig, ModelKind};
use crate::error::Error;
use crate::family::Family;
use crate::weights::{HostTensor, transpose};

/// The model's weights in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The safetensors of a folder, mapped into memory: a tensor is converted when it is asked for.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    family: Family,
    files: Vec<Mmap>,
    /// Which file holds each tensor.
    place: HashMap<String, usize>,
    asked: BTreeSet<String>,
}

impl Checkpoint {
    /// Opens `DIR/model.safetensors`, or the shards that `model.safetensors.index.json` names, of a
    /// model of this family.
    ///
    /// # Errors
    /// A file that is missing or is no safetensors file.
    pub fn open(dir: &Path, family: Family) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut place = HashMap::new();
        for path in Self::shards(dir)? {
            let map = map(&path)?;
            let tensors = SafeTensors::deserialize(&map).map_err(|e| Error::file(&path, e))?;
            for name in tensors.names() {
                place.insert(name.to_owned(), files.len());
            }
            files.push(map);
        }
        Ok(Self { dir: dir.to_owned(), family, files, place, asked: BTreeSet::new() })
    }

    fn shards(dir: &Path) -> Result<Vec<PathBuf>, Error> {
        let index = dir.join(INDEX_FILE);
        if !index.exists() {
            return Ok(vec![dir.join(MODEL_FILE)]);
        }
        let text = fs::read_to_string(&index).map_err(|e| Error::file(&index, format!("reading: {e}")))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| Error::file(&index, e))?;
        let names = value["weight_map"].as_object().ok_or_else(|| {
            Error::file(&index, "weight_map: expected an object of tensor names, found none")
        })?;
        let shards: BTreeSet<&str> = names.values().filter_map(Value::as_str).collect();
        Ok(shards.into_iter().map(|name| dir.join(name)).collect())
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
        let tensors = SafeTensors::deserialize(&self.files[file]).ok()?;
        Some(tensors.tensor(&name).ok()?.shape().to_vec())
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
        let name = name.as_str();
        let tensors = SafeTensors::deserialize(&self.files[file]).map_err(|e| Error::file(&self.dir, e))?;
        let view = tensors.tensor(name).map_err(|e| Error::file(&self.dir, e))?;
        if view.shape() != shape {
            let found = format!("{:?}", view.shape());
            return Err(Error::Tensor { name: name.to_owned(), expected: wanted(), found });
        }
        self.asked.insert(name.to_owned());
        decoded(name, &view)
    }

    /// Checks that every tensor of the folder was asked for, but for those a model leaves out by
    /// right: old rotary tables, and `lm_head.weight` beside tied embeddings or a reward head.
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

/// A tensor of a file as `f32`.
pub(crate) fn decoded(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, Error> {
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::BF16 => {
            Ok(bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect())
        }
        Dtype::F16 => Ok(bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()),
        other => Err(Error::Tensor {
            name: name.to_owned(),
            expected: "F32, BF16 or F16".into(),
            found: format!("{other:?}"),
        }),
    }
}

#[expect(unsafe_code, reason = "a memory map is only sound while nobody truncates the file")]
pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(|e| Error::file(path, format!("opening: {e}")))?;
    // SAFETY: model folders are replaced by rename, never rewritten in place, so the pages stay.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::file(path, format!("mapping: {e}")))
}

/// Writes `config.json`, `generation_config.json` (language models) and `model.safetensors` into
/// `dir`, which is made. Each file appears whole or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn save(
    dir: &Path,
    config: &DecoderConfig,
    kind: ModelKind,
    parameters: &BTreeMap<String, HostTensor>,
) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|e| Error::file(dir, format!("making the folder: {e}")))?;
    let json = config.to_json(kind);
    write(&dir.join("config.json"), &pretty(&json))?;
    if kind == ModelKind::Causal {
        let mut generation = Map::new();
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(id) = json.get(key).filter(|v| !v.is_null()) {
                generation.insert(key.to_owned(), id.clone());
            }
        }
        write(&dir.join("generation_config.json"), &pretty(&Value::Object(generation)))?;
    }
    write(&dir.join(MODEL_FILE), &serialize(&on_disk(config.family(), parameters))?)
}

/// Parameters under the names and in the layout of the family's checkpoints.
fn on_disk(family: Family, parameters: &BTreeMap<String, HostTensor>) -> BTreeMap<String, HostTensor> {
    let one = |(name, tensor): (&String, &HostTensor)| {
        let turned = tensor.shape.len() == 2 && family.is_turned(name);
        let tensor = if turned {
            let [rows, cols] = [tensor.shape[0], tensor.shape[1]];
            HostTensor { shape: vec![cols, rows], data: transpose(&tensor.data, rows, cols) }
        } else {
            tensor.clone()
        };
        (family.disk_name(name), tensor)
    };
    parameters.iter().map(one).collect()
}

/// Parameters as safetensors bytes, in name order.
///
/// # Errors
/// A tensor whose data do not fill its shape.
pub fn serialize(parameters: &BTreeMap<String, HostTensor>) -> Result<Vec<u8>, Error> {
    let bytes: Vec<(&String, &HostTensor, Vec<u8>)> = parameters
        .iter()
        .map(|(n, t)| (n, t, t.data.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, tensor, data) in &bytes {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data).map_err(|e| Error::Tensor {
            name: (*name).clone(),
            expected: format!("{:?}", tensor.shape),
            found: e.to_string(),
        })?;
        views.push(((*name).as_str(), view));
    }
    let about = Some(HashMap::from([("format".to_owned(), "pt".to_owned())]));
    safetensors::serialize(views, about).map_err(|e| Error::file("safetensors", e))
}

/// The inverse of [`serialize`].
///
/// # Errors
/// Bytes that are no safetensors file of f32 tensors.
pub fn deserialize(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, Error> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::file("safetensors", e))?;
    let mut out = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        if view.dtype() != Dtype::F32 {
            let found = format!("{:?}", view.dtype());
            return Err(Error::Tensor { name, expected: "F32".into(), found });
        }
        let data = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        out.insert(name, HostTensor { shape: view.shape().to_vec(), data });
    }
    Ok(out)
}

pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let attempt = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|e| {
        // The first error is the one to tell; a file that cannot be removed changes nothing.
        let _ = fs::remove_file(&temporary);
        Error::file(path, format!("writing: {e}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_survive_the_file_to_the_bit() {
        let tensor = HostTensor { shape: vec![2, 1], data: vec![f32::MIN_POSITIVE, -0.0] };
        let all = BTreeMap::from([("a.weight".to_owned(), tensor)]);
        let back = deserialize(&serialize(&all).expect("fits")).expect("reads");
        assert_eq!(back["a.weight"].data.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1 << 23, 1 << 31]);
    }
}
