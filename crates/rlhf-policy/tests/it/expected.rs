//! What `transformers` and `peft` said of their tiny models, where the folders stand beside the workspace.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

/// The folders of language models.
pub(crate) const CAUSAL: [&str; 9] =
    ["llama", "llama3_rope_tied", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma2", "gemma3"];

/// The folder of this name; none, and a word about it, where there is no such folder.
pub(crate) fn golden(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/models").join(name);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: {} does not exist", path.display());
    None
}

/// `expected.safetensors` and `expected.json` of a folder.
pub(crate) struct Expected {
    bytes: Vec<u8>,
    pub(crate) json: Value,
}

impl Expected {
    pub(crate) fn open(dir: &Path) -> Self {
        let bytes = fs::read(dir.join("expected.safetensors")).expect("readable");
        let text = fs::read_to_string(dir.join("expected.json")).expect("readable");
        Self { bytes, json: serde_json::from_str(&text).expect("JSON") }
    }

    pub(crate) fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("safetensors")
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f64> {
        let data = self.file().tensor(name).expect("present").data().to_vec();
        data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    }

    pub(crate) fn whole_numbers(&self, name: &str) -> Vec<i64> {
        let data = self.file().tensor(name).expect("present").data().to_vec();
        data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    pub(crate) fn list(&self, path: &[&str]) -> Vec<f64> {
        let found = path.iter().fold(&self.json, |v, key| &v[*key]);
        found.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
    }

    pub(crate) fn tokens(&self, key: &str) -> Vec<Vec<u32>> {
        serde_json::from_value(self.json[key]["tokens"].clone()).expect("rows of tokens")
    }

    /// The rows without padding, read from the right-padded batch.
    pub(crate) fn rows(&self) -> Vec<Vec<u32>> {
        let (ids, mask) = (self.whole_numbers("input_ids_right"), self.whole_numbers("attention_mask_right"));
        let width = self.file().tensor("input_ids_right").expect("present").shape()[1];
        let real = |(ids, mask): (&[i64], &[i64])| {
            let pairs = ids.iter().zip(mask).filter(|(_, m)| **m == 1);
            pairs.map(|(id, _)| u32::try_from(*id).expect("a token")).collect()
        };
        ids.chunks(width).zip(mask.chunks(width)).map(real).collect()
    }
}
