//! REINFORCE leave-one-out: the completion as one action, plain and clipped.
//!
//! ```text
//! rloo:              ℓ = −min(min(r, δ) A, clip(r, 1 − ε_low, 1 + ε_high) A)
//! reinforce:         ℓ = −A log π(y)
//! reinforce_tokens:  ℓ_t = −A_t log π(y_t)
//! with               A_i = R_i − 1/(k − 1) Σ_{j≠i} R_j
//! ```
//!
//! Where: log π(y) is `logp` and r = π(y) / π_old(y) its ratio to `old_logp`, both summed over the
//! completion's tokens; A is `advantage`, R_i the reward of the i-th of a prompt's k completions, with
//! the penalty −β (log π − log π_ref) in it; ε_low, ε_high and δ are `epsilon_low`, `epsilon_high`
//! and `delta`.
//! Paper: Ahmadian et al., *Back to Basics: Revisiting REINFORCE Style Optimization for Learning from
//! Human Feedback in LLMs*, arXiv:2402.14740 (in words); plain REINFORCE is of R. J.
//! Williams, *Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
//! Learning*, 1992.
//! Departures: the paper has no ratio; [`rloo`] is TRL's, whose clip makes further steps on one batch
//! safe and whose gradient at the first is that of [`reinforce`]. [`reinforce_tokens`] is NeMo-RL's
//! with the ratio switched off; with one advantage a sequence its sum over the tokens is
//! [`reinforce`]. A log-ratio is held at 80.
//! Detached: `old_logp`, `advantage`, and the result's ratio.

use crate::loss::ppo_clip::{PpoClipConfig, surrogate_scalar};
use crate::real::Real;
use crate::token::token_ratio_scalar;

#[cfg(feature = "burn")]
pub use tensor::{reinforce, reinforce_tokens, rloo};

/// One sequence's loss: the definition of [`rloo`].
///
/// ```
/// use rlhf_core::loss::ppo_clip::PpoClipConfig;
/// use rlhf_core::loss::rloo::rloo_scalar;
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The completion is half as likely as it was, and bad: the gain stops at a ratio of 0.8.
/// let loss = rloo_scalar(PpoClipConfig::new(Weight::new(0.2)?), -10.0 - 2f64.ln(), -10.0, -1.0);
/// assert!((loss - 0.8).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn rloo_scalar<R: Real>(config: PpoClipConfig, logp: R, old_logp: f64, advantage: f64) -> R {
    surrogate_scalar(config, token_ratio_scalar(logp, old_logp), advantage)
}

/// One sequence's loss: the definition of [`reinforce`].
///
/// ```
/// let loss = rlhf_core::loss::rloo::reinforce_scalar(-1.5f64, 2.0);
/// assert!((loss - 3.0).abs() < 1e-15);
/// ```
pub fn reinforce_scalar<R: Real>(logp: R, advantage: f64) -> R {
    logp * -advantage
}

/// One token's loss: the definition of [`reinforce_tokens`].
pub fn reinforce_tokens_scalar<R: Real>(logp: R, advantage: f64) -> R {
    reinforce_scalar(logp, advantage)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use crate::loss::ppo_clip::{PpoClipConfig, surrogate};
    use crate::mask::masked;
    use crate::shape::{filled, same};
    use crate::token::{MAX_LOG_RATIO, SequenceLoss};

    /// The loss of each sequence. Log-probabilities are summed over its tokens
    /// ([`sequence_sum`](crate::mask::sequence_sum)), not averaged. A sequence without tokens has a
    /// ratio of 1 and so a loss of −A, without gradient: only the reported mean moves with it.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn rloo(
        config: PpoClipConfig,
        logp: Tensor<1>,
        old_logp: Tensor<1>,
        advantage: Tensor<1>,
    ) -> SequenceLoss {
        filled("rloo", "logp", logp.dims());
        same("rloo", "old_logp", old_logp.dims(), logp.dims());
        same("rloo", "advantage", advantage.dims(), logp.dims());
        let ratio = (logp - old_logp.detach()).clamp_max(MAX_LOG_RATIO).exp();
        let loss = surrogate(config, ratio.clone(), advantage.detach());
        SequenceLoss { loss, ratio: ratio.detach() }
    }

    /// The loss of each sequence.
    ///
    /// # Shapes
    /// `logp` (summed over the completion's tokens), `advantage` and the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn reinforce(logp: Tensor<1>, advantage: Tensor<1>) -> Tensor<1> {
        filled("reinforce", "logp", logp.dims());
        same("reinforce", "advantage", advantage.dims(), logp.dims());
        (logp * advantage.detach()).neg()
    }

    /// The loss of each token, 0 behind the mask.
    ///
    /// # Shapes
    /// All arguments and the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn reinforce_tokens(logp: Tensor<2>, advantage: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<2> {
        let name = "reinforce_tokens";
        same(name, "advantage", advantage.dims(), logp.dims());
        (masked(name, logp, mask) * masked(name, advantage.detach(), mask)).neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Weight;
    use crate::real::{Dual, gradient};

    const ADVANTAGE: [f64; 3] = [1.0, -1.0, 2.0];

    fn config() -> PpoClipConfig {
        PpoClipConfig::new(Weight::new(0.2).expect("a weight"))
    }

    /// Value and gradient of the mean over three tokens.
    fn mean(logp: [f64; 3], token: impl Fn(Dual, f64) -> Dual) -> (f64, Vec<f64>) {
        gradient(&logp, |x| x.iter().zip(ADVANTAGE).map(|(x, a)| token(*x, a)).sum::<Dual>() / 3.0)
    }

    #[test]
    fn reinforce_by_hand() {
        // NeMo-RL's test: (0.5 − 1 + 3) / 3.
        let (value, slope) = mean([-0.5, -1.0, -1.5], reinforce_tokens_scalar);
        assert!((value - 2.5 / 3.0).abs() < 1e-15);
        assert!(slope.iter().zip(ADVANTAGE).all(|(s, a)| (s + a / 3.0).abs() < 1e-15));
    }

    #[test]
    fn forced_on_policy_the_ratio_is_1_and_still_has_a_gradient() {
        // NeMo-RL's test: each token is its own old one, so that the mean is −(1 − 1 + 2) / 3 and the
        // gradient −A/3, that of REINFORCE.
        let on_policy = |x: Dual, a: f64| rloo_scalar(config(), x, x.value, a);
        let (value, slope) = mean([-1.69315, -1.0, -0.59453], on_policy);
        assert!((value + 2.0 / 3.0).abs() < 1e-15);
        assert!(slope.iter().zip(ADVANTAGE).all(|(s, a)| (s + a / 3.0).abs() < 1e-15));
    }

    #[test]
    fn leave_one_out_advantages_do_not_see_a_common_reward() {
        // Rewards (1, 2, 6): A = 1 − 4, 2 − 3.5, 6 − 1.5, which sum to 0, so that a policy that likes
        // all three alike has no loss.
        let loss: f64 = [-3.0, -1.5, 4.5].iter().map(|a| reinforce_scalar(-7.0, *a)).sum();
        assert!(loss.abs() < 1e-13);
    }

    #[test]
    fn far_out_the_clip_holds_value_and_slope() {
        for (logp, expected) in [(5e3, -1.2), (-5e3, 0.0)] {
            let (value, slope) = gradient(&[logp], |x| rloo_scalar(config(), x[0], 0.0, 1.0));
            assert!((value - expected).abs() < 1e-15 && slope[0].abs() <= 0.0);
        }
    }
}
