//! Exploratory Preference Optimization: online DPO that moves away from what the reference says.
//!
//! ```text
//! ℓ = c(y⁺, y⁻) + α log π(ỹ|x)
//! sigmoid   c = −log σ(β Δ)               ipo   c = (Δ − 1/(2β))²
//! Δ = [log π(y⁺|x) − log π_ref(y⁺|x)] − [log π(y⁻|x) − log π_ref(y⁻|x)]
//! ```
//!
//! Where: y was drawn from the policy and ỹ from the reference: entries 0 and 1 of `policy` (log π) and
//! of `reference` (log π_ref); y⁺ is y where `preferred` says so and else ỹ, y⁻ is the other; α and β
//! are `alpha` and `beta`.
//! Paper: Xie et al., *Exploratory Preference Optimization: Harnessing Implicit Q\*-Approximation for
//! Sample-Efficient RLHF*, arXiv:2405.21046, Algorithm 1.
//! Departures: the algorithm sums over all pairs so far; here is one pair's term. Its ỹ may come from
//! any fixed sampler, and its c is the sigmoid: `ipo` is TRL's.
//! Detached: `reference`, and all of the result but its loss.

use serde::{Deserialize, Serialize};

use super::online_dpo::{OnlineDpoConfig, OnlineLossType, online_dpo_scalar};
use crate::number::{Beta, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{XpoLoss, xpo};

/// Numbers of [`xpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XpoConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// α: the weight of the bonus for exploring; TRL's is 1e-5.
    pub alpha: Weight,
    /// What is made of the margin.
    pub loss_type: OnlineLossType,
}

impl XpoConfig {
    fn online(self) -> OnlineDpoConfig {
        OnlineDpoConfig { beta: self.beta, loss_type: self.loss_type }
    }
}

/// The better one of a sample of the policy and a sample of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preferred {
    /// y, the policy's.
    PolicySample,
    /// ỹ, the reference's.
    ReferenceSample,
}

/// One pair's loss: the definition of [`xpo`].
///
/// ```
/// use rlhf_core::loss::online_dpo::OnlineLossType;
/// use rlhf_core::loss::xpo::{Preferred, XpoConfig, xpo_scalar};
/// use rlhf_core::number::{Beta, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margin 1.5 where 5 is sought: 3.5²; and 0.01 of the −12 of the reference's sample.
/// let (beta, alpha) = (Beta::new(0.1)?, Weight::new(0.01)?);
/// let config = XpoConfig { beta, alpha, loss_type: OnlineLossType::Ipo };
/// let loss = xpo_scalar(config, [-10.0, -12.0f64], [-11.0, -11.5], Preferred::PolicySample);
/// assert!((loss - 12.13).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn xpo_scalar<R: Real>(
    config: XpoConfig,
    policy: [R; 2],
    reference: [f64; 2],
    preferred: Preferred,
) -> R {
    let contrast = |[a, b]: [usize; 2]| {
        online_dpo_scalar(config.online(), [policy[a], policy[b]], [reference[a], reference[b]])
    };
    let contrast = match preferred {
        Preferred::PolicySample => contrast([0, 1]),
        Preferred::ReferenceSample => contrast([1, 0]),
    };
    contrast + policy[1] * config.alpha.get()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::super::online_dpo::online_dpo;
    use super::XpoConfig;
    use crate::pair::{log_ratios, reference_free};
    use crate::shape::same;

    /// What [`xpo`] gives.
    #[derive(Debug, Clone)]
    pub struct XpoLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: c, of the pair alone. Detached.
        pub contrast: Tensor<1>,
        /// `[B]`: α log π(ỹ|x), in nats; below 0 as a rule. Detached.
        pub bonus: Tensor<1>,
        /// `[B]`: β times the log-ratio of y⁺, in nats. Detached.
        pub chosen_reward: Tensor<1>,
        /// `[B]`: β times the log-ratio of y⁻, in nats. Detached.
        pub rejected_reward: Tensor<1>,
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (the policy's sample, the reference's; log-probabilities
    /// summed over the completion), `preferred` (true where the policy's sample is the better one) and
    /// every field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn xpo(
        config: XpoConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        preferred: Tensor<1, Bool>,
    ) -> XpoLoss {
        let [own, other] = log_ratios("xpo", policy.clone(), reference);
        same("xpo", "preferred", preferred.dims(), own.dims());
        let chosen = other.clone().mask_where(preferred.clone(), own.clone());
        let rejected = own.mask_where(preferred, other);
        let ratios = [chosen, rejected];
        let zero = reference_free(&ratios);
        let pair = online_dpo(config.online(), ratios, zero);
        let [_, sample] = policy;
        let bonus = sample.mul_scalar(config.alpha.get());
        XpoLoss {
            loss: pair.loss.clone() + bonus.clone(),
            contrast: pair.loss.detach(),
            bonus: bonus.detach(),
            chosen_reward: pair.chosen_reward,
            rejected_reward: pair.rejected_reward,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config(alpha: f64) -> XpoConfig {
        XpoConfig {
            beta: Beta::new(0.1).expect("positive"),
            alpha: Weight::new(alpha).expect("a weight"),
            loss_type: OnlineLossType::Sigmoid,
        }
    }

    #[test]
    fn the_bonus_pushes_the_reference_sample_down() {
        // At a margin of 0 the contrast pulls by ∓β/2; the bonus adds α to the sample's slope alone,
        // and a step goes against the slope.
        for (preferred, sign) in [(Preferred::PolicySample, 1.0), (Preferred::ReferenceSample, -1.0)] {
            let (_, slope) =
                gradient(&[-3.0, -4.0], |p| xpo_scalar(config(0.01), [p[0], p[1]], [-3.0, -4.0], preferred));
            assert!((slope[0] + sign * 0.05).abs() < 1e-15);
            assert!((slope[1] - sign * 0.05 - 0.01).abs() < 1e-15);
        }
    }

    #[test]
    fn often_drawn_arms_lose_mass() {
        // Three equally good answers, the reference draws the first of them: only the bonus is left
        // of the gradient in the logits, α (1 − p₀, −p₁, −p₂), and it lowers the first.
        let loss = |z: &[crate::real::Dual]| {
            let logp = crate::host::stable::log_softmax(z);
            let of =
                |preferred| xpo_scalar(config(0.3), [logp[1], logp[0]], [(1.0f64 / 3.0).ln(); 2], preferred);
            (of(Preferred::PolicySample) + of(Preferred::ReferenceSample)) * 0.5
        };
        let (_, slope) = gradient(&[0.0; 3], loss);
        assert!((slope[0] - 0.2).abs() < 1e-15 && (slope[1] + 0.1).abs() < 1e-15);
        assert!((slope[2] + 0.1).abs() < 1e-15);
    }
}
