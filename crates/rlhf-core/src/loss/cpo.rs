//! Contrastive Preference Optimization: the pair's contrast without a reference.
//!
//! ```text
//! sigmoid   ℓ = −(1 − ε) log σ(β Δ) − ε log σ(−β Δ)
//! hinge     ℓ = max(0, 1 − β Δ)
//! ipo       ℓ = (Δ − 1/(2β))²
//! Δ = log π(y⁺|x) − log π(y⁻|x)            per token:  Δ = log π(y⁺|x)/n⁺ − log π(y⁻|x)/n⁻
//! ```
//!
//! Where: log π(y⁺|x) and log π(y⁻|x) are entries 0 and 1 of `policy`, n⁺ and n⁻ those of `lengths`,
//! β is `beta`, ε is `label_smoothing`.
//! Paper: Xu et al., *Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance
//! in Machine Translation*, arXiv:2401.08417, Eq. 3.
//! Departures: the paper adds −log π(y⁺|x); its weight and normaliser are the caller's, by
//! [`cross_entropy`](super::cross_entropy) of the chosen tokens (TRL: `cpo_alpha` times the mean over
//! the batch's chosen tokens). The paper has the sigmoid and ε = 0; the others are TRL's
//! `loss_type`, whose `ipo` is per token and whose `sigmoid` and `hinge` are not.
//! Detached: `lengths`, and both rewards of the result (β times what Δ is the difference of).

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Prob};
use crate::pair::{means_scalar, smoothed_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{cpo, cpo_per_token};

/// What is made of a pair's margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoLossType {
    /// The paper's.
    Sigmoid,
    /// A margin of 1/β costs nothing.
    Hinge,
    /// A margin of 1/(2β) is sought.
    Ipo,
}

/// Numbers of [`cpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpoConfig {
    /// β: the scale of the margin; TRL's is 0.1.
    pub beta: Beta,
    /// ε: the share of labels taken to be the wrong way round. Only the sigmoid has it, as in TRL.
    pub label_smoothing: Prob,
    /// What is made of the margin.
    pub loss_type: CpoLossType,
}

impl CpoConfig {
    /// The sigmoid without smoothing: Eq. 3.
    pub fn new(beta: Beta) -> Self {
        Self { beta, label_smoothing: Prob::ZERO, loss_type: CpoLossType::Sigmoid }
    }
}

/// One pair's loss: the definition of [`cpo`].
///
/// ```
/// use rlhf_core::loss::cpo::{CpoConfig, cpo_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margin 10 at β = 0.1: log(1 + e⁻¹).
/// let loss = cpo_scalar(CpoConfig::new(Beta::new(0.1)?), [-20.0, -30.0f64]);
/// assert!((loss - 0.31326168751822286).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn cpo_scalar<R: Real>(config: CpoConfig, policy: [R; 2]) -> R {
    cpo_per_token_scalar(config, policy, [1.0; 2])
}

/// One pair's loss with means in place of sums: the definition of [`cpo_per_token`]. A length of 0
/// counts as 1.
pub fn cpo_per_token_scalar<R: Real>(config: CpoConfig, policy: [R; 2], lengths: [f64; 2]) -> R {
    let [chosen, rejected] = means_scalar(policy, lengths);
    let delta = chosen - rejected;
    let beta = config.beta.get();
    match config.loss_type {
        CpoLossType::Sigmoid => smoothed_scalar(delta * beta, config.label_smoothing.get()),
        CpoLossType::Hinge => (-delta * beta + 1.0).relu(),
        CpoLossType::Ipo => (delta - 0.5 / beta).square(),
    }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;
    use burn::tensor::activation::relu;

    use super::{CpoConfig, CpoLossType};
    use crate::pair::{PairLoss, log_ratios, reference_free};
    use crate::pair::{means, smoothed};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Both entries of `policy` (chosen, rejected; log-probabilities summed over the completion) and
    /// every field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn cpo(config: CpoConfig, policy: [Tensor<1>; 2]) -> PairLoss {
        let reference = reference_free(&policy);
        let sums = log_ratios("cpo", policy, reference);
        PairLoss::new(contrast(config, sums.clone()), config.beta.get(), sums)
    }

    /// The loss of each pair, of means in place of sums.
    ///
    /// # Shapes
    /// As [`cpo`]; `lengths` are the numbers of completion tokens, `[B]` each, at least 1 (a completion
    /// without tokens, 0, counts as 1). The rewards are of means too.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn cpo_per_token(config: CpoConfig, policy: [Tensor<1>; 2], lengths: [Tensor<1>; 2]) -> PairLoss {
        let means = means("cpo_per_token", policy, lengths);
        PairLoss::new(contrast(config, means.clone()), config.beta.get(), means)
    }

    /// The loss from what Δ is the difference of.
    fn contrast(config: CpoConfig, [chosen, rejected]: [Tensor<1>; 2]) -> Tensor<1> {
        let (delta, beta) = (chosen - rejected, config.beta.get());
        match config.loss_type {
            CpoLossType::Sigmoid => smoothed(delta.mul_scalar(beta), config.label_smoothing.get()),
            CpoLossType::Hinge => relu(delta.mul_scalar(-beta).add_scalar(1.0)),
            CpoLossType::Ipo => delta.sub_scalar(0.5 / beta).square(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::dpo::{DpoConfig, dpo_scalar};

    fn config(beta: f64, loss_type: CpoLossType) -> CpoConfig {
        CpoConfig { loss_type, ..CpoConfig::new(Beta::new(beta).expect("positive")) }
    }

    #[test]
    fn it_is_dpo_under_a_reference_that_finds_all_texts_alike() {
        let label_smoothing = Prob::new(0.2).expect("a probability");
        let cpo = CpoConfig { label_smoothing, ..config(0.3, CpoLossType::Sigmoid) };
        let dpo = DpoConfig { label_smoothing, ..DpoConfig::new(cpo.beta) };
        for policy in [[-3.0, -8.0], [-5e3, -1.0], [-2.0, -2.0]] {
            let expected = dpo_scalar(dpo, policy, [-40.0, -40.0]);
            assert!((cpo_scalar(cpo, policy) - expected).abs() < 1e-12 * expected.max(1.0));
        }
    }

    #[test]
    fn hinge_and_ipo_by_hand() {
        // Margin 3: 1 − ¾ at β = ¼; (3 − 2)² there. Margin 5 costs the hinge nothing.
        assert!((cpo_scalar(config(0.25, CpoLossType::Hinge), [-5.0, -8.0]) - 0.25).abs() < 1e-15);
        assert!((cpo_scalar(config(0.25, CpoLossType::Ipo), [-5.0, -8.0]) - 1.0).abs() < 1e-15);
        assert!(cpo_scalar(config(0.25, CpoLossType::Hinge), [-5.0, -10.0]).abs() <= 0.0);
    }

    #[test]
    fn per_token_by_hand() {
        // −4/2 + 9/3 = 1, less 1/(2 · ¼) = 2: (−1)².
        let loss = cpo_per_token_scalar(config(0.25, CpoLossType::Ipo), [-4.0, -9.0], [2.0, 3.0]);
        assert!((loss - 1.0).abs() < 1e-15);
    }
}
