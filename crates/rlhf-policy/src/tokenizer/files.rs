//! The files beside `tokenizer.json` that say which tokens are special.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;

/// `tokenizer_config.json` and `special_tokens_map.json`.
#[derive(Debug)]
pub(crate) struct Named {
    /// Where the first lies, or would lie.
    pub(crate) file: PathBuf,
    /// The first; empty where there is no such file.
    pub(crate) config: Map<String, Value>,
    map: Map<String, Value>,
}

impl Named {
    /// Reads the two files in the folder of `file`.
    pub(crate) fn beside(file: &Path) -> Result<Self, Error> {
        let config_file = file.with_file_name("tokenizer_config.json");
        let config = read_object(&config_file)?.unwrap_or_default();
        let map = read_object(&file.with_file_name("special_tokens_map.json"))?.unwrap_or_default();
        Ok(Self { file: config_file, config, map })
    }

    /// The text of a special token, `eos_token` for instance.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        content(self.config.get(key)).or_else(|| content(self.map.get(key)))
    }

    /// All special tokens that have a name, with their texts: what templates know them by.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        const KEYS: [&str; 7] =
            ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let usual = KEYS.iter().filter_map(|key| Some(((*key).to_owned(), self.text(key)?)));
        // Tokens of one model family, by a name of their own.
        let extra = self.config.get("extra_special_tokens").and_then(Value::as_object);
        let extra = extra.into_iter().flatten();
        usual.chain(extra.filter_map(|(key, value)| Some((key.clone(), content(Some(value))?)))).collect()
    }
}

/// The spelling of the first `eos_token_id` of the model's configs.
pub(super) fn eos(file: &Path, inner: &tokenizers::Tokenizer) -> Result<Option<String>, Error> {
    for name in ["config.json", "generation_config.json"] {
        let Some(config) = read_object(&file.with_file_name(name))? else { continue };
        let id = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.first(),
            other => other,
        };
        let Some(id) = id.filter(|id| !id.is_null()) else { continue };
        let text = id.as_u64().and_then(|id| inner.id_to_token(u32::try_from(id).ok()?));
        let what = || format!("eos_token_id: expected the number of a token, found {id}");
        return text.map(Some).ok_or_else(|| Error::file(file.with_file_name(name), what()));
    }
    Ok(None)
}

/// The object in `file`, or `None` where there is no such file.
pub(crate) fn read_object(file: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(file, format!("reading: {e}"))),
    };
    let object = serde_json::from_slice(&bytes);
    object.map(Some).map_err(|e| Error::file(file, format!("expected a JSON object, found {e}")))
}

/// A token's text, written as a string or as `{"content": "…", …}`.
fn content(value: Option<&Value>) -> Option<String> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}
