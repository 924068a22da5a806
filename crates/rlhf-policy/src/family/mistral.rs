//! Mistral: Llama with a sliding window on every layer.

use crate::architecture::Architecture;
use crate::config::Fields;
use crate::error::Error;
use crate::family::{Description, llama};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "mistral",
    causal: "MistralForCausalLM",
    classifier: "MistralForSequenceClassification",
    names: &[],
    prefix: "model.",
    turned: &[],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    let config = &config.with_absent("num_key_value_heads", 8);
    let config = &config.fields();
    let mut it = llama::base(config)?;
    // `transformers` has 4096 where the key is absent and no window where it is null.
    let window =
        if config.has("sliding_window") { config.size_or_none("sliding_window")? } else { Some(4096) };
    for layer in &mut it.layers {
        layer.window = window;
    }
    Ok(it)
}
