//! Gemma 3, text only: Gemma 2 with normed queries and keys in place of soft caps, and two rotary
//! bases: one for the layers with a window, one for the rest.

use crate::architecture::{Architecture, QkNorm};
use crate::config::Fields;
use crate::error::Error;
use crate::family::{Description, gemma2};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "gemma3_text",
    causal: "Gemma3ForCausalLM",
    classifier: "Gemma3TextForSequenceClassification",
    names: &[],
    prefix: "model.",
    turned: &[],
    read,
};

fn read(config: &Fields<'_>) -> Result<Architecture, Error> {
    if config.flag("use_bidirectional_attention", false)? {
        return Err(Error::config("use_bidirectional_attention", "false", true));
    }
    let mut it = gemma2::gemma(config)?;
    it.qk_norm = QkNorm::Head;
    // `transformers` keeps `attn_logit_softcapping` in the config of this family and does not use it.
    it.attention_softcap = None;
    it.logit_softcap = config.cap("final_logit_softcapping", None)?;
    let d = it.head_dim;
    it.ropes = config.gemma3_ropes(d)?;
    let window = config.size_or("sliding_window", 4096)?;
    let pattern = config.size_or("sliding_window_pattern", config.size_or("_sliding_window_pattern", 6)?)?;
    let types = config.layer_types(it.layers.len())?;
    for (i, layer) in it.layers.iter_mut().enumerate() {
        let slides = types.as_ref().map_or(!(i + 1).is_multiple_of(pattern), |types| types[i].slides());
        layer.window = slides.then_some(window);
        layer.rope = Some(usize::from(slides));
    }
    Ok(it)
}
