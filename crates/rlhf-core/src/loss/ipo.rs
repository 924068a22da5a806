//! Identity Preference Optimization, on summed log-ratios and per token.
//!
//! ```text
//! ℓ = (Δ − 1/(2τ))²                  Δ = s⁺ − s⁻
//! per token:                         Δ = s⁺/n⁺ − s⁻/n⁻
//! ```
//!
//! Where: s⁺ and s⁻ are the scores ([`pair`](crate::pair)) of entries 0 and 1 of `policy` and
//! `reference` under `f_divergence`, τ is `beta`, n⁺ and n⁻ are `lengths`.
//! Paper: Azar et al., *A General Theoretical Paradigm to Understand Learning from Human
//! Preferences*, arXiv:2310.12036, Eq. 17.
//! Departures: none in [`ipo`]; [`ipo_per_token`] is TRL's `ipo`, which divides by the lengths (the
//! authors told TRL that their reported runs did). Other divergences than the reverse KL are TRL's.
//! Detached: `reference`, `lengths`, and both rewards of the result (τ times the log-ratio of the sums,
//! per token as well).

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::pair::{FDivergence, per_length_scalar, score_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{ipo, ipo_per_token};

/// Numbers of [`ipo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpoConfig {
    /// τ: the margin that is sought is 1/(2τ).
    pub beta: Beta,
    /// The divergence that holds the policy to the reference.
    pub f_divergence: FDivergence,
}

impl IpoConfig {
    /// Reverse KL: Eq. 17.
    pub fn new(beta: Beta) -> Self {
        Self { beta, f_divergence: FDivergence::ReverseKl }
    }
}

/// One pair's loss: the definition of [`ipo`].
///
/// ```
/// use rlhf_core::loss::ipo::{IpoConfig, ipo_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margin 2 where 1/(2 · 0.1) = 5 is sought: 3².
/// let loss = ipo_scalar(IpoConfig::new(Beta::new(0.1)?), [-3.0, -5.0f64], [-4.0, -4.0]);
/// assert!((loss - 9.0).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn ipo_scalar<R: Real>(config: IpoConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    ipo_per_token_scalar(config, policy, reference, [1.0; 2])
}

/// One pair's loss with scores per token: the definition of [`ipo_per_token`]. A length of 0 counts as 1.
pub fn ipo_per_token_scalar<R: Real>(
    config: IpoConfig,
    policy: [R; 2],
    reference: [f64; 2],
    lengths: [f64; 2],
) -> R {
    let score =
        |i: usize| per_length_scalar(score_scalar(config.f_divergence, policy[i] - reference[i]), lengths[i]);
    (score(0) - score(1) - 0.5 / config.beta.get()).square()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::IpoConfig;
    use crate::pair::{PairLoss, log_ratios, means, scores};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn ipo(config: IpoConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("ipo", policy, reference);
        let loss = of_scores(config, scores(config.f_divergence, ratios.clone()));
        PairLoss::new(loss, config.beta.get(), ratios)
    }

    /// The loss of each pair, its scores divided by the completions' lengths. The rewards are τ times
    /// the log-ratios of sums, as those of [`ipo`], not per token.
    ///
    /// # Shapes
    /// As [`ipo`]; `lengths` are the numbers of completion tokens, `[B]` each, at least 1 (a completion
    /// without tokens, 0, counts as 1).
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn ipo_per_token(
        config: IpoConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        lengths: [Tensor<1>; 2],
    ) -> PairLoss {
        let ratios = log_ratios("ipo_per_token", policy, reference);
        let per_token = means("ipo_per_token", scores(config.f_divergence, ratios.clone()), lengths);
        let loss = of_scores(config, per_token);
        PairLoss::new(loss, config.beta.get(), ratios)
    }

    fn of_scores(config: IpoConfig, [chosen, rejected]: [Tensor<1>; 2]) -> Tensor<1> {
        (chosen - rejected).sub_scalar(0.5 / config.beta.get()).square()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_is_at_the_margin_sought() {
        let config = IpoConfig::new(Beta::new(0.25).expect("positive"));
        let (loss, slope) =
            crate::real::gradient(&[1.5, -0.5], |p| ipo_scalar(config, [p[0], p[1]], [0.0; 2]));
        assert!(loss.abs() < 1e-15 && slope.iter().all(|g| g.abs() < 1e-15));
    }

    #[test]
    fn per_token_by_hand() {
        // 6/3 − (−4)/2 = 4, less 1/(2 · ½) = 1: 9.
        let config = IpoConfig::new(Beta::new(0.5).expect("positive"));
        let loss = ipo_per_token_scalar(config, [-1.0, -9.0], [-7.0, -5.0], [3.0, 2.0]);
        assert!((loss - 9.0).abs() < 1e-14);
    }
}
