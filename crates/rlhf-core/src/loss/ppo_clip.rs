//! Proximal policy optimisation: the clipped surrogate of each token.
//!
//! ```text
//! ℓ_t = −min(min(r_t, δ) A_t, clip(r_t, 1 − ε_low, 1 + ε_high) A_t)
//! ```
//!
//! Where: r_t is the ratio of `logp` to `old_logp` ([`token`](crate::token)), A_t is `advantage`,
//! ε_low, ε_high and δ are `epsilon_low`, `epsilon_high` and `delta`.
//! Paper: Schulman et al., *Proximal Policy Optimization Algorithms*, arXiv:1707.06347, Eq. 7; δ is
//! the dual clip of Ye et al., *Mastering Complex Control in MOBA Games with Deep Reinforcement
//! Learning*, arXiv:1912.09729, Eq. 4.
//! Departures: Eq. 7 has ε_low = ε_high and δ = ∞. δ bounds r as in TRL, which for δ ≥ 1 + ε_high is
//! the dual clip: it acts where A < 0 alone.
//! Detached: `old_logp`, `advantage`, and the result's ratio.

use serde::{Deserialize, Serialize};

use crate::number::{Bound, Weight};
use crate::real::Real;
use crate::token::token_ratio_scalar;

#[cfg(feature = "burn")]
pub use tensor::ppo_clip;
#[cfg(feature = "burn")]
pub(crate) use tensor::surrogate;

/// The range that a ratio may move in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoClipConfig {
    /// ε_low: how far below 1 a ratio still has a gradient where A < 0.
    pub epsilon_low: Weight,
    /// ε_high: how far above 1 a ratio still has a gradient where A > 0.
    pub epsilon_high: Weight,
    /// δ: how far a ratio counts where A < 0; infinite for no bound.
    pub delta: Bound,
}

impl PpoClipConfig {
    /// The same ε on both sides and no δ: Eq. 7. The paper's best ε is 0.2 (Table 1).
    pub fn new(epsilon: Weight) -> Self {
        Self { epsilon_low: epsilon, epsilon_high: epsilon, delta: Bound::NONE }
    }
}

/// One token's loss: the definition of [`ppo_clip`].
///
/// ```
/// use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip_scalar};
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The ratio is 2 and the advantage 3: clipped at 1.2.
/// let loss = ppo_clip_scalar(PpoClipConfig::new(Weight::new(0.2)?), 2f64.ln(), 0.0, 3.0);
/// assert!((loss + 3.6).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn ppo_clip_scalar<R: Real>(config: PpoClipConfig, logp: R, old_logp: f64, advantage: f64) -> R {
    surrogate_scalar(config, token_ratio_scalar(logp, old_logp), advantage)
}

/// The loss of a ratio, whatever it is the ratio of: the definition of `surrogate`.
pub(crate) fn surrogate_scalar<R: Real>(config: PpoClipConfig, ratio: R, advantage: f64) -> R {
    let clipped = ratio.clamp(1.0 - config.epsilon_low.get(), 1.0 + config.epsilon_high.get());
    let free = ratio.clamp(f64::NEG_INFINITY, config.delta.get());
    -(free * advantage).min(clipped * advantage)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::PpoClipConfig;
    use crate::elementwise::smaller;
    use crate::mask::masked;
    use crate::shape::same;
    use crate::token::{TokenLoss, token_ratio};

    /// The loss of each token.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B, T]`; one advantage a sequence is spread
    /// by [`per_token`](crate::mask::per_token).
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn ppo_clip(
        config: PpoClipConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let name = "ppo_clip";
        same(name, "advantage", advantage.dims(), logp.dims());
        let ratio = token_ratio(name, logp, old_logp, mask);
        let advantage = masked(name, advantage.detach(), mask);
        let loss = surrogate(config, ratio.clone(), advantage);
        TokenLoss { loss, ratio: ratio.detach() }
    }

    /// The loss of each ratio, whatever they are the ratios of; `advantage` is detached and masked.
    pub(crate) fn surrogate<const D: usize>(
        config: PpoClipConfig,
        ratio: Tensor<D>,
        advantage: Tensor<D>,
    ) -> Tensor<D> {
        let (low, high) = (1.0 - config.epsilon_low.get(), 1.0 + config.epsilon_high.get());
        let clipped = ratio.clone().clamp(low, high) * advantage.clone();
        let delta = config.delta.get();
        let free = if delta.is_finite() { ratio.clamp_max(delta) } else { ratio };
        smaller(free * advantage, clipped).neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(ratio: f64, advantage: f64) -> f64 {
        let weight = |x| Weight::new(x).expect("a weight");
        let config = PpoClipConfig {
            epsilon_high: weight(0.3),
            delta: Bound::new(3.0).expect("positive"),
            ..PpoClipConfig::new(weight(0.2))
        };
        ppo_clip_scalar(config, ratio.ln(), 0.0, advantage)
    }

    #[test]
    fn each_corner_by_hand() {
        // Good token: gains stop at 1.3, losses count in full.
        assert!((loss(2.0, 1.0) + 1.3).abs() < 1e-15 && (loss(0.5, 1.0) + 0.5).abs() < 1e-15);
        // Bad token: gains stop at 0.8, losses count up to 3.
        assert!((loss(0.5, -1.0) - 0.8).abs() < 1e-15 && (loss(2.0, -1.0) - 2.0).abs() < 1e-15);
        assert!((loss(9.0, -1.0) - 3.0).abs() < 1e-15);
    }

    #[test]
    fn the_gradient_stops_where_the_gain_does() {
        let slope = |log_ratio: f64, advantage: f64| {
            let config = PpoClipConfig::new(Weight::new(0.2).expect("a weight"));
            crate::real::gradient(&[log_ratio], |x| ppo_clip_scalar(config, x[0], 0.0, advantage)).1[0]
        };
        assert!((slope(0.0, 1.0) + 1.0).abs() < 1e-15 && slope(1.0, 1.0).abs() <= 0.0);
        assert!((slope(1.0, -1.0) - 1f64.exp()).abs() < 1e-15 && slope(-1.0, -1.0).abs() <= 0.0);
    }
}
