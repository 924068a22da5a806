//! `config.json`: read, checked, written back, with `generation_config.json` beside it.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::architecture::{Architecture, Positions};
use crate::error::Error;
use crate::family::Family;
use crate::hf::{FileType, read_text};

mod fields;
mod generation;
mod rope;

pub(crate) use fields::Fields;
pub use generation::GenerationConfig;

/// Most parameters of a model, about 10¹²: more is a slip of the pen.
const MOST_PARAMETERS: usize = 1 << 40;

/// A decoder's `config.json`, and its `generation_config.json` where there is one. Keys unknown here
/// are kept and written back.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    family: Family,
    architecture: Architecture,
    raw: Map<String, Value>,
    generation: Option<GenerationConfig>,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// A language model.
    Causal,
    /// A classifier with so many labels; a reward model has one.
    Classifier {
        /// Rows of the head.
        labels: usize,
    },
}

impl ModelKind {
    /// A classifier with one label.
    pub const REWARD: Self = Self::Classifier { labels: 1 };
}

impl DecoderConfig {
    /// Reads and checks `config.json` text.
    ///
    /// # Errors
    /// A missing or mistyped key, a family or a setting that is unknown here, sizes beyond any model's.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::config("(file)", "a JSON object", e))?;
        Self::from_map(raw, None)
    }

    fn from_map(raw: Map<String, Value>, generation: Option<GenerationConfig>) -> Result<Self, Error> {
        let fields = Fields(&raw);
        let family = Family::of(fields.text("model_type")?)?;
        let architecture = family.read(&raw)?;
        match architecture.n_parameters() {
            Some(n) if n <= MOST_PARAMETERS => {}
            n => {
                let found = n.map_or_else(|| "more than a machine word holds".to_owned(), |n| n.to_string());
                return Err(Error::config("(sizes)", format!("at most {MOST_PARAMETERS} parameters"), found));
            }
        }
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            generation::check_ids(raw.get(key), key)?;
        }
        fields.labels()?;
        check_class(&raw, family)?;
        if raw.get("quantization_config").is_some_and(|v| !v.is_null()) {
            let expected = "none: weights as f32, bf16 or f16";
            return Err(Error::config("quantization_config", expected, "one"));
        }
        Ok(Self { family, architecture, raw, generation })
    }

    /// Reads and checks `DIR/config.json`, and `DIR/generation_config.json` where there is one.
    ///
    /// # Errors
    /// As [`DecoderConfig::parse`], or a file that cannot be read.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let mut config = Self::load_file(&dir.join("config.json"))?;
        config.generation = GenerationConfig::load(dir)?;
        Ok(config)
    }

    /// Reads and checks a file in the form of `config.json`, alone.
    ///
    /// # Errors
    /// As [`DecoderConfig::parse`], or a file that cannot be read.
    pub fn load_file(path: &Path) -> Result<Self, Error> {
        Self::parse(&read_text(path)?).map_err(|e| e.in_file(path))
    }

    /// The same config with `key` set to `value`, checked anew.
    ///
    /// # Errors
    /// As [`DecoderConfig::parse`].
    pub fn with(&self, key: &str, value: impl Serialize) -> Result<Self, Error> {
        let mut raw = self.raw.clone();
        let value = serde_json::to_value(value).map_err(|e| Error::config(key, "a JSON value", e))?;
        raw.insert(key.to_owned(), value);
        Self::from_map(raw, self.generation.clone())
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The parts and sizes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Every key of the file.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// `generation_config.json`, where the folder had one.
    pub fn generation(&self) -> Option<&GenerationConfig> {
        self.generation.as_ref()
    }

    /// What the config says the folder holds: by the class in `architectures`, a language model where
    /// there is none. A classifier without `num_labels` or `id2label` has two labels, as in
    /// `transformers`.
    pub fn kind(&self) -> ModelKind {
        let class = self.raw.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
        match class {
            Some(class) if class.ends_with("ForSequenceClassification") => {
                ModelKind::Classifier { labels: self.labels().unwrap_or(2) }
            }
            _ => ModelKind::Causal,
        }
    }

    /// How many labels `num_labels` or else `id2label` says that a classifier has.
    pub fn labels(&self) -> Option<usize> {
        Fields(&self.raw).labels().ok().flatten()
    }

    /// V.
    pub fn vocab_size(&self) -> usize {
        self.architecture.vocab_size
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.architecture.hidden_size
    }

    /// Most positions of a row.
    pub fn max_position_embeddings(&self) -> usize {
        self.architecture.max_position_embeddings
    }

    /// Standard deviation of scratch weights.
    pub fn initializer_range(&self) -> f64 {
        self.architecture.initializer_range
    }

    /// A token id or a list of them under `key` of `config.json`; empty where there is none.
    pub fn token_ids(&self, key: &str) -> Vec<u32> {
        generation::ids(self.raw.get(key))
    }

    /// The tokens that end a text: those of `generation_config.json`, where it is silent those of
    /// `config.json`; empty where both are.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        self.ids_of_both("eos_token_id")
    }

    /// The token that fills rows, from the same two files.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.ids_of_both("pad_token_id").first().copied()
    }

    fn ids_of_both(&self, key: &str) -> Vec<u32> {
        let first = self.generation.as_ref().map(|g| g.token_ids(key)).unwrap_or_default();
        if first.is_empty() { self.token_ids(key) } else { first }
    }

    /// `config.json` as `transformers` wants it, beside weights of type `dtype`.
    pub(crate) fn to_json(&self, kind: ModelKind, dtype: FileType) -> Value {
        let mut map = self.raw.clone();
        let class = match kind {
            ModelKind::Causal => self.family.causal_class(),
            ModelKind::Classifier { .. } => self.family.classifier_class(),
        };
        map.insert("architectures".to_owned(), json!([class]));
        // The type of the file written beside it, whatever the weights were read from.
        map.remove("torch_dtype");
        map.insert("dtype".to_owned(), json!(dtype.torch_name()));
        map.entry("bos_token_id").or_insert(Value::Null);
        let rotary = self.architecture.positions == Positions::Rotary;
        let says_rope =
            ["rope_parameters", "rope_scaling", "rope_theta"].iter().any(|k| map.contains_key(*k));
        if rotary && !says_rope && self.family == Family::Llama {
            map.insert("rope_parameters".to_owned(), json!({"rope_theta": 10_000.0, "rope_type": "default"}));
        }
        if let ModelKind::Classifier { labels } = kind {
            name_labels(&mut map, labels);
        }
        Value::Object(map)
    }

    /// `generation_config.json`: what was read, or else the special tokens of `config.json`.
    pub(crate) fn generation_json(&self) -> Value {
        if let Some(generation) = &self.generation {
            return Value::Object(generation.raw().clone());
        }
        let known = ["bos_token_id", "eos_token_id", "pad_token_id"].into_iter();
        let given = known.filter_map(|key| Some((key.to_owned(), self.raw.get(key)?.clone())));
        Value::Object(given.filter(|(_, id)| !id.is_null()).collect())
    }
}

