//! GPT-NeoX and Pythia: layer norms, a part of each head rotated, attention and feed-forward side by
//! side.
//!
//! ```text
//! h ← h + W_o · attention(W_qkv n₁(h)) + W_down gelu(W_up n₂(h))
//! ```

use crate::architecture::{Architecture, Bias, HeadKind, LayerPlan, MlpKind, NormKind, QkvLayout, Residual};
use crate::config::Fields;
use crate::error::Error;
use crate::family::Description;

pub(super) const DESCRIPTION: Description = Description {
    model_type: "gpt_neox",
    causal: "GPTNeoXForCausalLM",
    classifier: "GPTNeoXForSequenceClassification",
    names: &[
        ("model.embed_tokens", "gpt_neox.embed_in"),
        ("model.layers", "gpt_neox.layers"),
        ("model.norm", "gpt_neox.final_layer_norm"),
        ("lm_head", "embed_out"),
        ("self_attn", "attention"),
        ("qkv_proj", "query_key_value"),
        ("o_proj", "dense"),
        ("up_proj", "dense_h_to_4h"),
        ("down_proj", "dense_4h_to_h"),
    ],
    prefix: "gpt_neox.",
    turned: &[],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    // One map makes queries, keys and values: a head of each, as wide as the stream has room for.
    let sizes = config.without(&["num_key_value_heads", "head_dim"]).sizes()?;
    let rope = config.partial_rope(sizes.head_dim)?;
    let layer = LayerPlan { window: None, rope: Some(0), scale: 1.0 / (sizes.head_dim as f64).sqrt() };
    let attention_bias = Bias::when(config.flag("attention_bias", true)?);
    let parallel = config.flag("use_parallel_residual", true)?;
    Ok(Architecture {
        ropes: vec![rope],
        layers: vec![layer; sizes.num_hidden_layers],
        norm: NormKind::Layer,
        norm_eps: config.positive_or("layer_norm_eps", 1e-5)?,
        qkv: QkvLayout::Interleaved,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp: MlpKind::Plain,
        mlp_bias: Bias::With,
        residual: if parallel { Residual::Parallel } else { Residual::Sequential },
        activation: config.activation("hidden_act", "gelu")?,
        head: config.head(HeadKind::Untied)?,
        ..sizes.architecture(config)?
    })
}
