//! DiscoPOP, the log-ratio modulated loss: logistic for pairs on the wrong side, exponential on the
//! right one.
//!
//! ```text
//! ℓ = (1 − m) · (−log σ(x)) + m · e⁻ˣ          m = σ(x/τ), x = β Δ, Δ = s⁺ − s⁻
//! ```
//!
//! Where: s⁺ and s⁻ are the scores ([`pair`](crate::pair)) of entries 0 and 1 of `policy` and
//! `reference` under `f_divergence`, β is `beta`, τ is `discopop_tau`.
//! Paper: Lu et al., *Discovering Preference Optimization Algorithms with and for Large Language
//! Models*, arXiv:2406.08414, Eq. 5.
//! Departures: none for the reverse KL; other divergences are TRL's.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Positive};
use crate::pair::{FDivergence, score_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::discopop;

/// Numbers of [`discopop`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscopopConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// τ: how wide the change from one loss to the other is, in units of β Δ; 0.05 in the paper. Above
    /// 1 the loss of a pair far on the wrong side grows as e^{(1 − 1/τ) |x|}.
    pub discopop_tau: Positive,
    /// The divergence that holds the policy to the reference.
    pub f_divergence: FDivergence,
}

impl DiscopopConfig {
    /// Reverse KL: Eq. 5.
    pub fn new(beta: Beta, discopop_tau: Positive) -> Self {
        Self { beta, discopop_tau, f_divergence: FDivergence::ReverseKl }
    }
}

/// One pair's loss: the definition of [`discopop`].
///
/// ```
/// use rlhf_core::loss::discopop::{DiscopopConfig, discopop_scalar};
/// use rlhf_core::number::{Beta, Positive};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // No margin: half of log 2, half of e⁰.
/// let config = DiscopopConfig::new(Beta::new(0.1)?, Positive::new(0.05)?);
/// let loss = discopop_scalar(config, [-3.0, -5.0f64], [-3.0, -5.0]);
/// assert!((loss - 0.8465735902799727).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn discopop_scalar<R: Real>(config: DiscopopConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let score = |i: usize| score_scalar(config.f_divergence, policy[i] - reference[i]);
    let x = (score(0) - score(1)) * config.beta.get();
    let z = x / config.discopop_tau.get();
    // m e⁻ˣ in one exponential: far on the wrong side it would be 0 · ∞.
    (-z).sigmoid() * (-x).softplus() + (z.log_sigmoid() - x).exp()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::DiscopopConfig;
    use crate::elementwise::{log_sigmoid, sigmoid, softplus};
    use crate::pair::{PairLoss, log_ratios, scores};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn discopop(config: DiscopopConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("discopop", policy, reference);
        let [chosen, rejected] = scores(config.f_divergence, ratios.clone());
        let x = (chosen - rejected).mul_scalar(config.beta.get());
        let z = x.clone().div_scalar(config.discopop_tau.get());
        let logistic = sigmoid(z.clone().neg()) * softplus(x.clone().neg());
        let exponential = (log_sigmoid(z) - x).exp();
        PairLoss::new(logistic + exponential, config.beta.get(), ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config(tau: f64) -> DiscopopConfig {
        DiscopopConfig::new(Beta::new(0.5).expect("positive"), Positive::new(tau).expect("positive"))
    }

    fn at(tau: f64, delta: f64) -> f64 {
        discopop_scalar(config(tau), [delta, 0.0], [0.0, 0.0])
    }

    #[test]
    fn far_from_the_middle_one_of_the_two_is_left() {
        // |x| = 1 at τ = 0.05: the other's weight is e⁻²⁰.
        assert!((at(0.05, 2.0) - (-1f64).exp()).abs() < 1e-8);
        assert!((at(0.05, -2.0) - (1.0 + (-1f64).exp().ln_1p())).abs() < 1e-8);
    }

    #[test]
    fn at_tau_1_the_exponential_part_is_a_sigmoid() {
        // σ(x) e⁻ˣ = σ(−x): ℓ = σ(−x) (softplus(−x) + 1).
        for x in [-8.0f64, -0.5, 0.0, 3.0] {
            let expected = (1.0 + x.exp()).recip() * ((-x).exp().ln_1p() + 1.0);
            assert!((at(1.0, 2.0 * x) - expected).abs() < 1e-14 * expected.max(1.0), "{x}");
        }
    }

    #[test]
    fn a_pair_far_on_the_wrong_side_is_pulled_as_by_dpo() {
        let (loss, slope) = gradient(&[-5e3, 0.0], |p| discopop_scalar(config(0.05), [p[0], p[1]], [0.0; 2]));
        // x = −2500: the logistic loss is −x, its slope −β.
        assert!((loss - 2500.0).abs() < 1e-9 && (slope[0] + 0.5).abs() < 1e-15, "{loss} {slope:?}");
        assert!(at(0.05, 5e3).abs() <= 0.0);
    }
}
