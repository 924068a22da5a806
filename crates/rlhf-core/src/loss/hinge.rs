//! Hinge loss on the margin of a preference pair.
//!
//! ```text
//! ℓ = max(0, 1 − β Δ)                Δ = s⁺ − s⁻
//! ```
//!
//! Where: s⁺ and s⁻ are the scores ([`pair`](crate::pair)) of entries 0 and 1 of `policy` and
//! `reference` under `f_divergence`, β is `beta`.
//! Paper: Zhao et al., *SLiC-HF: Sequence Likelihood Calibration with Human Feedback*,
//! arXiv:2305.10425, Eq. 1 (its calibration term).
//! Departures: the paper's margin is of log-probabilities, here of log-ratios to a reference and the
//! 1 is its δ, as in Liu et al., *Statistical Rejection Sampling Improves Preference Optimization*,
//! arXiv:2309.06657, Eq. 10. `pair::reference_free` gives the first reading.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::pair::{FDivergence, score_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::hinge;

/// Numbers of [`hinge`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HingeConfig {
    /// β: the margin that costs nothing is 1/β.
    pub beta: Beta,
    /// The divergence that holds the policy to the reference.
    pub f_divergence: FDivergence,
}

impl HingeConfig {
    /// Reverse KL.
    pub fn new(beta: Beta) -> Self {
        Self { beta, f_divergence: FDivergence::ReverseKl }
    }
}

/// One pair's loss: the definition of [`hinge`].
///
/// ```
/// use rlhf_core::loss::hinge::{HingeConfig, hinge_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margin 3 at β = ¼: 1 − ¾.
/// let loss = hinge_scalar(HingeConfig::new(Beta::new(0.25)?), [-5.0, -8.0f64], [-6.0, -6.0]);
/// assert!((loss - 0.25).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn hinge_scalar<R: Real>(config: HingeConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let score = |i: usize| score_scalar(config.f_divergence, policy[i] - reference[i]);
    (-(score(0) - score(1)) * config.beta.get() + 1.0).relu()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;
    use burn::tensor::activation::relu;

    use super::HingeConfig;
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
    pub fn hinge(config: HingeConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("hinge", policy, reference);
        let [chosen, rejected] = scores(config.f_divergence, ratios.clone());
        let loss = relu((rejected - chosen).mul_scalar(config.beta.get()).add_scalar(1.0));
        PairLoss::new(loss, config.beta.get(), ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_of_one_over_beta_is_enough() {
        let config = HingeConfig::new(Beta::new(0.5).expect("positive"));
        assert!(hinge_scalar(config, [2.0, 0.0], [0.0, 0.0]).abs() <= 0.0);
        assert!((hinge_scalar(config, [-1.0, 0.0], [0.0, 0.0]) - 1.5).abs() < 1e-15);
    }
}
