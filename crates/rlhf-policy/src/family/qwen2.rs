//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, and a window on the upper layers
//! where `use_sliding_window` asks for one.

use crate::architecture::{Architecture, Bias};
use crate::config::Fields;
use crate::error::Error;
use crate::family::{Description, llama};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "qwen2",
    causal: "Qwen2ForCausalLM",
    classifier: "Qwen2ForSequenceClassification",
    names: &[],
    prefix: "model.",
    turned: &[],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    let config = &config.with_absent("num_key_value_heads", 32);
    let config = &config.fields();
    let mut it = llama::base(config)?;
    it.qkv_bias = Bias::With;
    windows(config, &mut it)?;
    Ok(it)
}

/// The window of each layer, by `layer_types` or from `max_window_layers` on.
pub(super) fn windows(config: &Fields<'_>, it: &mut Architecture) -> Result<(), Error> {
    if !config.flag("use_sliding_window", false)? {
        return Ok(());
    }
    let window = config.size_or_none("sliding_window")?.or(if config.has("sliding_window") {
        None
    } else {
        Some(4096)
    });
    let first = config.size_or("max_window_layers", 28)?;
    let types = config.layer_types(it.layers.len())?;
    for (i, layer) in it.layers.iter_mut().enumerate() {
        let slides = types.as_ref().map_or(i >= first, |types| types[i].slides());
        layer.window = window.filter(|_| slides);
    }
    Ok(())
}
