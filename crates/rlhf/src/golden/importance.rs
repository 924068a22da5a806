//! `importance_ratio.json`: weights for completions that the inference engine sampled, truncated or
//! masked, of tokens or of sequences.

use burn::tensor::Device;
use rlhf_core::host::interval::Interval;
use rlhf_core::host::off_policy::{Correction, correction_weights};

use super::case::Case;
use super::compare::Computed;

pub(super) fn check(case: &Case<'_>, _device: &Device) -> Result<Computed, String> {
    case.knows_only(&["mode", "clip_min", "clip_max"])?;
    let (low, high) =
        (case.number_or("clip_min", f64::NEG_INFINITY)?, case.number_or("clip_max", f64::INFINITY)?);
    let within = Interval::new(low, high).map_err(|e| e.to_string())?;
    let (correction, sequence) = match case.text("mode")? {
        "token_truncate" => (Correction::TokenTruncate(within), false),
        "token_mask" => (Correction::TokenMask(within), false),
        "sequence_truncate" => (Correction::SequenceTruncate(within), true),
        "sequence_mask" => (Correction::SequenceMask(within), true),
        _ => return Err(case.unknown()),
    };
    if case.name() != case.text("mode")? || !matches!(case.dtype(), "f64" | "f32") {
        return Err(case.unknown());
    }
    let (old, sampling) = (case.input("old_logps")?.rows(), case.input("sampling_logps")?.rows());
    let mask = case.input("completion_mask")?.rows();
    let tokens = |i: usize| (0..mask[i].len()).filter(|t| mask[i][*t] > 0.0).collect::<Vec<_>>();
    let log_ratio = |i: usize| tokens(i).into_iter().map(|t| old[i][t] - sampling[i][t]).collect();
    let log_ratio: Vec<Vec<f64>> = (0..mask.len()).map(log_ratio).collect();
    let weights = correction_weights(correction, &log_ratio);
    let row = |i: usize| -> Vec<f64> {
        if sequence {
            // TRL's shape is [B, 1].
            return vec![weights[i][0]];
        }
        // TRL's padding has the log-ratio 0.
        let mut padded = vec![1.0; mask[i].len()];
        tokens(i).into_iter().zip(&weights[i]).for_each(|(t, w)| padded[t] = *w);
        padded
    };
    let mut computed = Computed::default();
    computed.many("ratio", (0..mask.len()).flat_map(row).collect());
    Ok(computed)
}
