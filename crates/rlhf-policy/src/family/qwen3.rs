//! Qwen 3: Llama with an RMS norm on each head's query and key before they are rotated.

use crate::architecture::{Architecture, Bias, QkNorm};
use crate::config::Fields;
use crate::error::Error;
use crate::family::{Description, llama, qwen2};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "qwen3",
    causal: "Qwen3ForCausalLM",
    classifier: "Qwen3ForSequenceClassification",
    names: &[],
    prefix: "model.",
    turned: &[],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    let config = &config.with_absent("num_key_value_heads", 32);
    let config = &config.fields().with_default("head_dim", 128);
    let config = &config.fields();
    let mut it = llama::base(config)?;
    it.qk_norm = QkNorm::Head;
    let attention_bias = Bias::when(config.flag("attention_bias", false)?);
    (it.qkv_bias, it.o_bias) = (attention_bias, attention_bias);
    qwen2::windows(config, &mut it)?;
    Ok(it)
}
