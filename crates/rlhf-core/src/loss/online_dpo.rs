//! Online DPO and online IPO: two completions of the policy, ordered by their rewards.
//!
//! ```text
//! y⁺, y⁻ = the two completions, larger reward first       r(y) − p where y has no end
//! sigmoid   ℓ = −log σ(β Δ)
//! ipo       ℓ = (Δ − 1/(2β))²
//! Δ = [log π(y⁺|x) − log π_ref(y⁺|x)] − [log π(y⁻|x) − log π_ref(y⁻|x)]
//! ```
//!
//! Where: r is `rewards`, p is `missing_eos_penalty` ([`pick`]); log π and log π_ref of y⁺ and y⁻ are
//! entries 0 and 1 of `policy` and `reference`, β is `beta` (τ of IPO).
//! Paper: Guo et al., *Direct Language Model Alignment from Online AI Feedback*, arXiv:2402.04792,
//! Algorithm 1; Calandriello et al., *Human Alignment of Large Language Models through Online
//! Preference Optimisation*, arXiv:2403.08635, online IPO in words.
//! Departures: both papers ask an annotator which completion is better; here the larger reward is, as
//! in TRL, and its penalty is for completions that were cut off. No length divides Δ in either loss.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use super::dpo::{DpoConfig, dpo_scalar};
use super::ipo::{IpoConfig, ipo_scalar};
use crate::host::select::top_k;
use crate::number::{Beta, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::online_dpo;

/// Which of two completions is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// 0 or 1: the better one.
    pub chosen: usize,
    /// The other.
    pub rejected: usize,
}

/// Orders two completions of a prompt by reward; of equal ones the first is chosen. `ended` says which
/// of them came to an end of sequence: the others lose the penalty. NaN is below every number.
///
/// ```
/// use rlhf_core::loss::online_dpo::pick;
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // 1.0 − 0.6 of the one that was cut off is less than 0.5.
/// assert_eq!(pick([1.0, 0.5], [false, true], Weight::new(0.6)?).chosen, 1);
/// assert_eq!(pick([1.0, 0.5], [false, true], Weight::ZERO).chosen, 0);
/// # Ok(())
/// # }
/// ```
pub fn pick(rewards: [f64; 2], ended: [bool; 2], missing_eos_penalty: Weight) -> Pick {
    let after = |i: usize| if ended[i] { rewards[i] } else { rewards[i] - missing_eos_penalty.get() };
    let chosen = top_k(&[after(0), after(1)], 1)[0];
    Pick { chosen, rejected: 1 - chosen }
}

/// What is made of a pair's margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnlineLossType {
    /// DPO.
    Sigmoid,
    /// IPO on sums.
    Ipo,
}

/// Numbers of [`online_dpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlineDpoConfig {
    /// β: the pull to the reference; TRL's is 0.1.
    pub beta: Beta,
    /// What is made of the margin.
    pub loss_type: OnlineLossType,
}

/// One pair's loss: the definition of [`online_dpo`].
///
/// ```
/// use rlhf_core::loss::online_dpo::{OnlineDpoConfig, OnlineLossType, online_dpo_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margin 1.5 where 1/(2 · 0.1) = 5 is sought: 3.5².
/// let config = OnlineDpoConfig { beta: Beta::new(0.1)?, loss_type: OnlineLossType::Ipo };
/// let loss = online_dpo_scalar(config, [-10.0, -12.0f64], [-11.0, -11.5]);
/// assert!((loss - 12.25).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn online_dpo_scalar<R: Real>(config: OnlineDpoConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    match config.loss_type {
        OnlineLossType::Sigmoid => dpo_scalar(DpoConfig::new(config.beta), policy, reference),
        OnlineLossType::Ipo => ipo_scalar(IpoConfig::new(config.beta), policy, reference),
    }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::super::dpo::{DpoConfig, dpo};
    use super::super::ipo::{IpoConfig, ipo};
    use super::{OnlineDpoConfig, OnlineLossType};
    use crate::pair::{PairLoss, log_ratios, reference_free};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected, as [`pick`](super::pick) orders
    /// them; log-probabilities summed over the completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn online_dpo(
        config: OnlineDpoConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
    ) -> PairLoss {
        // The log-ratios under this name; the loss then needs no reference.
        let ratios = log_ratios("online_dpo", policy, reference);
        let zero = reference_free(&ratios);
        match config.loss_type {
            OnlineLossType::Sigmoid => dpo(DpoConfig::new(config.beta), ratios, zero),
            OnlineLossType::Ipo => ipo(IpoConfig::new(config.beta), ratios, zero),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_reward_is_chosen_and_the_first_of_equals() {
        let of = |rewards, ended, penalty: f64| {
            let pick = pick(rewards, ended, Weight::new(penalty).expect("a weight"));
            assert_eq!(pick.chosen + pick.rejected, 1);
            pick.chosen
        };
        assert_eq!((of([0.2, 0.1], [true; 2], 1.0), of([0.1, 0.2], [true; 2], 1.0)), (0, 1));
        assert_eq!((of([0.1, 0.1], [true; 2], 1.0), of([0.1, 0.1], [false; 2], 1.0)), (0, 0));
        // The penalty makes a tie, or more than one.
        assert_eq!((of([1.0, 0.5], [false, true], 0.5), of([0.5, 1.0], [true, false], 0.75)), (0, 0));
        assert_eq!(of([0.75, 0.5], [false, true], 0.5), 1);
        // What is no number is not preferred.
        assert_eq!((of([f64::NAN, -9.0], [true; 2], 0.0), of([-9.0, f64::NAN], [true; 2], 0.0)), (1, 0));
    }

    #[test]
    fn the_sigmoid_by_hand() {
        // Margin 1.5 at β = 0.1: log(1 + e^−0.15).
        let beta = Beta::new(0.1).expect("positive");
        let config = OnlineDpoConfig { beta, loss_type: OnlineLossType::Sigmoid };
        let loss = online_dpo_scalar(config, [-10.0, -12.0], [-11.0, -11.5]);
        assert!((loss - (-0.15f64).exp().ln_1p()).abs() < 1e-15);
        assert!((loss - 0.6209570478).abs() < 1e-10);
    }
}
