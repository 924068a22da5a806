//! A*-PO: the policy's log-ratio is fitted to the optimal advantage.
//!
//! ```text
//! ℓ  = (β₂ log(π(y) / π_ref(y)) − (r(y) − V*))²
//! V* = β₁ log(1/n Σ_i exp(r(y_i) / β₁))             y_i drawn from π_ref
//! ```
//!
//! Where: log π(y) is `logp` and log π_ref(y) is `reference`, both summed over the completion's
//! tokens, r(y) is `reward`, V* is `value` ([`optimal_value`], once for each prompt, before training),
//! β₁ and β₂ are `beta1` and `beta2`.
//! Paper: Brantley et al., *Accelerating RL for LLM Reasoning with Optimal Advantage Regression*,
//! arXiv:2505.20686 (its two stages, in words).
//! Departures: none; the paper's β₁ and β₂ differ as well (1/2 and 1e-3 in TRL).
//! Detached: `reference`, `reward`, `value`, and `implicit_reward` of the result.

use serde::{Deserialize, Serialize};

use crate::host::stable::logsumexp;
use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{AStarPoLoss, a_star_po};

/// Numbers of [`a_star_po`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AStarPoConfig {
    /// β₂: how much reward a nat of log-ratio stands for.
    pub beta2: Beta,
}

/// V* of a prompt, in units of reward, from the rewards of completions that the reference drew: their
/// mean as β₁ grows, the best of them as it falls to 0.
///
/// ```
/// use rlhf_core::loss::a_star_po::optimal_value;
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Rewards 0 and log 3 at β₁ = 1: log((1 + 3) / 2).
/// let value = optimal_value(Beta::new(1.0)?, &[0.0, 3f64.ln()]);
/// assert!((value - 2f64.ln()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// Without a reward.
#[track_caller]
pub fn optimal_value(beta1: Beta, rewards: &[f64]) -> f64 {
    assert!(!rewards.is_empty(), "optimal_value: rewards: expected at least one, found none");
    // From the largest, so that what is small beside it is not lost in the sum of both logarithms.
    let max = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let above: Vec<f64> = rewards.iter().map(|r| (r - max) / beta1.get()).collect();
    max + beta1.get() * (logsumexp(&above) - (rewards.len() as f64).ln())
}

/// One sequence's loss: the definition of [`a_star_po`].
///
/// ```
/// use rlhf_core::loss::a_star_po::{AStarPoConfig, a_star_po_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Log-ratio 4 at β₂ = ½ stands for 2, where 1 − 0.25 is sought.
/// let config = AStarPoConfig { beta2: Beta::new(0.5)? };
/// assert!((a_star_po_scalar(config, -6.0f64, -10.0, 1.0, 0.25) - 1.5625).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn a_star_po_scalar<R: Real>(
    config: AStarPoConfig,
    logp: R,
    reference: f64,
    reward: f64,
    value: f64,
) -> R {
    ((logp - reference) * config.beta2.get() - (reward - value)).square()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::AStarPoConfig;
    use crate::shape::{filled, same};

    /// What [`a_star_po`] gives.
    #[derive(Debug, Clone)]
    pub struct AStarPoLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: β₂ times the log-ratio, in units of reward. Detached.
        pub implicit_reward: Tensor<1>,
    }

    /// The loss of each sequence.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn a_star_po(
        config: AStarPoConfig,
        logp: Tensor<1>,
        reference: Tensor<1>,
        reward: Tensor<1>,
        value: Tensor<1>,
    ) -> AStarPoLoss {
        let name = "a_star_po";
        filled(name, "logp", logp.dims());
        same(name, "reference", reference.dims(), logp.dims());
        same(name, "reward", reward.dims(), logp.dims());
        same(name, "value", value.dims(), logp.dims());
        let implicit_reward = (logp - reference.detach()).mul_scalar(config.beta2.get());
        let loss = (implicit_reward.clone() - (reward - value).detach()).square();
        AStarPoLoss { loss, implicit_reward: implicit_reward.detach() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beta(x: f64) -> Beta {
        Beta::new(x).expect("positive")
    }

    #[test]
    fn the_optimal_policy_costs_nothing() {
        // π*(y) = π_ref(y) exp((r − V*) / β): on two completions of ½ each the two are one.
        let (b, rewards) = (beta(0.7), [1.0, -0.4]);
        let value = optimal_value(b, &rewards);
        let mut total = 0.0;
        for r in rewards {
            let logp = 0.5f64.ln() + (r - value) / b.get();
            total += logp.exp();
            let loss = a_star_po_scalar(AStarPoConfig { beta2: b }, logp, 0.5f64.ln(), r, value);
            assert!(loss.abs() < 1e-30);
        }
        assert!((total - 1.0).abs() < 1e-15);
    }

    #[test]
    fn the_value_lies_between_the_mean_and_the_best() {
        let rewards = [1.0, 0.0, 1.0, 1.0];
        assert!((optimal_value(beta(1e6), &rewards) - 0.75).abs() < 1e-6);
        assert!((optimal_value(beta(1e-3), &rewards) - 1.0 - 1e-3 * 0.75f64.ln()).abs() < 1e-15);
        // No overflow, and no digit lost to a common shift.
        let far = rewards.map(|r| r + 1e6);
        assert!((optimal_value(beta(1e-3), &far) - 1e6 - optimal_value(beta(1e-3), &rewards)).abs() < 1e-9);
        assert!(optimal_value(beta(0.5), &[0.0; 4]).abs() <= 0.0);
    }

    #[test]
    #[should_panic(expected = "optimal_value: rewards: expected at least one, found none")]
    fn a_value_of_nothing() {
        let _ = optimal_value(beta(1.0), &[]);
    }
}
