//! The KL divergence of the policy from its reference as a term of a token's loss.
//!
//! ```text
//! d = log π − log π_ref        k1 = d        k2 = ½ d²        k3 = e⁻ᵈ − 1 + d
//! pathwise            ℓ = k              ∂ℓ/∂log π = k′
//! straight-through    ℓ = k              ∂ℓ/∂log π = d
//! with score          ℓ = w k,  w = 1    ∂ℓ/∂log π = k′ + k
//! live ratio          ℓ = r k            ∂ℓ/∂log π = r (k′ + k)
//! ```
//!
//! Where: π is `logp`, π_ref is `reference_logp`, k is the `estimator`, w is π/sg(π) with sg the
//! stopped gradient, r is the ratio of π to `old_logp`, the policy that drew the token. Both clamps
//! act on the value: `input_clamp` holds d, `output_clamp` holds k, and a term that is held passes
//! no gradient, the straight-through one excepted.
//! Paper: J. Schulman, *Approximating KL Divergence*, a note of 2020; Tang and Munos, *On a Few
//! Pitfalls in KL Divergence Gradient Estimation for RL*, arXiv:2506.09477, in words; the live ratio
//! of DeepSeek-AI, *DeepSeek-V3.2*, arXiv:2512.02556, section 3.1.
//! Departures: the usual k3 in the loss, pathwise, has not the gradient of the KL but, in the mean,
//! that of the reversed KL(π_ref ‖ π), and k1 pathwise has none. The right ones are k2 pathwise, any
//! straight-through, and k1 or k3 with score; [`KlConfig::unbiased`] takes the live ratio, which
//! stays right when π has left the policy that drew the tokens. [`KlConfig::paper`] is the usual.
//! Detached: `reference_logp`, `old_logp`.

use serde::{Deserialize, Serialize};

use crate::number::Bound;
use crate::real::Real;
use crate::token::{MAX_LOG_RATIO, token_ratio_scalar};

#[cfg(feature = "burn")]
pub use tensor::kl_penalty;

/// What estimates the divergence from one drawn token; [`host::kl`](crate::host::kl) has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// d: no bias, may be negative.
    K1,
    /// ½ d²: never negative, biased.
    K2,
    /// e⁻ᵈ − 1 + d: no bias and never negative.
    K3,
}

/// What is differentiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlGradient {
    /// The estimator's formula alone: verl's `low_var_kl`, TRL's without `use_bias_correction_kl`.
    Pathwise,
    /// The estimator's value with the gradient of k2: verl's names that end in `+`.
    StraightThrough,
    /// The formula and the probability of the token that it is evaluated at: NeMo-RL's.
    WithScore,
    /// The same through the ratio to the policy that drew the token, which the value is weighted
    /// by: TRL's `use_bias_correction_kl` (on by default in 1.16), NeMo-RL's
    /// `use_on_policy_kl_approximation`.
    LiveRatio,
}

/// Numbers and choices of [`kl_penalty`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlConfig {
    /// What estimates the divergence.
    pub estimator: KlEstimator,
    /// What is differentiated.
    pub gradient: KlGradient,
    /// How large |d| counts, in nats: 20 in verl and NeMo-RL, infinite in TRL.
    pub input_clamp: Bound,
    /// How large |k| counts, in nats: 10 in verl and NeMo-RL, infinite in TRL.
    pub output_clamp: Bound,
}

impl KlConfig {
    /// An estimator and its gradient without clamps.
    pub fn new(estimator: KlEstimator, gradient: KlGradient) -> Self {
        Self { estimator, gradient, input_clamp: Bound::NONE, output_clamp: Bound::NONE }
    }

    /// k3 weighted by the live ratio: value and gradient have the KL's as their means.
    pub fn unbiased() -> Self {
        Self::new(KlEstimator::K3, KlGradient::LiveRatio)
    }

