//! From a nested batch to the update of the whole policy.
//!
//! ```text
//! ρ_t = π(o_t) / b(o_t)          r_t = π_θ(o_t) / π(o_t)          w = correction(ρ)
//! ℓ_t = −w_t min(r_t A, clip(r_t, 1 − ε_low, 1 + ε_high) A) + β KL_t
//! ```
//!
//! Where: b are the blocks that drew the completion, π is the whole policy as it stood then, π_θ as it is
//! now, after some updates on the same batch. The two ratios are apart: ρ is a number that no gradient
//! flows through and that no clip cuts, r is the one that is clipped. The KL is not weighted; so does TRL
//! 1.16 with the mismatch of its inference engine (`grpo_trainer.py`, `importance_sampling_ratio`), whose
//! token and sequence modes are `token_truncate`, `token_mask`, `sequence_truncate` and `sequence_mask`
//! here.
//! Paper: Heuillet et al., *Nested-ReFT*, arXiv:2508.10123; its three variants are not known to us by
//! formula, so the whole family of [`Correction`] is here.

use std::fmt;

use rlhf_core::host::interval::Interval;
use rlhf_core::host::off_policy::{Correction, correction_weights, diagnostics};
use rlhf_core::number::Prob;
use rlhf_policy::batch::Sequence;
use rlhf_policy::group;
use serde::{Deserialize, Serialize};

use crate::behavior::NestedBatch;

/// What is done about completions that other blocks drew. Written `"base_clip"`, or as a [`Correction`]
/// is: `"none"`, `"sequence"`, `{"token_truncate": [0.0, 2.0]}`, `{"retrace_token": 1.0}`, …
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "Named")]
pub enum RolloutCorrection {
    /// b in place of π in r, and no weights. It stalls: a token that π already prefers to b has
    /// ρ > 1 + ε, so that its gradient is cut where A > 0.
    BaseClip,
    /// w of ρ on the surrogate.
    #[serde(untagged)]
    Weights(Correction),
}

/// All of them side by side, as they are written: an error then names the value at fault.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Named {
    BaseClip,
    None,
    Token,
    Prefix,
    Sequence,
    Geometric,
    TokenTruncate(Interval),
    TokenMask(Interval),
    SequenceTruncate(Interval),
    SequenceMask(Interval),
    GeometricMask(Interval),
    RetraceToken(Prob),
    RetraceTraces(Prob),
}

impl From<Named> for RolloutCorrection {
    fn from(named: Named) -> Self {
        Self::Weights(match named {
            Named::BaseClip => return Self::BaseClip,
            Named::None => Correction::None,
            Named::Token => Correction::Token,
            Named::Prefix => Correction::Prefix,
            Named::Sequence => Correction::Sequence,
            Named::Geometric => Correction::Geometric,
            Named::TokenTruncate(within) => Correction::TokenTruncate(within),
            Named::TokenMask(within) => Correction::TokenMask(within),
            Named::SequenceTruncate(within) => Correction::SequenceTruncate(within),
            Named::SequenceMask(within) => Correction::SequenceMask(within),
            Named::GeometricMask(within) => Correction::GeometricMask(within),
            Named::RetraceToken(lambda) => Correction::RetraceToken(lambda),
            Named::RetraceTraces(lambda) => Correction::RetraceTraces(lambda),
        })
    }
}

impl fmt::Display for RolloutCorrection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BaseClip => "base_clip",
            Self::Weights(weights) => match weights {
                Correction::None => "none",
                Correction::Token => "token",
                Correction::Prefix => "prefix",
                Correction::Sequence => "sequence",
                Correction::Geometric => "geometric",
                Correction::TokenTruncate(_) => "token_truncate",
                Correction::TokenMask(_) => "token_mask",
                Correction::SequenceTruncate(_) => "sequence_truncate",
                Correction::SequenceMask(_) => "sequence_mask",
                Correction::GeometricMask(_) => "geometric_mask",
                Correction::RetraceToken(_) => "retrace_token",
                Correction::RetraceTraces(_) => "retrace_traces",
            },
        })
    }
}

/// How far the blocks that drew a batch are from the policy, by name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NestedRecord {
    /// Blocks left out.
    #[serde(rename = "nested/n_skipped")]
    pub n_skipped: usize,
    /// Their share of all blocks.
    #[serde(rename = "nested/skipped_ratio")]
    pub skipped_ratio: f64,
    /// Mean of ρ over tokens, about 1: far from it, the recorded log-probabilities are not those of the
    /// distribution that was drawn from.
    #[serde(rename = "nested/mean_ratio")]
    pub mean_ratio: f64,
    /// The mean of −Σ_t log ρ_t over completions, nats: an estimate of KL(b ‖ π).
    #[serde(rename = "nested/kl")]
    pub kl: f64,
    /// The effective number of completions under weights of Π ρ.
    #[serde(rename = "nested/effective_sample_size")]
    pub effective_sample_size: f64,
    /// Share of tokens on which the correction's bound acts.
    #[serde(rename = "nested/share_bounded")]
    pub share_bounded: f64,
    /// Mean of |log ρ| over tokens, TRL's name.
    #[serde(rename = "sampling/sampling_logp_difference/mean")]
    pub logp_difference_mean: f64,
    /// The largest.
    #[serde(rename = "sampling/sampling_logp_difference/max")]
    pub logp_difference_max: f64,
    /// The smallest weight of a token, TRL's name.
    #[serde(rename = "sampling/importance_sampling_ratio/min")]
    pub weight_min: f64,
    /// The mean weight.
    #[serde(rename = "sampling/importance_sampling_ratio/mean")]
    pub weight_mean: f64,
    /// The largest weight.
    #[serde(rename = "sampling/importance_sampling_ratio/max")]
    pub weight_max: f64,
    /// Mean reward of the completions that some blocks drew; the caller knows it.
    #[serde(rename = "nested/rollout_reward", skip_serializing_if = "Option::is_none")]
    pub rollout_reward: Option<f64>,
    /// Mean reward of completions of the whole policy, where the caller measures it.
    #[serde(rename = "nested/policy_reward", skip_serializing_if = "Option::is_none")]
    pub policy_reward: Option<f64>,
}

