//! Geometric-Mean Policy Optimization: the geometric mean of a completion's clipped ratios.
//!
//! ```text
//! ℓ = −A exp(1/|y| Σ_t c_t)          c_t = min(log r_t, ε_high)   where A > 0
//!                                    c_t = max(log r_t, −ε_low)   elsewhere
//! ```
//!
//! Where: r_t is the ratio of `logp` to `old_logp` ([`token`](crate::token)), |y| the number of
//! tokens that `mask` lets through, A is `advantage`, ε_low and ε_high are `epsilon_low` and
//! `epsilon_high`.
//! Paper: Zhao et al., *Geometric-Mean Policy Optimization*, arXiv:2507.20673 (its objective, in words).
//! Departures: none. The sign of A, which the paper writes as a factor, chooses the side that is
//! clipped, as in TRL. A sequence without tokens costs 0, in TRL −A. The log of the mean is held at 80.
//! Detached: `old_logp`, `advantage`, and the result's ratio.

use serde::{Deserialize, Serialize};

use crate::mask::sequence_mean_scalar;
use crate::number::Weight;
use crate::real::Real;
use crate::token::MAX_LOG_RATIO;

#[cfg(feature = "burn")]
pub use tensor::gmpo;

/// The range that a token's log-ratio may move in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GmpoConfig {
    /// ε_low, in nats: a token whose ratio is below e^{−ε_low} has no gradient where A ≤ 0.
    pub epsilon_low: Weight,
    /// ε_high, in nats: a token whose ratio is above e^{ε_high} has no gradient where A > 0.
    pub epsilon_high: Weight,
}

impl GmpoConfig {
    /// The same ε on both sides; the paper's is 0.4.
    pub fn new(epsilon: Weight) -> Self {
        Self { epsilon_low: epsilon, epsilon_high: epsilon }
    }
}

/// One sequence's loss: the definition of [`gmpo`].
///
/// ```
/// use rlhf_core::loss::gmpo::{GmpoConfig, gmpo_scalar};
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Log-ratios −1 and 3, the second held at 1: −2 exp(0).
/// let config = GmpoConfig::new(Weight::new(1.0)?);
/// let loss = gmpo_scalar(config, &[-1.0f64, 3.0], &[0.0, 0.0], 2.0, &[true, true]);
/// assert!((loss + 2.0).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn gmpo_scalar<R: Real>(
    config: GmpoConfig,
    logp: &[R],
    old_logp: &[f64],
    advantage: f64,
    mask: &[bool],
) -> R {
    assert_eq!(old_logp.len(), logp.len(), "gmpo: old_logp: another length than logp");
    assert_eq!(mask.len(), logp.len(), "gmpo: mask: another length than logp");
    if !mask.contains(&true) {
        return R::from(0.0);
    }
    let (low, high) = if advantage > 0.0 {
        (f64::NEG_INFINITY, config.epsilon_high.get())
    } else {
        (-config.epsilon_low.get(), f64::INFINITY)
    };
    let clipped: Vec<R> = logp.iter().zip(old_logp).map(|(x, old)| (*x - *old).clamp(low, high)).collect();
    let log_mean = sequence_mean_scalar(&clipped, mask).clamp(f64::NEG_INFINITY, MAX_LOG_RATIO);
    log_mean.exp() * -advantage
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::GmpoConfig;
    use crate::mask::{lengths, masked, per_token, sequence_mean};
    use crate::shape::same;
    use crate::token::{MAX_LOG_RATIO, SequenceLoss};

    /// The loss of each sequence; one without tokens has a loss of 0 and a ratio of 1.
    ///
    /// # Shapes
    /// `logp`, `old_logp` and `mask` are `[B, T]`; `advantage` and each field of the result are
    /// `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn gmpo(
        config: GmpoConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<1>,
        mask: &Tensor<2, Bool>,
    ) -> SequenceLoss {
        let [b, t] = logp.dims();
        same("gmpo", "old_logp", old_logp.dims(), [b, t]);
        same("gmpo", "advantage", advantage.dims(), [b]);
        let log_ratio = masked("gmpo", logp - old_logp.detach(), mask);
        let advantage = advantage.detach();
        let gains = per_token(advantage.clone().greater_elem(0.0).float(), t).greater_elem(0.5);
        let held_below = log_ratio.clone().clamp_min(-config.epsilon_low.get());
        let held_above = log_ratio.clamp_max(config.epsilon_high.get());
        let clipped = held_below.mask_where(gains, held_above);
        let ratio = sequence_mean(clipped, mask).clamp_max(MAX_LOG_RATIO).exp();
        let advantage = advantage.mask_fill(lengths(mask).lower_elem(0.5), 0.0);
        SequenceLoss { loss: (ratio.clone() * advantage).neg(), ratio: ratio.detach() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config() -> GmpoConfig {
        let weight = |x| Weight::new(x).expect("a weight");
        GmpoConfig { epsilon_low: weight(0.4), epsilon_high: weight(0.6) }
    }

    #[test]
    fn only_the_gaining_side_is_clipped() {
        let run = |advantage: f64| {
            gradient(&[2.0, -3.0], |x| gmpo_scalar(config(), x, &[0.0; 2], advantage, &[true; 2]))
        };
        // A > 0: (0.6 − 3) / 2 = −1.2, the first token without gradient.
        let (value, slope) = run(1.0);
        assert!((value + (-1.2f64).exp()).abs() < 1e-15);
        assert!(slope[0].abs() <= 0.0 && (slope[1] - 0.5 * value).abs() < 1e-15);
        // A < 0: (2 − 0.4) / 2 = 0.8, the second without.
        let (value, slope) = run(-1.0);
        assert!((value - 0.8f64.exp()).abs() < 1e-15);
        assert!(slope[1].abs() <= 0.0 && (slope[0] - 0.5 * value).abs() < 1e-15);
    }

    #[test]
    fn without_clipping_it_is_the_sequence_ratio() {
        use crate::loss::gspo::sequence_ratio_scalar;
        let (logp, old, mask) = ([-1.0, -1.2, f64::NAN], [-1.1, -0.9, 0.0], [true, true, false]);
        let found = gmpo_scalar(config(), &logp, &old, 1.5, &mask);
        assert!((found + 1.5 * sequence_ratio_scalar(&logp, &old, &mask)).abs() < 1e-15);
    }

    #[test]
    fn a_sequence_without_tokens_costs_nothing() {
        assert!(gmpo_scalar(config(), &[f64::NAN], &[0.0], 3.0, &[false]).abs() <= 0.0);
    }

    #[test]
    #[should_panic(expected = "gmpo: mask: another length than logp")]
    fn a_mask_of_another_length() {
        let _ = gmpo_scalar(config(), &[0.0; 2], &[0.0; 2], 3.0, &[]);
    }
}
