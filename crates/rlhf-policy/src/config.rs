//! `config.json`: read, checked, written back.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use rlhf_kernels::Activation;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::architecture::{
    Architecture, Bias, HeadKind, MlpKind, NormKind, Positions, QkNorm, QkvLayout, Residual,
};
use crate::error::Error;
use crate::family::Family;
use crate::rope::{Rope, RopeScaling};

/// Most blocks, and most entries of one head: more is a slip of the pen that would ask for memory.
const MOST: usize = 1 << 16;

/// A decoder's `config.json`. Keys unknown here are kept and written back.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    family: Family,
    architecture: Architecture,
    raw: Map<String, Value>,
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
    /// A missing or mistyped key, a family or a setting that is unknown here.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::config("(file)", "a JSON object", e))?;
        Self::from_map(raw)
    }

    fn from_map(raw: Map<String, Value>) -> Result<Self, Error> {
        let fields = Fields(&raw);
        let family = Family::of(fields.text("model_type")?)?;
        let architecture = family.read(&raw)?;
        if architecture.n_parameters().is_none() {
            return Err(Error::config("(file)", "sizes whose product fits a machine word", "larger ones"));
        }
        Ok(Self { family, architecture, raw })
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

    /// The same config with `key` set to `value`, checked anew.
    ///
    /// # Errors
    /// As [`DecoderConfig::parse`].
    pub fn with(&self, key: &str, value: impl Serialize) -> Result<Self, Error> {
        let mut raw = self.raw.clone();
        let value = serde_json::to_value(value).map_err(|e| Error::config(key, "a JSON value", e))?;
        raw.insert(key.to_owned(), value);
        Self::from_map(raw)
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

    /// A token id or a list of them under `key` (`eos_token_id`, …); empty where there is none.
    pub fn token_ids(&self, key: &str) -> Vec<u32> {
        token_ids(self.raw.get(key))
    }

    /// The config as `transformers` wants it.
    pub(crate) fn to_json(&self, kind: ModelKind) -> Value {
        let mut map = self.raw.clone();
        let class = match kind {
            ModelKind::Causal => self.family.causal_class(),
            ModelKind::Classifier { .. } => self.family.classifier_class(),
        };
        map.insert("architectures".to_owned(), json!([class]));
        // The type of the file written beside it, whatever the weights were read from.
        map.remove("torch_dtype");
        map.insert("dtype".to_owned(), json!("float32"));
        map.entry("bos_token_id").or_insert(Value::Null);
        let rotary = self.architecture.positions == Positions::Rotary;
        let says_rope =
            ["rope_parameters", "rope_scaling", "rope_theta"].iter().any(|k| map.contains_key(*k));
        if rotary && !says_rope && self.family == Family::Llama {
            map.insert("rope_parameters".to_owned(), json!({"rope_theta": 10_000.0, "rope_type": "default"}));
        }
        if let ModelKind::Classifier { labels } = kind {
            let name = |i: usize| format!("LABEL_{i}");
            let to: Map<String, Value> = (0..labels).map(|i| (i.to_string(), json!(name(i)))).collect();
            let from: Map<String, Value> = (0..labels).map(|i| (name(i), json!(i))).collect();
            map.insert("id2label".to_owned(), Value::Object(to));
            map.insert("label2id".to_owned(), Value::Object(from));
        }
        Value::Object(map)
    }
}

/// A token id or a list of them.
pub(crate) fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Some(Value::Array(all)) => all.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The keys of a config, asked by name and type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

/// Keys of a config with changes of our own.
#[derive(Debug, Clone)]
pub(crate) struct OwnFields(Map<String, Value>);

impl std::ops::Deref for OwnFields {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// What a layer attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerType {
    Full,
    Sliding,
}

impl LayerType {
    pub(crate) fn slides(self) -> bool {
        self == Self::Sliding
    }
}

/// Sizes that all families have under the same names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) num_hidden_layers: usize,
    pub(crate) head_dim: usize,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    max_position_embeddings: usize,
}

