//! Hugging Face model folders: `config.json` and safetensors, in and out.
//!
//! What is saved here loads in `transformers` with `from_pretrained`; what it saves loads here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::weights::HostTensor;

/// The model's weights in one file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// A Llama-style decoder's `config.json`, under the names of `transformers`' `LlamaConfig`. Keys
/// unknown here are kept and written back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// `llama`.
    pub model_type: String,
    /// V.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key–value heads; absent means as many as query heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; absent means `hidden_size / num_attention_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Most positions of a row.
    pub max_position_embeddings: usize,
    /// ε of the norms; 1e-6 is `transformers`' default.
    #[serde(default = "rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// Standard deviation of scratch weights; 0.02 is `transformers`' default.
    #[serde(default = "initializer_range")]
    pub initializer_range: f64,
    /// Only `silu` is known here.
    #[serde(default = "hidden_act")]
    pub hidden_act: String,
    /// Whether the output projection is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Biases of the attention projections.
    #[serde(default)]
    pub attention_bias: bool,
    /// Biases of the feed-forward projections.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Everything else, rotary settings among it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

fn rms_norm_eps() -> f64 {
    1e-6
}

fn initializer_range() -> f64 {
    0.02
}

fn hidden_act() -> String {
    "silu".to_owned()
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by `factor`.
    Linear {
        /// Divides every frequency.
        factor: f64,
    },
    /// Long wavelengths by `factor`, short ones not.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original: f64,
    },
}

impl DecoderConfig {
    /// Reads and checks `config.json` text.
    ///
    /// # Errors
    /// A missing or mistyped key, or a setting this decoder does not have.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let config: Self =
            serde_json::from_str(text).map_err(|e| Error::config("(file)", "a Llama config in JSON", e))?;
        config.checked()
    }

    /// Reads and checks `DIR/config.json`.
    ///
    /// # Errors
    /// As [`DecoderConfig::parse`], or a file that cannot be read.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, format!("reading: {e}")))?;
        Self::parse(&text).map_err(|e| Error::file(&path, e))
    }

    fn checked(self) -> Result<Self, Error> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("num_key_value_heads", self.kv_heads()),
        ];
        if let Some((field, n)) = positive.into_iter().find(|(_, n)| *n == 0) {
            return Err(Error::config(field, "a positive number", n));
        }
        if self.model_type != "llama" {
            return Err(Error::config("model_type", "llama", &self.model_type));
        }
        if self.hidden_act != "silu" {
            return Err(Error::config("hidden_act", "silu", &self.hidden_act));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            let expected = format!("a divisor of num_attention_heads = {}", self.num_attention_heads);
            return Err(Error::config("num_key_value_heads", expected, self.kv_heads()));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!("a multiple of num_attention_heads = {}", self.num_attention_heads);
            return Err(Error::config("hidden_size", expected, self.hidden_size));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(Error::config("head_dim", "an even number", self.head_dim()));
        }
        self.try_rope_scaling()?;
        Ok(self)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Key–value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// `rope_parameters` of `transformers` 5, or `rope_scaling` of 4.
    fn rope(&self) -> Option<&Map<String, Value>> {
        ["rope_parameters", "rope_scaling"].iter().find_map(|key| self.rest.get(*key)?.as_object())
    }

    /// Base of the rotary frequencies; 10,000 where none is given.
    pub fn rope_theta(&self) -> f64 {
        let inner = self.rope().and_then(|r| r.get("rope_theta"));
        inner.or_else(|| self.rest.get("rope_theta")).and_then(Value::as_f64).unwrap_or(10_000.0)
    }

    /// How rotary frequencies are stretched.
    pub fn rope_scaling(&self) -> RopeScaling {
        self.try_rope_scaling().unwrap_or(RopeScaling::Default)
    }

    fn try_rope_scaling(&self) -> Result<RopeScaling, Error> {
        let Some(rope) = self.rope() else { return Ok(RopeScaling::Default) };
        let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str);
        let number = |key: &str| {
            let found = rope.get(key);
            found.and_then(Value::as_f64).filter(|x| *x > 0.0).ok_or_else(|| {
                let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
                Error::config(format!("rope_parameters.{key}"), "a positive number", found)
            })
        };
        match kind.unwrap_or("default") {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original: number("original_max_position_embeddings")?,
            }),
            other => Err(Error::config("rope_parameters.rope_type", "default, linear or llama3", other)),
        }
    }

    /// The config as `transformers` wants it, for a language model or a reward model.
    fn to_json(&self, kind: ModelKind) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_else(|_| json!({}));
        let Some(map) = value.as_object_mut() else { return value };
        map.insert("architectures".to_owned(), json!([kind.architecture()]));
        // The type of the file written beside it, whatever the weights were read from.
        map.remove("torch_dtype");
        map.insert("dtype".to_owned(), json!("float32"));
        map.entry("bos_token_id").or_insert(Value::Null);
        if self.rope().is_none() {
            let rope = json!({"rope_theta": self.rope_theta(), "rope_type": "default"});
            map.insert("rope_parameters".to_owned(), rope);
        }
        if kind == ModelKind::Reward {
            map.insert("id2label".to_owned(), json!({"0": "LABEL_0"}));
            map.insert("label2id".to_owned(), json!({"LABEL_0": 0}));
        }
        value
    }
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// `LlamaForCausalLM`.
    Causal,
    /// `LlamaForSequenceClassification` with one label.
    Reward,
}