/// Names for the labels, where the config has not as many already.
fn name_labels(map: &mut Map<String, Value>, labels: usize) {
    if map.contains_key("num_labels") {
        map.insert("num_labels".to_owned(), json!(labels));
    }
    let named = |key: &str| map.get(key).and_then(Value::as_object).map(Map::len);
    if named("id2label") == Some(labels) && named("label2id") == Some(labels) {
        return;
    }
    let name = |i: usize| format!("LABEL_{i}");
    let to: Map<String, Value> = (0..labels).map(|i| (i.to_string(), json!(name(i)))).collect();
    let from: Map<String, Value> = (0..labels).map(|i| (name(i), json!(i))).collect();
    map.insert("id2label".to_owned(), Value::Object(to));
    map.insert("label2id".to_owned(), Value::Object(from));
}

/// Whether `architectures` names a model that this family has here.
fn check_class(raw: &Map<String, Value>, family: Family) -> Result<(), Error> {
    let Some(class) = raw.get("architectures").and_then(|v| v.get(0)) else { return Ok(()) };
    let known = [family.causal_class(), family.classifier_class()];
    let bare = family.causal_class().replace("ForCausalLM", "Model").replace("LMHeadModel", "Model");
    match class.as_str() {
        Some(name) if known.contains(&name) || name == bare => Ok(()),
        _ => Err(Error::config("architectures", known.join(" or "), class)),
    }
}

#[cfg(test)]
mod tests;
