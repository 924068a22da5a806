//! Triple Preference Optimization: a pair's contrast, and the likelihood of a gold response.
//!
//! ```text
//! ℓ = c(y⁺, y⁻) − α log π(y*|x)
//! sigmoid   c = −(1 − ε) log σ(β Δ) − ε log σ(−β Δ)               hinge   c = max(0, 1 − β Δ)
//! tpo-l     c = −(1 − ε) log σ(β Δ̄ − γ) − ε log σ(−β Δ̄ + γ)       ipo     c = (Δ̄ − 1/(2β))²
//! Δ = log π(y⁺|x) − log π(y⁻|x)        Δ̄ = log π(y⁺|x)/n⁺ − log π(y⁻|x)/n⁻
//! ```
//!
//! Where: log π(y⁺|x) and log π(y⁻|x) are entries 0 and 1 of `policy`, n⁺ and n⁻ those of `lengths`,
//! log π(y*|x) is `gold`, α, β and ε are `alpha`, `beta` and `label_smoothing`, γ is that of `TpoL`.
//! Paper: Saeidi et al., *Triple Preference Optimization: Achieving Better Alignment using a Single
//! Step Optimization*, arXiv:2405.16681, the objectives of TPO and TPO-L in words.
//! Departures: the paper has `sigmoid` and `tpo-l` with ε = 0; `hinge`, `ipo` and ε are TRL's. TRL
//! takes the mean of −log π(y*|x) over the batch's gold tokens: who wants that adds α times the sum
//! of `nll`, over the tokens, to the mean of `contrast`.
//! Detached: `lengths`, and both rewards of the result (β times what the margin is the difference
//! of); `contrast` and `nll` keep their gradient, so that a caller can weigh them himself.

use serde::{Deserialize, Serialize};

use super::cpo::{CpoConfig, CpoLossType, cpo_per_token_scalar, cpo_scalar};
use super::simpo::{SimpoConfig, simpo_scalar};
use crate::number::{Beta, Prob, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{TripleLoss, triple};

/// What is made of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TripleLossType {
    /// The paper's TPO.
    Sigmoid,
    /// A margin of 1/β costs nothing.
    Hinge,
    /// A margin of 1/(2β) a token is sought.
    Ipo,
    /// The paper's TPO-L with its γ, the margin sought between the two rewards: TRL's `tpo_l_gamma`.
    TpoL(Weight),
}

/// Numbers of [`triple`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TripleConfig {
    /// β: the scale of the reward.
    pub beta: Beta,
    /// α: the weight of the gold response's likelihood, TRL's `tpo_alpha`; 0 is off.
    pub alpha: Weight,
    /// ε: the share of labels taken to be the wrong way round. `Sigmoid` and `TpoL` alone have it.
    pub label_smoothing: Prob,
    /// What is made of the pair.
    pub loss_type: TripleLossType,
}

impl TripleConfig {
    /// TPO without smoothing.
    pub fn new(beta: Beta, alpha: Weight) -> Self {
        Self { beta, alpha, label_smoothing: Prob::ZERO, loss_type: TripleLossType::Sigmoid }
    }
}

/// One triple's loss: the definition of [`triple`].
///
/// ```
/// use rlhf_core::loss::triple::{TripleConfig, triple_scalar};
/// use rlhf_core::number::{Beta, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margin 10 at β = 0.1: log(1 + e⁻¹); the gold response costs half of 6.
/// let config = TripleConfig::new(Beta::new(0.1)?, Weight::new(0.5)?);
/// let loss = triple_scalar(config, [-20.0, -30.0f64], [4.0, 3.0], -6.0);
/// assert!((loss - 3.31326168751822286).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn triple_scalar<R: Real>(config: TripleConfig, policy: [R; 2], lengths: [f64; 2], gold: R) -> R {
    let cpo = |loss_type| config.cpo(loss_type);
    let contrast = match config.loss_type {
        TripleLossType::Sigmoid => cpo_scalar(cpo(CpoLossType::Sigmoid), policy),
        TripleLossType::Hinge => cpo_scalar(cpo(CpoLossType::Hinge), policy),
        TripleLossType::Ipo => cpo_per_token_scalar(cpo(CpoLossType::Ipo), policy, lengths),
        TripleLossType::TpoL(gamma) => simpo_scalar(config.simpo(gamma), policy, lengths),
    };
    let alpha = config.alpha.get();
    // Without weight there may be no gold response at all: whatever stands there is not read.
    if alpha > 0.0 { contrast - gold * alpha } else { contrast }
}