impl ModelKind {
    fn architecture(self) -> &'static str {
        match self {
            Self::Causal => "LlamaForCausalLM",
            Self::Reward => "LlamaForSequenceClassification",
        }
    }
}

/// The safetensors of a folder, mapped into memory: a tensor is converted when it is asked for.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<Mmap>,
    /// Which file holds each tensor.
    place: HashMap<String, usize>,
    asked: BTreeSet<String>,
}

impl Checkpoint {
    /// Opens `DIR/model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// A file that is missing or is no safetensors file.
    pub fn open(dir: &Path) -> Result<Self, Error> {
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
        Ok(Self { dir: dir.to_owned(), files, place, asked: BTreeSet::new() })
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

    /// One tensor as `f32`, checked against `shape`.
    ///
    /// # Errors
    /// A tensor that is missing, or has another shape or a type other than f32, bf16, f16.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let wanted = || format!("{shape:?} in {}", self.dir.display());
        let Some(&file) = self.place.get(name) else {
            return Err(Error::Tensor { name: name.to_owned(), expected: wanted(), found: "nothing".into() });
        };
        let tensors = SafeTensors::deserialize(&self.files[file]).map_err(|e| Error::file(&self.dir, e))?;
        let view = tensors.tensor(name).map_err(|e| Error::file(&self.dir, e))?;
        if view.shape() != shape {
            let found = format!("{:?}", view.shape());
            return Err(Error::Tensor { name: name.to_owned(), expected: wanted(), found });
        }
        self.asked.insert(name.to_owned());
        let bytes = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Dtype::BF16 => {
                Ok(bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect())
            }
            Dtype::F16 => {
                Ok(bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect())
            }
            other => Err(Error::Tensor {
                name: name.to_owned(),
                expected: "F32, BF16 or F16".into(),
                found: format!("{other:?}"),
            }),
        }
    }

    /// Checks that every tensor of the folder was asked for, but for those a model leaves out by
    /// right: old rotary tables, and `lm_head.weight` beside tied embeddings or a reward head.
    ///
    /// # Errors
    /// The first tensor that nothing asked for.
    pub fn finish(&self) -> Result<(), Error> {
        let by_right = |name: &str| name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
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

#[expect(unsafe_code, reason = "a memory map is only sound while nobody truncates the file")]
fn map(path: &Path) -> Result<Mmap, Error> {
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
    write(&dir.join(MODEL_FILE), &serialize(parameters)?)
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

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
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

    fn text(change: &str) -> String {
        let base = r#""vocab_size":8,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,
            "num_attention_heads":2,"max_position_embeddings":8"#;
        format!("{{\"model_type\":\"llama\",{base}{change}}}")
    }

    #[test]
    fn rotary_settings_of_both_generations_are_read() {
        let five = DecoderConfig::parse(&text(
            r#","rope_parameters":{"rope_type":"llama3","rope_theta":5e5,"factor":8,"low_freq_factor":1,
            "high_freq_factor":4,"original_max_position_embeddings":32}"#,
        ))
        .expect("valid");
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 32.0 };
        assert_eq!((five.rope_theta(), five.rope_scaling()), (5e5, llama3));
        let four =
            DecoderConfig::parse(&text(r#","rope_theta":1e6,"rope_scaling":{"type":"linear","factor":2}"#))
                .expect("valid");
        assert_eq!((four.rope_theta(), four.rope_scaling()), (1e6, RopeScaling::Linear { factor: 2.0 }));
    }

    #[test]
    fn what_the_decoder_lacks_is_named() {
        let error = |change: &str| DecoderConfig::parse(&text(change)).expect_err("refused").to_string();
        assert_eq!(error(r#","hidden_act":"gelu""#), "config.json: hidden_act: expected silu, found gelu");
        assert!(
            error(r#","num_key_value_heads":3"#).contains("a divisor of num_attention_heads = 2, found 3")
        );
        assert!(error(r#","rope_scaling":{"rope_type":"yarn"}"#).contains("found yarn"));
        assert!(error(r#","rope_scaling":{"rope_type":"linear"}"#).contains("rope_parameters.factor"));
    }

    #[test]
    fn parameters_survive_the_file_to_the_bit() {
        let tensor = HostTensor { shape: vec![2, 1], data: vec![f32::MIN_POSITIVE, -0.0] };
        let all = BTreeMap::from([("a.weight".to_owned(), tensor)]);
        let back = deserialize(&serialize(&all).expect("fits")).expect("reads");
        assert_eq!(back["a.weight"].data.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1 << 23, 1 << 31]);
    }
}
