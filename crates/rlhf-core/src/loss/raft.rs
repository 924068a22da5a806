//! Losses on the chosen completion alone: likelihood, with and without a reference.
//!
//! ```text
//! raft:                  ℓ = −log π(y⁺|x)
//! chosen_cross_entropy:  ℓ = −log σ(β [log π(y⁺|x) − log π_ref(y⁺|x)])
//! ```
//!
//! Where: π is `policy`, π_ref is `reference`, y⁺ is the chosen or best-ranked completion, β is
//! `beta`.
//! Paper: Dong et al., *RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment*,
//! arXiv:2304.06767, Algorithm 1 (its fine-tuning step); the trainer of Huang et al., *Can RLHF be
//! More Efficient with Imperfect Reward Models? A Policy Coverage Perspective*, arXiv:2502.19255, has
//! both, as `raft` and `cross_entropy`.
//! Departures: as in that trainer the log-probability is summed over the completion; fine-tuning
//! usually means over tokens, which [`cross_entropy`](crate::loss::cross_entropy) gives.
//! Detached: `reference`, and the reward of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{chosen_cross_entropy, raft};

/// Numbers of [`chosen_cross_entropy`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChosenCrossEntropyConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
}

/// One completion's loss: the definition of [`raft`].
///
/// ```
/// assert_eq!(rlhf_core::loss::raft::raft_scalar(-10.0f64), 10.0);
/// ```
pub fn raft_scalar<R: Real>(policy: R) -> R {
    -policy
}

/// One completion's loss: the definition of [`chosen_cross_entropy`].
///
/// ```
/// use rlhf_core::loss::raft::{ChosenCrossEntropyConfig, chosen_cross_entropy_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // One nat above the reference at β = 0.1: log(1 + e⁻⁰·¹).
/// let config = ChosenCrossEntropyConfig { beta: Beta::new(0.1)? };
/// let loss = chosen_cross_entropy_scalar(config, -10.0f64, -11.0);
/// assert!((loss - (-0.1f64).exp().ln_1p()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn chosen_cross_entropy_scalar<R: Real>(
    config: ChosenCrossEntropyConfig,
    policy: R,
    reference: f64,
) -> R {
    (-(policy - reference) * config.beta.get()).softplus()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::ChosenCrossEntropyConfig;
    use crate::elementwise::softplus;
    use crate::loss::kto::UnpairedLoss;
    use crate::shape::{filled, same};

    /// The loss of each completion.
    ///
    /// # Shapes
    /// `policy` (log-probabilities summed over the completion) and the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch.
    #[track_caller]
    pub fn raft(policy: Tensor<1>) -> Tensor<1> {
        filled("raft", "policy", policy.dims());
        policy.neg()
    }

    /// The loss of each completion.
    ///
    /// # Shapes
    /// `policy`, `reference` (log-probabilities summed over the completion) and every field of the
    /// result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn chosen_cross_entropy(
        config: ChosenCrossEntropyConfig,
        policy: Tensor<1>,
        reference: Tensor<1>,
    ) -> UnpairedLoss {
        filled("chosen_cross_entropy", "policy", policy.dims());
        same("chosen_cross_entropy", "reference", reference.dims(), policy.dims());
        let reward = (policy - reference.detach()).mul_scalar(config.beta.get());
        UnpairedLoss { loss: softplus(reward.clone().neg()), reward: reward.detach() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    #[test]
    fn a_likely_completion_is_left_alone_only_with_a_reference() {
        let config = ChosenCrossEntropyConfig { beta: Beta::new(2.0).expect("positive") };
        let slope = |d: f64| gradient(&[d], |p| chosen_cross_entropy_scalar(config, p[0], 0.0)).1[0];
        // −β σ(−β d): −1 at d = 0, nothing far above the reference.
        assert!((slope(0.0) + 1.0).abs() < 1e-15 && slope(30.0).abs() < 1e-15);
        let (_, raft) = gradient(&[30.0], |p| raft_scalar(p[0]));
        assert!((raft[0] + 1.0).abs() <= 0.0);
    }

    #[test]
    fn the_tail_keeps_its_digits() {
        let config = ChosenCrossEntropyConfig { beta: Beta::new(1.0).expect("positive") };
        assert!((chosen_cross_entropy_scalar(config, -5e3, 0.0) - 5e3).abs() < 1e-9);
        assert!((chosen_cross_entropy_scalar(config, 100.0, 0.0) / (-100f64).exp() - 1.0).abs() < 1e-12);
    }
}