impl TripleConfig {
    fn cpo(self, loss_type: CpoLossType) -> CpoConfig {
        CpoConfig { beta: self.beta, label_smoothing: self.label_smoothing, loss_type }
    }

    fn simpo(self, gamma: Weight) -> SimpoConfig {
        SimpoConfig { beta: self.beta, gamma, label_smoothing: self.label_smoothing }
    }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::super::cpo::{CpoLossType, cpo, cpo_per_token};
    use super::super::simpo::simpo;
    use super::{TripleConfig, TripleLossType};
    use crate::pair::means;
    use crate::shape::same;

    /// What [`triple`] gives.
    #[derive(Debug, Clone)]
    pub struct TripleLoss {
        /// `[B]`: the contrast, and α times `nll` where α is not 0.
        pub loss: Tensor<1>,
        /// `[B]`: c, of the pair alone. Keeps its gradient.
        pub contrast: Tensor<1>,
        /// `[B]`: −log π(y*|x) in nats, without its weight. Keeps its gradient.
        pub nll: Tensor<1>,
        /// `[B]`: β times the chosen log-probability (its mean for `ipo` and `tpo-l`). Detached.
        pub chosen_reward: Tensor<1>,
        /// `[B]`: the same of the rejected one. Detached.
        pub rejected_reward: Tensor<1>,
    }

    /// The loss of each triple.
    ///
    /// # Shapes
    /// Every entry of `policy` (chosen, rejected; log-probabilities summed over the completion), of
    /// `lengths` (completion tokens, at least 1; a completion without tokens, 0, counts as 1), `gold`
    /// (the summed log-probability of the gold response; not read where α = 0) and every field of the
    /// result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn triple(
        config: TripleConfig,
        policy: [Tensor<1>; 2],
        lengths: [Tensor<1>; 2],
        gold: Tensor<1>,
    ) -> TripleLoss {
        // Checks the shapes of both, whichever the loss needs.
        let [chosen, _] = means("triple", policy.clone(), lengths.clone());
        same("triple", "gold", gold.dims(), chosen.dims());
        let pair = match config.loss_type {
            TripleLossType::Sigmoid => cpo(config.cpo(CpoLossType::Sigmoid), policy),
            TripleLossType::Hinge => cpo(config.cpo(CpoLossType::Hinge), policy),
            TripleLossType::Ipo => cpo_per_token(config.cpo(CpoLossType::Ipo), policy, lengths),
            TripleLossType::TpoL(gamma) => simpo(config.simpo(gamma), policy, lengths),
        };
        let nll = gold.neg();
        let alpha = config.alpha.get();
        let loss = pair.loss.clone();
        TripleLoss {
            loss: if alpha > 0.0 { loss + nll.clone().mul_scalar(alpha) } else { loss },
            contrast: pair.loss,
            nll,
            chosen_reward: pair.chosen_reward,
            rejected_reward: pair.rejected_reward,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config(alpha: f64, loss_type: TripleLossType) -> TripleConfig {
        let (beta, alpha) = (Beta::new(0.5).expect("positive"), Weight::new(alpha).expect("a weight"));
        TripleConfig { loss_type, ..TripleConfig::new(beta, alpha) }
    }

    #[test]
    fn each_contrast_by_hand() {
        let of = |loss_type| triple_scalar(config(0.0, loss_type), [-2.0, -6.0], [2.0, 3.0], -9.0);
        let gamma = Weight::new(0.5).expect("a weight");
        // Δ = 4 and Δ̄ = 1 at β = ½: β Δ = 2, β Δ̄ − γ = 0, Δ̄ sought is 1.
        assert!((of(TripleLossType::Sigmoid) - (-2f64).exp().ln_1p()).abs() < 1e-15);
        assert!((of(TripleLossType::TpoL(gamma)) - std::f64::consts::LN_2).abs() < 1e-15);
        assert!(of(TripleLossType::Hinge).abs() <= 0.0 && of(TripleLossType::Ipo).abs() < 1e-15);
    }

    #[test]
    fn the_gold_response_is_only_pulled_up() {
        let (_, slope) = gradient(&[-2.0, -2.0, -9.0], |x| {
            triple_scalar(config(0.3, TripleLossType::Sigmoid), [x[0], x[1]], [1.0; 2], x[2])
        });
        // ∓β/2 at a margin of 0, and −α.
        assert!((slope[0] + 0.25).abs() < 1e-15 && (slope[1] - 0.25).abs() < 1e-15);
        assert!((slope[2] + 0.3).abs() < 1e-15);
    }
}
