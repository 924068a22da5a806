//! REINFORCE++: the clipped token loss under advantages that are normalised over the batch.
//!
//! ```text
//! R_t = r(y) − β Σ_{i≥t} (log π_old(y_i) − log π_ref(y_i))
//! A_t = (R_t − mean R) / std R                       over all tokens of the batch
//! ℓ_t = −min(r_t A_t, clip(r_t, 1 − ε_low, 1 + ε_high) A_t)
//! ```
//!
//! Where: r(y) is the completion's reward, β the weight of the KL penalty, π_ref the reference; A_t is
//! `advantage`, r_t the ratio of `logp` to `old_logp` ([`token`](crate::token)), ε_low and ε_high are
//! `epsilon_low` and `epsilon_high`. The first two lines are made on the host, before the loss: the
//! penalty as a reward of each token, the sum to the end as a discount of 1, and the mean and standard
//! deviation over the tokens of the whole batch, not of a prompt's group. The variant with a baseline
//! takes the mean of a prompt's rewards from r(y) first and puts the penalty into the loss.
//! Paper: Hu et al., *REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global
//! Normalization*, arXiv:2501.03262 (in words).
//! Departures: none. δ of the config, [`ppo_clip`](crate::loss::ppo_clip)'s dual clip, is off in the
//! paper. A log-ratio is held at 80.
//! Detached: `old_logp`, `advantage`, and the result's ratio.

use crate::loss::ppo_clip::{PpoClipConfig, surrogate_scalar};
use crate::real::Real;
use crate::token::token_ratio_scalar;

#[cfg(feature = "burn")]
pub use tensor::reinforce_pp;

/// One token's loss: the definition of [`reinforce_pp`].
///
/// ```
/// use rlhf_core::loss::ppo_clip::PpoClipConfig;
/// use rlhf_core::loss::reinforce_pp::reinforce_pp_scalar;
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Returns 1 and 3: mean 2, biased deviation 1, so that A = ±1. The ratio is 1 for either token.
/// let config = PpoClipConfig::new(Weight::new(0.2)?);
/// let loss = |r: f64| reinforce_pp_scalar(config, -0.4, -0.4, r - 2.0);
/// assert!((loss(1.0) - 1.0).abs() < 1e-15 && (loss(3.0) + 1.0).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn reinforce_pp_scalar<R: Real>(config: PpoClipConfig, logp: R, old_logp: f64, advantage: f64) -> R {
    surrogate_scalar(config, token_ratio_scalar(logp, old_logp), advantage)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use crate::loss::ppo_clip::{PpoClipConfig, surrogate};
    use crate::mask::masked;
    use crate::shape::same;
    use crate::token::{TokenLoss, token_ratio};

    /// The loss of each token.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn reinforce_pp(
        config: PpoClipConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let name = "reinforce_pp";
        same(name, "advantage", advantage.dims(), logp.dims());
        let ratio = token_ratio(name, logp, old_logp, mask);
        let advantage = masked(name, advantage.detach(), mask);
        TokenLoss { loss: surrogate(config, ratio.clone(), advantage), ratio: ratio.detach() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Weight;
    use crate::real::gradient;

    #[test]
    fn normalised_advantages_make_the_on_policy_loss_zero_and_its_gradient_not() {
        // A = ±1 and 0 sum to 0, the ratios are 1.
        let config = PpoClipConfig::new(Weight::new(0.2).expect("a weight"));
        let advantage = [-1.0, 0.0, 1.0];
        let (value, slope) = gradient(&[-0.1, -2.0, -5.0], |x| {
            x.iter().zip(advantage).map(|(x, a)| reinforce_pp_scalar(config, *x, x.value, a)).sum()
        });
        assert!(value.abs() < 1e-15);
        assert!(slope.iter().zip(advantage).all(|(s, a)| (s + a).abs() < 1e-15));
    }

    #[test]
    fn gains_stop_at_either_end_of_the_range() {
        let config = PpoClipConfig::new(Weight::new(0.2).expect("a weight"));
        let at = |ratio: f64, a: f64| reinforce_pp_scalar(config, ratio.ln(), 0.0, a);
        assert!((at(1.5, 2.0) + 2.4).abs() < 1e-14 && (at(0.5, -2.0) - 1.6).abs() < 1e-14);
        assert!((at(1.5, -2.0) - 3.0).abs() < 1e-14 && (at(0.5, 2.0) + 1.0).abs() < 1e-14);
    }
}
