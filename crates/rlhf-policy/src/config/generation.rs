//! `generation_config.json`: which tokens end a text; the rest is kept as it is.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Error;
use crate::hf::read_text;

/// The file's name in a model folder.
pub(crate) const FILE: &str = "generation_config.json";

/// A `generation_config.json`. Of its keys this crate reads the special tokens; all are kept and
/// written back.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationConfig {
    raw: Map<String, Value>,
}

impl GenerationConfig {
    /// Reads and checks the file's text.
    ///
    /// # Errors
    /// Text that is no JSON object, a special token that is neither a number nor a list of numbers.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::config("(file)", "a JSON object", e))?;
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            check_ids(raw.get(key), key)?;
        }
        Ok(Self { raw })
    }

    /// Reads and checks `DIR/generation_config.json`; nothing where there is no such file.
    ///
    /// # Errors
    /// As [`GenerationConfig::parse`], or a file that cannot be read.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        Self::parse(&read_text(&path)?).map(Some).map_err(|e| e.in_file(&path))
    }

    /// Every key of the file.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// A token id or a list of them under `key`; empty where there is none.
    pub fn token_ids(&self, key: &str) -> Vec<u32> {
        ids(self.raw.get(key))
    }
}

/// A token id or a list of them. Old configs have −1 for none.
pub(super) fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Some(Value::Array(all)) => all.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Refuses what is neither null, a whole number nor a list of such.
pub(super) fn check_ids(value: Option<&Value>, key: &str) -> Result<(), Error> {
    let is_id = |v: &Value| v.as_i64().is_some_and(|n| n <= i64::from(u32::MAX));
    let right = match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(all)) => all.iter().all(is_id),
        Some(one) => is_id(one),
    };
    match value {
        Some(found) if !right => Err(Error::config(key, "a token id or a list of them", found)),
        _ => Ok(()),
    }
}