    /// k3 in the loss as it is: Eq. 4 of Shao et al., arXiv:2402.03300.
    pub fn paper() -> Self {
        Self::new(KlEstimator::K3, KlGradient::Pathwise)
    }
}

/// One token's term: the definition of [`kl_penalty`]. `old_logp` counts for the live ratio alone.
///
/// ```
/// use rlhf_core::loss::kl_penalty::{KlConfig, kl_penalty_scalar};
///
/// // Twice as likely as under the reference: ½ − 1 + log 2.
/// let term = kl_penalty_scalar(KlConfig::paper(), 0.5f64.ln(), 0.25f64.ln(), 0.5f64.ln());
/// assert!((term - 0.1931471805599453).abs() < 1e-15);
/// ```
pub fn kl_penalty_scalar<R: Real>(config: KlConfig, logp: R, reference_logp: f64, old_logp: f64) -> R {
    let (input, output) = (config.input_clamp.get(), config.output_clamp.get());
    let d = logp - reference_logp;
    let held = d.clamp(-input, input);
    let estimate = match config.estimator {
        KlEstimator::K1 => held,
        KlEstimator::K2 => held.square() * 0.5,
        KlEstimator::K3 => (-held).clamp(f64::NEG_INFINITY, MAX_LOG_RATIO).exp_m1() + held,
    };
    let k = estimate.clamp(-output, output);
    let weight = match config.gradient {
        KlGradient::Pathwise => return k,
        KlGradient::StraightThrough => return (d - d.detached()) * d.detached() + k.detached(),
        KlGradient::WithScore => (logp - logp.detached()).exp(),
        KlGradient::LiveRatio => token_ratio_scalar(logp, old_logp),
    };
    let free = d.value().abs() <= input && estimate.value().abs() <= output;
    k * if free { weight } else { weight.detached() }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::{KlConfig, KlEstimator, KlGradient};
    use crate::elementwise::exp_m1;
    use crate::mask::masked;
    use crate::shape::same;
    use crate::token::{MAX_LOG_RATIO, token_ratio};

    /// The term of each token, 0 behind the mask.
    ///
    /// `old_logp` counts for the live ratio alone: on tokens that the policy has just drawn, `logp`
    /// itself will do.
    ///
    /// # Shapes
    /// All arguments and the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn kl_penalty(
        config: KlConfig,
        logp: Tensor<2>,
        reference_logp: Tensor<2>,
        old_logp: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> Tensor<2> {
        let name = "kl_penalty";
        same(name, "reference_logp", reference_logp.dims(), logp.dims());
        same(name, "old_logp", old_logp.dims(), logp.dims());
        let (input, output) = (config.input_clamp.get(), config.output_clamp.get());
        let d = masked(name, logp.clone() - reference_logp.detach(), mask);
        let estimate = estimate(config.estimator, hold(d.clone(), input));
        let k = hold(estimate.clone(), output);
        let base = match config.gradient {
            KlGradient::Pathwise => return k,
            KlGradient::StraightThrough => {
                return (d.clone() - d.clone().detach()) * d.detach() + k.detach();
            }
            KlGradient::WithScore => logp.clone(),
            KlGradient::LiveRatio => old_logp,
        };
        let weight = token_ratio(name, logp, base, mask);
        let is_held = d.abs().greater_elem(input).bool_or(estimate.abs().greater_elem(output));
        k * weight.clone().mask_where(is_held, weight.detach())
    }

    fn hold(x: Tensor<2>, bound: f64) -> Tensor<2> {
        if bound.is_finite() { x.clamp(-bound, bound) } else { x }
    }

    fn estimate(estimator: KlEstimator, d: Tensor<2>) -> Tensor<2> {
        match estimator {
            KlEstimator::K1 => d,
            KlEstimator::K2 => (d.clone() * d).mul_scalar(0.5),
            KlEstimator::K3 => exp_m1(d.clone().neg().clamp_max(MAX_LOG_RATIO)) + d,
        }
    }
}

#[cfg(test)]
mod tests;
