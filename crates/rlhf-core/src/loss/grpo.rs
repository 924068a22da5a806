//! Group relative policy optimisation: the clipped surrogate and the KL of each token.
//!
//! ```text
//! ℓ_t = −min(min(r_t, δ) A_t, clip(r_t, 1 − ε_low, 1 + ε_high) A_t) + β KL_t
//! ```
//!
//! Where: the surrogate is that of [`ppo_clip`](crate::loss::ppo_clip) under `clip`, KL_t is
//! [`kl_penalty`](crate::loss::kl_penalty) under `kl`, β is `beta`, A_t is `advantage`, the same
//! for all tokens of a completion, from its group's rewards ([`host`](crate::host)).
//! Paper: Shao et al., *DeepSeekMath*, arXiv:2402.03300, Eq. 3 (the KL: Eq. 4).
//! Departures: the paper's mean of sequence means is the caller's,
//! [`Normalise::SequenceMean`](crate::mask::Normalise); the files of `dapo`, `dr_grpo`, `bnpo` and
//! `luspo` name others. The paper differentiates k3 alone, which is not the gradient of the KL: that
//! is [`GrpoConfig::paper`], [`GrpoConfig::new`] has the right one.
//! Detached: `old_logp`, `reference_logp`, `advantage`, and the result's ratio and KL.

use serde::{Deserialize, Serialize};

use crate::loss::kl_penalty::{KlConfig, kl_penalty_scalar};
use crate::loss::ppo_clip::{PpoClipConfig, ppo_clip_scalar};
use crate::number::Weight;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{GrpoLoss, GrpoTokens, grpo};

/// Numbers of [`grpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoConfig {
    /// The range that a ratio may move in.
    pub clip: PpoClipConfig,
    /// β: the weight of the KL; 0 needs no reference.
    pub beta: Weight,
    /// How the KL is estimated and differentiated.
    pub kl: KlConfig,
}

impl GrpoConfig {
    /// The same ε on both sides, and a KL whose gradient is that of the KL.
    pub fn new(epsilon: Weight, beta: Weight) -> Self {
        Self { clip: PpoClipConfig::new(epsilon), beta, kl: KlConfig::unbiased() }
    }

    /// Eq. 3 and 4 as they stand. The paper's β is 0.04 (section 4.2).
    pub fn paper(epsilon: Weight, beta: Weight) -> Self {
        Self { kl: KlConfig::paper(), ..Self::new(epsilon, beta) }
    }
}

