//! `sampling.json`: which tokens the logits processors keep, and their probabilities.

use burn::tensor::Device;
use rlhf_core::host::sampling::Sampling;
use serde_json::{Map, Value};

use super::case::Case;
use super::compare::Computed;
use super::rows::softmax;

/// Parameters that describe the row, not the sampler.
const ROW: [&str; 2] = ["prompt_length_to_skip", "eos_token_id"];

const NAMES: [&str; 11] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon",
    "repetition_penalty",
    "no_repeat_ngram",
    "min_new_tokens",
    "temperature+top_k+top_p",
    "repetition+temperature+top_p",
];

/// The sampler is read by the names a config would give.
pub(super) fn check(case: &Case<'_>, _: &Device) -> Result<Computed, String> {
    if !NAMES.contains(&case.name()) || case.dtype() != "f32" {
        return Err(case.unknown());
    }
    let own = case.params().into_iter().filter(|(key, _)| !ROW.contains(key));
    let own: Map<String, Value> = own.map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let sampling: Sampling =
        serde_json::from_value(Value::Object(own)).map_err(|e| format!("params: {e}"))?;
    let history = case.input("input_ids")?.rows();
    let eos: Vec<u32> = match case.param(ROW[1]) {
        Some(ids) => super::case::Array::read(ids)?.values.iter().map(|i| *i as u32).collect(),
        None => Vec::new(),
    };
    let prompt = case.number_or(ROW[0], 0.0)? as usize;
    let (mut kept, mut probs) = (Vec::new(), Vec::new());
    for (row, history) in case.input("logits")?.rows().iter().zip(&history) {
        let mut logits: Vec<f32> = row.iter().map(|z| *z as f32).collect();
        let history: Vec<u32> = history.iter().map(|i| *i as u32).collect();
        sampling.process(&mut logits, &history, &eos, history.len().saturating_sub(prompt));
        kept.extend(logits.iter().map(|z| f64::from(u8::from(*z > f32::NEG_INFINITY))));
        let wide: Vec<f64> = logits.iter().map(|z| f64::from(*z)).collect();
        probs.extend(softmax(&wide));
    }
    let mut computed = Computed::default();
    computed.many("kept", kept);
    computed.many("probs", probs);
    Ok(computed)
}
