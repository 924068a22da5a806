//! AlphaPO: SimPO with the reward's shape as a parameter.
//!
//! ```text
//! r_α(y) = (1 − π̄(y)^{−α}) / α                     π̄(y) = π(y|x)^{1/n}
//! ℓ = −(1 − ε) log σ(x) − ε log σ(−x)               x = β (r_α(y⁺) − r_α(y⁻)) − γ
//! ```
//!
//! Where: log π(y⁺|x) and log π(y⁻|x) are entries 0 and 1 of `policy`, n is the entry of `lengths`
//! beside each, α, β, γ and ε are `alpha`, `beta`, `gamma` and `label_smoothing`.
//! Paper: Gupta et al., *AlphaPO: Reward Shape Matters for LLM Alignment*, arXiv:2501.03884, the
//! reward and the loss in words.
//! Departures: α = 0 is allowed and is the limit r₀ = log π̄, which is SimPO; ε > 0 is TRL's. TRL
//! also reshapes the summed log-probabilities of other losses: [`alpha_reward`] before
//! [`cpo`](super::cpo) does that. Where −α log π̄ is above 70 the reward goes on as the straight line
//! that continues it there: e⁷⁰ is beyond any margin, and in `f32` the exponential would overflow.
//! Detached: `lengths`, and both rewards of the result (β r_α).

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Finite, Prob, Weight};
use crate::pair::{means_scalar, smoothed_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{alpha_reward, alphapo};

/// |α| below this is taken for 0: in `f32` the quotient would lose its digits.
const NO_ALPHA: f64 = 1e-6;

/// Numbers of [`alphapo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlphapoConfig {
    /// α: the shape of the reward; 0 is the logarithm. The paper's is 0.25 for Mistral (Table 3).
    pub alpha: Finite,
    /// β: the scale of the reward.
    pub beta: Beta,
    /// γ: by how much the chosen reward is to exceed the rejected one.
    pub gamma: Weight,
    /// ε: the share of labels that are taken to be the wrong way round.
    pub label_smoothing: Prob,
}

impl AlphapoConfig {
    /// No smoothing, as in the paper.
    pub fn new(alpha: Finite, beta: Beta, gamma: Weight) -> Self {
        Self { alpha, beta, gamma, label_smoothing: Prob::ZERO }
    }
}

/// r_α of one log-probability, a mean in the paper: the definition of [`alpha_reward`].
///
/// ```
/// use rlhf_core::loss::alphapo::alpha_reward_scalar;
/// use rlhf_core::number::Finite;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // α = 1 at a probability of ¼: 1 − 4.
/// let r = alpha_reward_scalar(Finite::new(1.0)?, 0.25f64.ln());
/// assert!((r + 3.0).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn alpha_reward_scalar<R: Real>(alpha: Finite, logp: R) -> R {
    let a = -alpha.get();
    if a.abs() < NO_ALPHA { logp } else { (logp * a).exp_m1_held() / a }
}

/// One pair's loss: the definition of [`alphapo`].
///
/// ```
/// use rlhf_core::loss::alphapo::{AlphapoConfig, alphapo_scalar};
/// use rlhf_core::number::{Beta, Finite, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // α = 1, a token's mean probability ½ and ¼: rewards −1 and −3, so log(1 + e⁻²).
/// let config = AlphapoConfig::new(Finite::new(1.0)?, Beta::new(1.0)?, Weight::ZERO);
/// let loss = alphapo_scalar(config, [3.0 * 0.5f64.ln(), 2.0 * 0.25f64.ln()], [3.0, 2.0]);
/// assert!((loss - 0.1269280110429725).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn alphapo_scalar<R: Real>(config: AlphapoConfig, policy: [R; 2], lengths: [f64; 2]) -> R {
    let [chosen, rejected] =
        means_scalar(policy, lengths).map(|mean| alpha_reward_scalar(config.alpha, mean));
    let x = (chosen - rejected) * config.beta.get() - config.gamma.get();
    smoothed_scalar(x, config.label_smoothing.get())
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::{AlphapoConfig, NO_ALPHA};
    use crate::elementwise::exp_m1_held;
    use crate::number::Finite;
    use crate::pair::PairLoss;
    use crate::pair::{means, smoothed};
    use crate::shape::filled;

    /// r_α of each log-probability.
    ///
    /// # Shapes
    /// `logp` and the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch.
    #[track_caller]
    pub fn alpha_reward(alpha: Finite, logp: Tensor<1>) -> Tensor<1> {
        filled("alpha_reward", "logp", logp.dims());
        let a = -alpha.get();
        if a.abs() < NO_ALPHA { logp } else { exp_m1_held(logp.mul_scalar(a)).div_scalar(a) }
    }

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
    pub fn alphapo(config: AlphapoConfig, policy: [Tensor<1>; 2], lengths: [Tensor<1>; 2]) -> PairLoss {
        let rewards = means("alphapo", policy, lengths).map(|mean| alpha_reward(config.alpha, mean));
        let [chosen, rejected] = rewards.clone();
        let x = (chosen - rejected).mul_scalar(config.beta.get()).sub_scalar(config.gamma.get());
        PairLoss::new(smoothed(x, config.label_smoothing.get()), config.beta.get(), rewards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::simpo::{SimpoConfig, simpo_scalar};
    use crate::real::gradient;

    fn alpha(x: f64) -> Finite {
        Finite::new(x).expect("finite")
    }

    #[test]
    fn the_reward_meets_the_logarithm_from_both_sides() {
        // r_α = log π̄ − α (log π̄)²/2 + O(α²).
        for logp in [-0.1, -2.0, -5.0] {
            for a in [1e-5, -1e-5] {
                let expected = logp - a * logp * logp / 2.0;
                assert!((alpha_reward_scalar(alpha(a), logp) - expected).abs() < 1e-8);
            }
            assert!((alpha_reward_scalar(alpha(0.0), logp) - logp).abs() <= 0.0);
        }
    }

    #[test]
    fn the_slope_is_the_probability_to_the_minus_alpha() {
        for a in [-1.5, -0.25, 0.25, 1.0] {
            let (_, slope) = gradient(&[-1.2], |x| alpha_reward_scalar(alpha(a), x[0]));
            assert!((slope[0] - (1.2 * a).exp()).abs() < 1e-14, "{a}: {slope:?}");
        }
    }

    #[test]
    fn far_out_the_reward_goes_on_as_a_line() {
        // −α log π̄ = 90 and 91: a step of e⁷⁰ / α, and the slope e⁷⁰.
        let at = |logp: f64| gradient(&[logp], |x| alpha_reward_scalar(alpha(0.25), x[0]));
        let ((near, slope), (far, _)) = (at(-360.0), at(-364.0));
        let top = 70f64.exp();
        assert!(((near - far) / (4.0 * top) - 1.0).abs() < 1e-13 && (slope[0] / top - 1.0).abs() < 1e-15);
    }

    #[test]
    fn without_a_shape_it_is_simpo() {
        let (beta, gamma) = (Beta::new(2.5).expect("positive"), Weight::new(0.1).expect("a weight"));
        let found = alphapo_scalar(AlphapoConfig::new(alpha(0.0), beta, gamma), [-7.0, -9.0], [4.0, 3.0]);
        let expected = simpo_scalar(SimpoConfig::new(beta, gamma), [-7.0, -9.0], [4.0, 3.0]);
        assert!((found - expected).abs() < 1e-15);
    }
}