/// What the update needs of a nested batch, rows as its completions.
#[derive(Debug, Clone, PartialEq)]
pub struct Corrected {
    /// What r is divided by: log π, or log b under [`RolloutCorrection::BaseClip`].
    pub old_logp: Vec<Vec<f64>>,
    /// w, one number a token; none where all are 1.
    pub weights: Option<Vec<Vec<f64>>>,
    /// Diagnostics of the batch.
    pub record: NestedRecord,
}

/// Old log-probabilities and weights of a batch. Where no block was left out b is π, and nothing is
/// corrected, whatever rounding makes of their difference: that is GRPO, bit for bit. The record has what
/// was measured, so that it then shows how far sampling and scoring differ.
///
/// # Panics
/// On a batch without tokens, or lists of different lengths.
#[track_caller]
pub fn correct(correction: RolloutCorrection, batch: &NestedBatch) -> Corrected {
    let log_ratio = batch.log_ratio();
    assert!(log_ratio.iter().any(|row| !row.is_empty()), "correct: batch: expected a token, found none");
    let is_nested = !batch.blocks.skipped.is_empty();
    let (base_clip, applied) = match correction {
        RolloutCorrection::BaseClip => (is_nested, Correction::None),
        RolloutCorrection::Weights(weights) if is_nested => (false, weights),
        RolloutCorrection::Weights(_) => (false, Correction::None),
    };
    let behavior = || batch.rollouts.iter().map(|r| r.behavior_logp.clone()).collect();
    let weights = correction_weights(applied, &log_ratio);
    Corrected {
        old_logp: if base_clip { behavior() } else { batch.policy_logp.clone() },
        record: record(batch, applied, &log_ratio, &weights),
        weights: (applied != Correction::None).then_some(weights),
    }
}

fn record(
    batch: &NestedBatch,
    applied: Correction,
    log_ratio: &[Vec<f64>],
    weights: &[Vec<f64>],
) -> NestedRecord {
    let seen = diagnostics(applied, log_ratio);
    let n = seen.n_tokens as f64;
    let gaps = || log_ratio.iter().flatten().map(|x| x.abs());
    let weights = || weights.iter().flatten().copied();
    NestedRecord {
        n_skipped: batch.blocks.skipped.len(),
        skipped_ratio: batch.blocks.ratio(),
        mean_ratio: seen.mean_ratio,
        kl: seen.kl,
        effective_sample_size: seen.effective_sample_size,
        share_bounded: seen.share_bounded,
        logp_difference_mean: gaps().sum::<f64>() / n,
        logp_difference_max: gaps().fold(0.0, f64::max),
        weight_min: weights().fold(f64::INFINITY, f64::min),
        weight_mean: weights().sum::<f64>() / n,
        weight_max: weights().fold(f64::NEG_INFINITY, f64::max),
        rollout_reward: None,
        policy_reward: None,
    }
}

impl Corrected {
    /// Completion `i` for [`group::grpo_gradients`].
    ///
    /// # Panics
    /// On a completion that is not there.
    #[track_caller]
    pub fn rollout<'a>(
        &'a self,
        i: usize,
        sequence: &'a Sequence,
        advantage: f64,
        reference_logp: Option<&'a [f64]>,
    ) -> group::Rollout<'a> {
        group::Rollout {
            sequence,
            old_logp: Some(&self.old_logp[i]),
            reference_logp,
            weight: self.weights.as_ref().map(|w| w[i].as_slice()),
            advantage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correction_is_written_by_name() {
        let within = Interval::new(0.0, 2.0).expect("ordered");
        let cases = [
            (RolloutCorrection::BaseClip, r#""base_clip""#),
            (RolloutCorrection::Weights(Correction::None), r#""none""#),
            (RolloutCorrection::Weights(Correction::Sequence), r#""sequence""#),
            (
                RolloutCorrection::Weights(Correction::TokenTruncate(within)),
                r#"{"token_truncate":[0.0,2.0]}"#,
            ),
            (RolloutCorrection::Weights(Correction::RetraceToken(Prob::ONE)), r#"{"retrace_token":1.0}"#),
        ];
        for (correction, text) in cases {
            assert_eq!(serde_json::to_string(&correction).expect("written"), text);
            assert_eq!(serde_json::from_str::<RolloutCorrection>(text).expect("read"), correction);
            assert!(text.contains(&correction.to_string()));
        }
        for (text, expected) in [
            (r#""tis""#, "expected one of `base_clip`, `none`, `token`, `prefix`, `sequence`"),
            (r#"{"retrace_token":1.5}"#, "expected a number from 0 to 1, found 1.5"),
            (r#"{"token_mask":[2.0,1.0]}"#, "expected an upper end not below the lower one, found 1"),
        ] {
            let error = serde_json::from_str::<RolloutCorrection>(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