fn found(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

impl<'a> Fields<'a> {
    fn wrong(&self, key: &str, expected: impl Display) -> Error {
        Error::config(key, expected.to_string(), found(self.0.get(key)))
    }

    /// The value of `key`, where there is one that is not null.
    fn given(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str, Error> {
        self.0.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a text"))
    }

    pub(crate) fn token(&self, key: &str) -> Option<u32> {
        token_ids(self.0.get(key)).first().copied()
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.given(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, Error> {
        self.size_or_none(key)?.ok_or_else(|| self.wrong(key, "a positive number"))
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, Error> {
        Ok(self.size_or_none(key)?.unwrap_or(default))
    }

    pub(crate) fn size_or_none(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.given(key) else { return Ok(None) };
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        n.map(Some).ok_or_else(|| self.wrong(key, "a positive number"))
    }

    fn number_or_none(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.given(key) else { return Ok(None) };
        let x = value.as_f64().filter(|x| *x > 0.0 && x.is_finite());
        x.map(Some).ok_or_else(|| self.wrong(key, "a positive number"))
    }

    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64, Error> {
        Ok(self.number_or_none(key)?.unwrap_or(default))
    }

    /// A soft cap: null is none, an absent key `default`.
    pub(crate) fn cap(&self, key: &str, default: Option<f64>) -> Result<Option<f64>, Error> {
        if self.has(key) { self.number_or_none(key) } else { Ok(default) }
    }

    pub(crate) fn activation(&self, key: &str, default: &str) -> Result<Activation, Error> {
        let name = if self.given(key).is_some() { self.text(key)? } else { default };
        match name {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            _ => Err(self.wrong(key, "silu, gelu, gelu_new, gelu_pytorch_tanh or relu")),
        }
    }

    pub(crate) fn head(&self, default: HeadKind) -> Result<HeadKind, Error> {
        let tied = self.flag("tie_word_embeddings", default == HeadKind::Tied)?;
        Ok(if tied { HeadKind::Tied } else { HeadKind::Untied })
    }

    /// `layer_types`, one a layer, where the config has them.
    pub(crate) fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<LayerType>>, Error> {
        let Some(value) = self.given("layer_types") else { return Ok(None) };
        let expected = || format!("{n_layers} of full_attention, sliding_attention");
        let all = value.as_array().filter(|all| all.len() == n_layers);
        let all = all.ok_or_else(|| self.wrong("layer_types", expected()))?;
        let one = |v: &Value| match v.as_str() {
            Some("full_attention") => Ok(LayerType::Full),
            Some("sliding_attention") => Ok(LayerType::Sliding),
            _ => Err(Error::config("layer_types", expected(), v)),
        };
        all.iter().map(one).collect::<Result<_, _>>().map(Some)
    }

    /// The same keys, with `default` under `key` where it is absent or null.
    pub(crate) fn with_default(&self, key: &str, default: usize) -> OwnFields {
        let mut map = self.0.clone();
        let entry = map.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = json!(default);
        }
        OwnFields(map)
    }

    /// The same keys, with the value of each old name also under its new one.
    pub(crate) fn renamed(&self, names: &[(&str, &str)]) -> OwnFields {
        let mut map = self.0.clone();
        for (old, new) in names {
            if let Some(value) = self.0.get(*old) {
                map.insert((*new).to_owned(), value.clone());
            }
        }
        OwnFields(map)
    }

    /// The sizes, checked against each other.
    pub(crate) fn sizes(&self) -> Result<Sizes, Error> {
        let hidden_size = self.size("hidden_size")?;
        let heads = self.size("num_attention_heads")?;
        let kv = self.size_or("num_key_value_heads", heads)?;
        if !heads.is_multiple_of(kv) {
            return Err(
                self.wrong("num_key_value_heads", format!("a divisor of num_attention_heads = {heads}"))
            );
        }
        let head_dim = match self.size_or_none("head_dim")? {
            Some(d) => d,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                return Err(self.wrong("hidden_size", format!("a multiple of num_attention_heads = {heads}")));
            }
        };
        let num_hidden_layers = match self.0.get("num_hidden_layers").and_then(Value::as_u64) {
            // A trunk without a block is a bag of embeddings: of use in tests and bandits.
            Some(0) => 0,
            _ => self.size("num_hidden_layers")?,
        };
        for (key, n) in [("num_hidden_layers", num_hidden_layers), ("head_dim", head_dim)] {
            if n > MOST {
                return Err(Error::config(key, format!("at most {MOST}"), n));
            }
        }
        Ok(Sizes {
            num_hidden_layers,
            head_dim,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            intermediate_size: self.size("intermediate_size")?,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            max_position_embeddings: self.size("max_position_embeddings")?,
        })
    }

    /// The rotary settings: `rope_parameters` of `transformers` 5, or `rope_scaling` of 4.
    fn rope_map(&self) -> Option<&'a Map<String, Value>> {
        ["rope_parameters", "rope_scaling"].iter().find_map(|key| self.0.get(*key)?.as_object())
    }

    /// Rotation of `width` of the `head_dim` entries of a head.
    pub(crate) fn rope(&self, head_dim: usize, width: usize) -> Result<Rope, Error> {
        let inner = self.rope_map();
        let theta = self.theta(inner, "rope_theta", 10_000.0)?;
        build_rope(head_dim, width, theta, inner)
    }

    /// Rotation of the part of a head that `partial_rotary_factor` or `rotary_pct` names.
    pub(crate) fn partial_rope(&self, head_dim: usize, default: f64) -> Result<Rope, Error> {
        let inner = self.rope_map();
        let part = match inner.map(Fields) {
            Some(inner) if inner.has("partial_rotary_factor") => {
                inner.positive_or("partial_rotary_factor", default)?
            }
            _ => self.positive_or("partial_rotary_factor", self.positive_or("rotary_pct", default)?)?,
        };
        if part > 1.0 {
            return Err(Error::config("partial_rotary_factor", "a number in (0, 1]", part));
        }
        let theta = self.theta(inner, "rope_theta", self.positive_or("rotary_emb_base", 10_000.0)?)?;
        build_rope(head_dim, (head_dim as f64 * part) as usize, theta, inner)
    }

    /// Gemma 3's rotation of layers without a window.
    pub(crate) fn global_rope(&self, head_dim: usize, theta: f64) -> Result<Rope, Error> {
        let inner = self.rope_map();
        let nested = inner.and_then(|m| m.get("full_attention")).and_then(Value::as_object);
        let inner = nested.or(inner);
        build_rope(head_dim, head_dim, self.theta(inner, "rope_theta", theta)?, inner)
    }

    /// Gemma 3's rotation of layers with one.
    pub(crate) fn local_rope(&self, head_dim: usize, theta: f64) -> Result<Rope, Error> {
        let nested = self.rope_map().and_then(|m| m.get("sliding_attention")).and_then(Value::as_object);
        let theta = match nested.map(Fields) {
            Some(inner) => inner.positive_or("rope_theta", theta)?,
            None => self.positive_or("rope_local_base_freq", theta)?,
        };
        build_rope(head_dim, head_dim, theta, nested)
    }

    /// Base of the rotary frequencies: in the rotary settings, or beside them.
    fn theta(&self, inner: Option<&Map<String, Value>>, key: &str, default: f64) -> Result<f64, Error> {
        let outer = self.positive_or(key, default)?;
        inner.map_or(Ok(outer), |inner| Fields(inner).positive_or(key, outer))
    }
}

/// A rotation with the scaling of `settings`.
fn build_rope(
    head_dim: usize,
    width: usize,
    theta: f64,
    settings: Option<&Map<String, Value>>,
) -> Result<Rope, Error> {
    if !width.is_multiple_of(2) || width == 0 {
        let expected = "an even, positive number of rotated entries";
        return Err(Error::config("head_dim", expected, format!("{width} of {head_dim}")));
    }
    let Some(map) = settings else { return Ok(Rope::new(width, theta, RopeScaling::Default)) };
    let kind = map.get("rope_type").or_else(|| map.get("type")).and_then(Value::as_str);
    let number = |key: &str| {
        let x = map.get(key).and_then(Value::as_f64).filter(|x| *x > 0.0);
        x.ok_or_else(|| {
            Error::config(format!("rope_parameters.{key}"), "a positive number", found(map.get(key)))
        })
    };
    let scaling = match kind.unwrap_or("default") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original: number("original_max_position_embeddings")?,
        },
        other => {
            return Err(Error::config("rope_parameters.rope_type", "default, linear or llama3", other));
        }
    };
    Ok(Rope::new(width, theta, scaling))
}

