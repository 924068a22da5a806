//! Gemma 2: a norm before and one after each part, soft-capped scores and logits, a window on every
//! other layer, embeddings times the root of their width.
//!
//! ```text
//! h ← h + n₂ · W_o · attention(n₁ h)        scores cap · tanh(q k scale / cap)
//! h ← h + n₄ · W_down (gelu(W_gate n₃ h) ⊙ W_up n₃ h)
//! logits = cap · tanh(E n(h) / cap)
//! ```
//!
//! Norms multiply with 1 + w.

use crate::architecture::{Architecture, Bias, HeadKind, NormKind, Residual};
use crate::config::Fields;
use crate::error::Error;
use crate::family::{Description, llama};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "gemma2",
    causal: "Gemma2ForCausalLM",
    classifier: "Gemma2ForSequenceClassification",
    names: &[],
    prefix: "model.",
    turned: &[],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    let mut it = gemma(config)?;
    it.attention_softcap = config.cap("attn_logit_softcapping", Some(50.0))?;
    it.logit_softcap = config.cap("final_logit_softcapping", Some(30.0))?;
    let window = config.size_or("sliding_window", 4096)?;
    let types = config.layer_types(it.layers.len())?;
    for (i, layer) in it.layers.iter_mut().enumerate() {
        let slides = types.as_ref().map_or(i % 2 == 0, |types| types[i].slides());
        layer.window = slides.then_some(window);
    }
    Ok(it)
}

/// What Gemma 2 and 3 share.
pub(super) fn gemma(config: &Fields<'_>) -> Result<Architecture, Error> {
    let config = &config.with_absent("num_key_value_heads", 4);
    let config = &config.fields().with_default("head_dim", 256);
    let config = &config.fields();
    let mut it = llama::base(config)?;
    it.norm = NormKind::RmsOffset;
    it.residual = Residual::Sandwich;
    it.activation = config.activation("hidden_activation", "gelu_pytorch_tanh")?;
    it.head = config.head(HeadKind::Tied)?;
    it.embedding_scale = (it.hidden_size as f64).sqrt();
    let attention_bias = Bias::when(config.flag("attention_bias", false)?);
    (it.qkv_bias, it.o_bias) = (attention_bias, attention_bias);
    let scale = 1.0 / config.positive_or("query_pre_attn_scalar", 256.0)?.sqrt();
    for layer in &mut it.layers {
        layer.scale = scale;
    }
    Ok(it)
}
