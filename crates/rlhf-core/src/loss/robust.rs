//! Robust DPO: a loss whose mean over wrongly labelled pairs is that over the right ones.
//!
//! ```text
//! ℓ = [−(1 − ε) log σ(β Δ) + ε log σ(−β Δ)] / (1 − 2ε)          Δ = s⁺ − s⁻
//! ```
//!
//! Where: s⁺ and s⁻ are the scores ([`pair`](crate::pair)) of entries 0 and 1 of `policy` and
//! `reference` under `f_divergence`, β is `beta`, ε is `label_smoothing`.
//! Paper: Chowdhury et al., *Provably Robust DPO: Aligning Language Models with Noisy Feedback*,
//! arXiv:2403.00409, the unbiased loss of Section 3.
//! Departures: none for the reverse KL; other divergences are TRL's.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::{Beta, FlipRate};
use crate::pair::{FDivergence, score_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::robust;

/// Numbers of [`robust`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RobustConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// ε: how often a label is the wrong way round. 0 is DPO.
    pub label_smoothing: FlipRate,
    /// The divergence that holds the policy to the reference.
    pub f_divergence: FDivergence,
}

impl RobustConfig {
    /// Reverse KL: the paper's.
    pub fn new(beta: Beta, label_smoothing: FlipRate) -> Self {
        Self { beta, label_smoothing, f_divergence: FDivergence::ReverseKl }
    }
}

/// One pair's loss: the definition of [`robust`]. It may be negative: a pair far on the right side
/// is paid for what its wrongly labelled likes will cost.
///
/// ```
/// use rlhf_core::loss::robust::{RobustConfig, robust_scalar};
/// use rlhf_core::number::{Beta, FlipRate};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // β Δ = 1, a quarter wrong: [¾ log(1 + e⁻¹) − ¼ log(1 + e)] / ½ = log(1 + e⁻¹) − ½.
/// let config = RobustConfig::new(Beta::new(0.5)?, FlipRate::new(0.25)?);
/// let loss = robust_scalar(config, [-3.0, -5.0f64], [-4.0, -4.0]);
/// assert!((loss - -0.18673831248177715).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn robust_scalar<R: Real>(config: RobustConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let score = |i: usize| score_scalar(config.f_divergence, policy[i] - reference[i]);
    let x = (score(0) - score(1)) * config.beta.get();
    let eps = config.label_smoothing.get();
    ((-x).log_sigmoid() * eps - x.log_sigmoid() * (1.0 - eps)) / (1.0 - 2.0 * eps)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::RobustConfig;
    use crate::elementwise::log_sigmoid;
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
    pub fn robust(config: RobustConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("robust", policy, reference);
        let [chosen, rejected] = scores(config.f_divergence, ratios.clone());
        let x = (chosen - rejected).mul_scalar(config.beta.get());
        let eps = config.label_smoothing.get();
        let wrong = log_sigmoid(x.clone().neg()).mul_scalar(eps);
        let right = log_sigmoid(x).mul_scalar(1.0 - eps);
        let loss = (wrong - right).div_scalar(1.0 - 2.0 * eps);
        PairLoss::new(loss, config.beta.get(), ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::dpo::{DpoConfig, dpo_scalar};

    fn at(eps: f64, delta: f64) -> f64 {
        let config =
            RobustConfig::new(Beta::new(0.5).expect("positive"), FlipRate::new(eps).expect("below a half"));
        robust_scalar(config, [delta, 0.0], [0.0, 0.0])
    }

    fn dpo(delta: f64) -> f64 {
        dpo_scalar(DpoConfig::new(Beta::new(0.5).expect("positive")), [delta, 0.0], [0.0, 0.0])
    }

    #[test]
    fn its_mean_over_flipped_labels_is_dpo() {
        for (eps, delta) in [(0.0, 1.0), (0.1, -3.0), (0.3, 7.0), (0.45, 0.2)] {
            let mean = (1.0 - eps) * at(eps, delta) + eps * at(eps, -delta);
            assert!((mean - dpo(delta)).abs() < 1e-13, "{eps} {delta}");
        }
    }

    #[test]
    fn it_is_dpo_less_a_line() {
        // log σ(−x) = log σ(x) − x: ℓ = −log σ(x) − ε x / (1 − 2ε), x = Δ/2.
        for (eps, delta) in [(0.1, 2.0), (0.25, -9.0), (0.1, 5e3), (0.1, -5e3)] {
            let expected = dpo(delta) - eps * delta / 2.0 / (1.0 - 2.0 * eps);
            assert!((at(eps, delta) - expected).abs() <= 1e-13 * expected.abs().max(1.0), "{eps} {delta}");
        }
    }
}