impl OwnFields {
    pub(crate) fn sizes(&self) -> Result<Sizes, Error> {
        Fields(&self.0).sizes()
    }

    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields(&self.0)
    }
}

impl Sizes {
    /// A Llama-like decoder of these sizes, without layers or rotations yet.
    pub(crate) fn architecture(&self, config: &Fields<'_>) -> Result<Architecture, Error> {
        Ok(Architecture {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            max_position_embeddings: self.max_position_embeddings,
            initializer_range: config.positive_or("initializer_range", 0.02)?,
            layers: Vec::new(),
            ropes: Vec::new(),
            padding: None,
            norm: NormKind::Rms,
            norm_eps: 1e-6,
            embedding_scale: 1.0,
            positions: Positions::Rotary,
            qkv: QkvLayout::Separate,
            qkv_bias: Bias::Without,
            o_bias: Bias::Without,
            qk_norm: QkNorm::None,
            attention_softcap: None,
            logit_softcap: None,
            mlp: MlpKind::Gated,
            activation: Activation::Silu,
            mlp_bias: Bias::Without,
            residual: Residual::Sequential,
            head: HeadKind::Untied,
        })
    }
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
        assert_eq!(five.architecture().ropes, [Rope::new(4, 5e5, llama3)]);
        let four =
            DecoderConfig::parse(&text(r#","rope_theta":1e6,"rope_scaling":{"type":"linear","factor":2}"#))
                .expect("valid");
        assert_eq!(four.architecture().ropes, [Rope::new(4, 1e6, RopeScaling::Linear { factor: 2.0 })]);
    }

    #[test]
    fn what_the_decoder_lacks_is_named() {
        let error = |change: &str| DecoderConfig::parse(&text(change)).expect_err("refused").to_string();
        assert!(error(r#","hidden_act":"mish""#).contains("hidden_act: expected silu, gelu"));
        assert!(
            error(r#","num_key_value_heads":3"#).contains("a divisor of num_attention_heads = 2, found 3")
        );
        assert!(error(r#","rope_scaling":{"rope_type":"yarn"}"#).contains("found yarn"));
        assert!(error(r#","rope_scaling":{"rope_type":"linear"}"#).contains("rope_parameters.factor"));
    }
}
