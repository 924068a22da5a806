//! Llama: RMS norm, rotary positions, grouped-query attention, SwiGLU.
//!
//! ```text
//! h ← h + W_o · attention(rope(W_q n(h)), rope(W_k n(h)), W_v n(h))
//! h ← h + W_down (silu(W_gate n(h)) ⊙ W_up n(h))
//! ```

use crate::architecture::{Architecture, Bias, HeadKind, LayerPlan, QkNorm};
use crate::config::Fields;
use crate::error::Error;
use crate::family::Description;

pub(super) const DESCRIPTION: Description = Description {
    model_type: "llama",
    causal: "LlamaForCausalLM",
    classifier: "LlamaForSequenceClassification",
    names: &[],
    prefix: "model.",
    turned: &[],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    let mut it = base(config)?;
    let attention_bias = Bias::when(config.flag("attention_bias", false)?);
    (it.qkv_bias, it.o_bias) = (attention_bias, attention_bias);
    it.mlp_bias = Bias::when(config.flag("mlp_bias", false)?);
    Ok(it)
}

/// What the Llama-like families share: everything but biases, windows and norms of queries.
pub(super) fn base(config: &Fields<'_>) -> Result<Architecture, Error> {
    let sizes = config.sizes()?;
    // Without a block nothing turns, and a head may be of any width.
    let ropes = if sizes.num_hidden_layers == 0 { Vec::new() } else { vec![config.rope(sizes.head_dim)?] };
    let scale = 1.0 / (sizes.head_dim as f64).sqrt();
    let layer = LayerPlan { window: None, rope: Some(0), scale };
    Ok(Architecture {
        ropes,
        padding: config.token("pad_token_id"),
        layers: vec![layer; sizes.num_hidden_layers],
        activation: config.activation("hidden_act", "silu")?,
        norm_eps: config.positive_or("rms_norm_eps", 1e-6)?,
        head: config.head(HeadKind::Untied)?,
        qk_norm: QkNorm::None,
        ..sizes.architecture(config)?
    })
}
