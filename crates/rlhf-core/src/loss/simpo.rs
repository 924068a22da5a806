//! Simple Preference Optimization: the mean log-probability as reward, with a margin.
//!
//! ```text
//! ℓ = −(1 − ε) log σ(x) − ε log σ(−x)
//! x = β (log π(y⁺|x)/n⁺ − log π(y⁻|x)/n⁻) − γ
//! ```
//!
//! Where: log π(y⁺|x) and log π(y⁻|x) are entries 0 and 1 of `policy`, n⁺ and n⁻ those of `lengths`,
//! β is `beta`, γ is `gamma`, ε is `label_smoothing`.
//! Paper: Meng et al., *SimPO: Simple Preference Optimization with a Reference-Free Reward*,
//! arXiv:2405.14734, Eq. 6.
//! Departures: Eq. 6 has ε = 0; ε > 0 is TRL's. γ is the paper's and TRL's `simpo_gamma`; the
//! authors' code asks for `gamma_beta_ratio` = γ/β.
//! Detached: `lengths`, and both rewards of the result (β times the mean log-probability).

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Prob, Weight};
use crate::pair::{means_scalar, smoothed_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::simpo;

/// Numbers of [`simpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimpoConfig {
    /// β: the scale of the reward, a mean log-probability in nats.
    pub beta: Beta,
    /// γ: by how much the chosen reward is to exceed the rejected one.
    pub gamma: Weight,
    /// ε: the share of labels that are taken to be the wrong way round.
    pub label_smoothing: Prob,
}

impl SimpoConfig {
    /// No smoothing: Eq. 6. Appendix B has β = 2.5 and γ = 1.375 among its settings.
    pub fn new(beta: Beta, gamma: Weight) -> Self {
        Self { beta, gamma, label_smoothing: Prob::ZERO }
    }
}

/// One pair's loss: the definition of [`simpo`].
///
/// ```
/// use rlhf_core::loss::simpo::{SimpoConfig, simpo_scalar};
/// use rlhf_core::number::{Beta, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Means −1 and −2 at β = 2, less a margin of 1: log(1 + e⁻¹).
/// let config = SimpoConfig::new(Beta::new(2.0)?, Weight::new(1.0)?);
/// let loss = simpo_scalar(config, [-4.0, -6.0f64], [4.0, 3.0]);
/// assert!((loss - 0.31326168751822286).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn simpo_scalar<R: Real>(config: SimpoConfig, policy: [R; 2], lengths: [f64; 2]) -> R {
    let [chosen, rejected] = means_scalar(policy, lengths);
    let gap = chosen - rejected;
    smoothed_scalar(gap * config.beta.get() - config.gamma.get(), config.label_smoothing.get())
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::SimpoConfig;
    use crate::pair::{PairLoss, means, smoothed};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` (chosen, rejected; log-probabilities summed over the completion), of
    /// `lengths` (completion tokens, at least 1; a completion without tokens, 0, counts as 1) and
    /// every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn simpo(config: SimpoConfig, policy: [Tensor<1>; 2], lengths: [Tensor<1>; 2]) -> PairLoss {
        let means = means("simpo", policy, lengths);
        let [chosen, rejected] = means.clone();
        let x = (chosen - rejected).mul_scalar(config.beta.get()).sub_scalar(config.gamma.get());
        PairLoss::new(smoothed(x, config.label_smoothing.get()), config.beta.get(), means)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::dpo::{DpoConfig, dpo_per_token_scalar};

    fn config(beta: f64, gamma: f64) -> SimpoConfig {
        SimpoConfig::new(Beta::new(beta).expect("positive"), Weight::new(gamma).expect("a weight"))
    }

    #[test]
    fn it_is_dpo_per_token_with_a_reference_that_favours_the_chosen_by_the_margin() {
        // γ = β r⁺ for a reference whose chosen mean is r⁺ = γ/β.
        let (policy, lengths) = ([-9.0, -14.0], [5.0, 6.0]);
        let dpo = DpoConfig::new(Beta::new(2.5).expect("positive"));
        let expected = dpo_per_token_scalar(dpo, policy, [5.0 * 1.375 / 2.5, 0.0], lengths);
        assert!((simpo_scalar(config(2.5, 1.375), policy, lengths) - expected).abs() < 1e-14);
    }

    #[test]
    fn the_same_text_twice_as_long_has_the_same_loss() {
        let once = simpo_scalar(config(2.0, 0.5), [-3.0, -8.0], [2.0, 5.0]);
        let twice = simpo_scalar(config(2.0, 0.5), [-6.0, -8.0], [4.0, 5.0]);
        assert!((once - twice).abs() < 1e-15);
    }

    #[test]
    fn a_completion_without_tokens_counts_as_one_token_long() {
        let at = |lengths| simpo_scalar(config(2.0, 0.5), [0.0, -8.0], lengths);
        assert!((at([0.0, 5.0]) - at([1.0, 5.0])).abs() <= 0.0);
        assert!(at([f64::NAN, 5.0]).is_nan());
    }

    #[test]
    fn smoothing_costs_its_share_of_the_margin() {
        // ℓ_ε = ℓ + ε x; x = 2 (−1 + 2) − ½ = 1½.
        let smooth =
            SimpoConfig { label_smoothing: Prob::new(0.1).expect("a probability"), ..config(2.0, 0.5) };
        let at = |c| simpo_scalar(c, [-4.0, -6.0], [4.0, 3.0]);
        assert!((at(smooth) - at(config(2.0, 0.5)) - 0.15).abs() < 1e-15);
    }
}