/// One token's loss: the definition of [`grpo`]. `reference_logp` counts for β > 0 alone.
///
/// ```
/// use rlhf_core::loss::grpo::{GrpoConfig, grpo_scalar};
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// let config = GrpoConfig::paper(Weight::new(0.2)?, Weight::new(0.5)?);
/// // The ratio is 2, clipped at 1.2, A = 3; π/π_ref is 2: −3.6 + ½ (½ − 1 + log 2).
/// let loss = grpo_scalar(config, 0.5f64.ln(), 0.25f64.ln(), 0.25f64.ln(), 3.0);
/// assert!((loss + 3.5034264097200273).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn grpo_scalar<R: Real>(
    config: GrpoConfig,
    logp: R,
    old_logp: f64,
    reference_logp: f64,
    advantage: f64,
) -> R {
    let surrogate = ppo_clip_scalar(config.clip, logp, old_logp, advantage);
    let beta = config.beta.get();
    if beta > 0.0 {
        surrogate + kl_penalty_scalar(config.kl, logp, reference_logp, old_logp) * beta
    } else {
        surrogate
    }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::GrpoConfig;
    use crate::loss::kl_penalty::kl_penalty;
    use crate::loss::ppo_clip::ppo_clip;
    use crate::mask::masked;
    use crate::shape::same;

    /// What [`grpo`] is told of the tokens of completions, `[B, T]` each.
    #[derive(Debug, Clone)]
    pub struct GrpoTokens {
        /// log π, the only one that gets a gradient.
        pub logp: Tensor<2>,
        /// That of the policy that drew the tokens.
        pub old_logp: Tensor<2>,
        /// That of the reference; none where β = 0.
        pub reference_logp: Option<Tensor<2>>,
        /// A; one a sequence is spread by [`per_token`](crate::mask::per_token).
        pub advantage: Tensor<2>,
    }

    /// What [`grpo`] gives.
    #[derive(Debug, Clone)]
    pub struct GrpoLoss {
        /// `[B, T]`, 0 behind the mask.
        pub loss: Tensor<2>,
        /// `[B, T]`: r, 1 behind the mask. Detached.
        pub ratio: Tensor<2>,
        /// `[B, T]`: the KL before β, in nats, 0 behind the mask; none where β = 0. Detached.
        pub kl: Option<Tensor<2>>,
    }

    /// The loss of each token.
    ///
    /// # Shapes
    /// The mask, every tensor of `tokens` and each field of the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis, different shapes, or no reference where β > 0.
    #[track_caller]
    pub fn grpo(config: GrpoConfig, tokens: GrpoTokens, mask: &Tensor<2, Bool>) -> GrpoLoss {
        let name = "grpo";
        let GrpoTokens { logp, old_logp, reference_logp, advantage } = tokens;
        let shape = logp.dims();
        same(name, "old_logp", old_logp.dims(), shape);
        same(name, "advantage", advantage.dims(), shape);
        let logp = masked(name, logp, mask);
        let surrogate = ppo_clip(config.clip, logp.clone(), old_logp.clone(), advantage, mask);
        let beta = config.beta.get();
        if beta <= 0.0 {
            return GrpoLoss { loss: surrogate.loss, ratio: surrogate.ratio, kl: None };
        }
        let Some(reference_logp) = reference_logp else {
            panic!("{name}: reference_logp: expected shape {shape:?} for β = {beta}, found none");
        };
        same(name, "reference_logp", reference_logp.dims(), shape);
        let kl = kl_penalty(config.kl, logp, reference_logp, old_logp, mask);
        let loss = surrogate.loss + kl.clone().mul_scalar(beta);
        GrpoLoss { loss, ratio: surrogate.ratio, kl: Some(kl.detach()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn weight(x: f64) -> Weight {
        Weight::new(x).expect("a weight")
    }

    #[test]
    fn on_the_drawing_policy_the_gradient_is_that_of_the_policy_and_the_divergence() {
        // r = 1: −A from the surrogate; d = −0.7 times β with the live ratio, and as the paper has it
        // (its gradient coefficient, section A.1.6) β (1 − e⁰·⁷).
        let slope = |config| gradient(&[-1.0], |x| grpo_scalar(config, x[0], -1.0, -0.3, 2.0)).1[0];
        let of = |make: fn(Weight, Weight) -> GrpoConfig| slope(make(weight(0.2), weight(0.1)));
        assert!((of(GrpoConfig::new) + 2.07).abs() < 1e-15);
        assert!((of(GrpoConfig::paper) + 2.0 + 0.1 * 0.7f64.exp_m1()).abs() < 1e-15);
    }

    #[test]
    fn without_a_kl_there_is_no_reference() {
        let config = GrpoConfig::new(weight(0.2), Weight::ZERO);
        let loss = grpo_scalar(config, -1.0, -1.0, f64::NAN, 2.0);
        assert!((loss + 2.0).abs() <= 0.0);
    }

    #[test]
    fn a_config_refuses_what_it_does_not_know() {
        let text = |more: &str| {
            format!(
                r#"{{"clip": {{"epsilon_low": 0.2, "epsilon_high": 0.28, "delta": 4}}, "beta": 0.04{more},
                "kl": {{"estimator": "k3", "gradient": "live_ratio", "input_clamp": 20, "output_clamp": 10}}}}"#
            )
        };
        let config: GrpoConfig = serde_json::from_str(&text("")).expect("a config");
        assert!((config.clip.epsilon_high.get() - 0.28).abs() <= 0.0);
        assert!(serde_json::from_str::<GrpoConfig>(&text(r#", "k": 1"#)).is_err());
    }
}
