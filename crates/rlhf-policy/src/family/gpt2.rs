//! GPT-2: learned positions, layer norms, one map for queries, keys and values, biases everywhere.
//!
//! ```text
//! h₀ = E[tokens] + P[0 … T − 1]
//! h ← h + W_o · attention(W_qkv n(h));   h ← h + W_down gelu(W_up n(h))
//! ```
//!
//! Maps lie `[in, out]` on disk.

use crate::architecture::{Architecture, Bias, HeadKind, LayerPlan, MlpKind, NormKind, Positions, QkvLayout};
use crate::config::Fields;
use crate::error::Error;
use crate::family::Description;

pub(super) const DESCRIPTION: Description = Description {
    model_type: "gpt2",
    causal: "GPT2LMHeadModel",
    classifier: "GPT2ForSequenceClassification",
    names: &[
        ("model.embed_tokens", "transformer.wte"),
        ("model.embed_positions", "transformer.wpe"),
        ("model.layers", "transformer.h"),
        ("model.norm", "transformer.ln_f"),
        ("input_layernorm", "ln_1"),
        ("post_attention_layernorm", "ln_2"),
        ("self_attn", "attn"),
        ("qkv_proj", "c_attn"),
        ("o_proj", "c_proj"),
        ("up_proj", "c_fc"),
        ("down_proj", "c_proj"),
    ],
    prefix: "transformer.",
    turned: &["qkv_proj", "o_proj", "up_proj", "down_proj"],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    // One map makes queries, keys and values: a head of each, as wide as the stream has room for.
    let plain = config.without(&["num_key_value_heads", "head_dim"]);
    let renamed = plain.fields().renamed(&[
        ("n_embd", "hidden_size"),
        ("n_head", "num_attention_heads"),
        ("n_layer", "num_hidden_layers"),
        ("n_positions", "max_position_embeddings"),
        ("n_inner", "intermediate_size"),
    ]);
    let width = renamed.fields().size("hidden_size")?;
    let sizes = renamed.fields().with_default("intermediate_size", width.saturating_mul(4)).sizes()?;
    let scaled = config.flag("scale_attn_weights", true)?;
    let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;
    let scale = if scaled { 1.0 / (sizes.head_dim as f64).sqrt() } else { 1.0 };
    let layers = (1..=sizes.num_hidden_layers)
        .map(|i| LayerPlan {
            window: None,
            rope: None,
            scale: if by_layer { scale / i as f64 } else { scale },
        })
        .collect();
    Ok(Architecture {
        layers,
        norm: NormKind::Layer,
        norm_eps: config.positive_or("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Learned,
        qkv: QkvLayout::Concatenated,
        qkv_bias: Bias::With,
        o_bias: Bias::With,
        mlp: MlpKind::Plain,
        mlp_bias: Bias::With,
        activation: config.activation("activation_function", "gelu_new")?,
        head: config.head(HeadKind::Tied)?,
        ..sizes.architecture(config)?
    })
}
