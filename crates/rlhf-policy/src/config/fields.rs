//! The keys of a config by name and type, and the sizes that all families have.

use std::fmt::Display;

use rlhf_kernels::Activation;
use serde_json::{Map, Value, json};

use crate::architecture::{
    Architecture, Bias, HeadKind, MlpKind, NormKind, Positions, QkNorm, QkvLayout, Residual,
};
use crate::config::generation::ids;
use crate::error::Error;

/// Most of what: beyond any model's, so that products of sizes stay far from a machine word's end.
const MOST_LAYERS: usize = 1 << 16;
const MOST_HEADS: usize = 1 << 16;
const MOST_WIDTH: usize = 1 << 24;
const MOST_TOKENS: usize = 1 << 31;

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

pub(super) fn found(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

impl<'a> Fields<'a> {
    pub(super) fn wrong(&self, key: &str, expected: impl Display) -> Error {
        Error::config(key, expected.to_string(), found(self.0.get(key)))
    }

    /// The value of `key`, where there is one that is not null.
    pub(super) fn given(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str, Error> {
        self.0.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a text"))
    }

    pub(crate) fn token(&self, key: &str) -> Option<u32> {
        ids(self.0.get(key)).first().copied()
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

    /// Labels of a classifier, where the config says how many.
    pub(super) fn labels(&self) -> Result<Option<usize>, Error> {
        if let Some(n) = self.size_or_none("num_labels")? {
            return Ok(Some(n));
        }
        match self.given("id2label") {
            None => Ok(None),
            Some(Value::Object(names)) if !names.is_empty() => Ok(Some(names.len())),
            Some(_) => Err(self.wrong("id2label", "an object of names, one a label")),
        }
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

    /// The same keys, with `default` under `key` where it is absent.
    pub(crate) fn with_absent(&self, key: &str, default: usize) -> OwnFields {
        let mut map = self.0.clone();
        map.entry(key).or_insert_with(|| json!(default));
        OwnFields(map)
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

    /// The same keys but these.
    pub(crate) fn without(&self, keys: &[&str]) -> OwnFields {
        let mut map = self.0.clone();
        map.retain(|key, _| !keys.contains(&key.as_str()));
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
        // A trunk without a block is a bag of embeddings: of use in tests and bandits.
        let layers = if self.0.get("num_hidden_layers").and_then(Value::as_u64) == Some(0) {
            0
        } else {
            self.size("num_hidden_layers")?
        };
        let up_to = |key: &str, n: usize, most: usize| {
            if n > most { Err(Error::config(key, format!("at most {most}"), n)) } else { Ok(n) }
        };
        Ok(Sizes {
            num_hidden_layers: up_to("num_hidden_layers", layers, MOST_LAYERS)?,
            head_dim: up_to("head_dim", head_dim, MOST_HEADS)?,
            vocab_size: up_to("vocab_size", self.size("vocab_size")?, MOST_TOKENS)?,
            hidden_size: up_to("hidden_size", hidden_size, MOST_WIDTH)?,
            intermediate_size: up_to("intermediate_size", self.size("intermediate_size")?, MOST_WIDTH)?,
            num_attention_heads: up_to("num_attention_heads", heads, MOST_HEADS)?,
            num_key_value_heads: kv,
            max_position_embeddings: up_to(
                "max_position_embeddings",
                self.size("max_position_embeddings")?,
                MOST_TOKENS,
            )?,
        })
    }
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
