//! `adapter_model.safetensors`: PEFT's names of adapters, in and out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::Error;
use crate::family::Family;
use crate::hf::TensorFile;
use crate::lora::sites::Role;

/// The file of tensors in an adapter's folder.
pub(crate) const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// What stands before every name.
const PREFIX: &str = "base_model.model.";

/// Parts of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    A,
    B,
    /// DoRA's magnitudes.
    Magnitude,
    /// The frozen weight that PEFT saves beside adapters of embeddings and heads.
    Frozen,
    /// The weight of a map trained as a whole.
    Weight,
    /// Its bias.
    Bias,
}

/// What PEFT calls a module with the inner name `name`: the head is `lm_head` in every family, whatever its
/// weight is called on disk (GPT-NeoX: `embed_out`).
pub(crate) fn module_name(family: Family, name: &str) -> String {
    if name == "lm_head" { name.to_owned() } else { family.disk_name(name) }
}

/// The name in the file.
pub(crate) fn key(family: Family, name: &str, role: Role, part: Part) -> String {
    let table = role == Role::Table;
    let end = match part {
        Part::A if table => "lora_embedding_A",
        Part::B if table => "lora_embedding_B",
        Part::A => "lora_A.weight",
        Part::B => "lora_B.weight",
        Part::Magnitude => "lora_magnitude_vector",
        Part::Frozen => "base_layer.weight",
        Part::Weight => "weight",
        Part::Bias => "bias",
    };
    format!("{PREFIX}{}.{end}", module_name(family, name))
}

/// A file of adapters, mapped into memory.
#[derive(Debug)]
pub(crate) struct AdapterFile {
    file: TensorFile,
    /// From the name that is asked for to the one in the file.
    entries: BTreeMap<String, String>,
    asked: BTreeSet<String>,
}

impl AdapterFile {
    /// Opens `DIR/adapter_model.safetensors`. A head under the name its weight has on disk, which older
    /// `transformers` gave the module too, is found as `lm_head`.
    pub(crate) fn open(dir: &Path, family: Family) -> Result<Self, Error> {
        let path = dir.join(ADAPTER_FILE);
        if !path.exists() && dir.join("adapter_model.bin").exists() {
            let what =
                "expected safetensors, found adapter_model.bin (a pickle, which can run code; save it anew)";
            return Err(Error::file(&path, what));
        }
        let file = TensorFile::open(&path)?;
        let old = format!("{PREFIX}{}.", family.disk_name("lm_head"));
        let entry = |name: &str| {
            let renamed = name.strip_prefix(&old).map(|part| format!("{PREFIX}lm_head.{part}"));
            let asked = renamed.filter(|new| file.shape(new).is_none()).unwrap_or_else(|| name.to_owned());
            (asked, name.to_owned())
        };
        let entries = file.names().map(entry).collect();
        Ok(Self { file, entries, asked: BTreeSet::new() })
    }

    /// Whether the head stands there under an older name.
    pub(crate) fn has_old_head(&self) -> bool {
        self.entries.iter().any(|(asked, name)| asked != name)
    }

    /// The shape of a tensor, where there is one of this name.
    pub(crate) fn shape(&self, key: &str) -> Option<&[usize]> {
        self.file.shape(self.entries.get(key)?)
    }

    /// The tensor of this name, which must have this shape, as `f32`.
    pub(crate) fn tensor(&mut self, key: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let refuse = |found: String| Error::Tensor {
            name: key.to_owned(),
            expected: format!("{shape:?} in {}", self.file.path().display()),
            found,
        };
        match self.shape(key) {
            Some(found) if found == shape => {}
            Some(found) => return Err(refuse(format!("{found:?}"))),
            None => return Err(refuse("nothing".to_owned())),
        }
        self.asked.insert(key.to_owned());
        self.file.floats(self.entries.get(key).map_or(key, String::as_str))
    }

    /// Checks a frozen weight that the file has a copy of: the base must be the one the adapter was made
    /// for. A copy in half precision may differ by its rounding.
    pub(crate) fn check_frozen(&mut self, key: &str, shape: &[usize], base: &[f32]) -> Result<(), Error> {
        if self.shape(key).is_none() {
            return Ok(());
        }
        let copy = self.tensor(key, shape)?;
        // bf16 keeps eight bits: half a step is 2⁻⁹ of the number.
        let far = |(a, b): &(&f32, &f32)| (*a - *b).abs() > b.abs().max(1e-30) / 256.0;
        match copy.iter().zip(base).position(|pair| far(&pair)) {
            None => Ok(()),
            Some(i) => Err(Error::Tensor {
                name: key.to_owned(),
                expected: format!("the base model's weights ({} at place {i})", base[i]),
                found: format!("{} in {}: an adapter of another base", copy[i], self.file.path().display()),
            }),
        }
    }

    /// Checks that every tensor of the file was asked for.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        let left: Vec<&String> = self.entries.keys().filter(|name| !self.asked.contains(*name)).collect();
        match left.first() {
            None => Ok(()),
            Some(name) => Err(Error::Tensor {
                name: (*name).clone(),
                expected: "a tensor of the adapters that adapter_config.json names".into(),
                found: format!("another, in {} ({} such)", self.file.path().display(), left.len()),
            }),
        }
    }
}
