//! Proximal policy optimisation: the value loss of each token.
//!
//! ```text
//! ℓ_t = ½ max((V_t − R_t)², (clip(V_t, V_old,t − ε, V_old,t + ε) − R_t)²)
//! ```
//!
//! Where: V is `value`, V_old is `old_value`, R is `ret`, ε is `cliprange_value`.
//! Paper: Schulman et al., *Proximal Policy Optimization Algorithms*, arXiv:1707.06347, Eq. 9.
//! Departures: Eq. 9 has no ½ and no clip, which are from the authors' code (ppo2 of OpenAI
//! baselines), as in TRL; an infinite ε leaves the halved square.
//! Detached: `old_value`, `ret`, and the result's `clipped`.

use serde::{Deserialize, Serialize};

use crate::number::Bound;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{ValueLoss, ppo_value};

/// The range that a value may move in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoValueConfig {
    /// ε: how far from the old value a prediction still gains; infinite for no clip.
    pub cliprange_value: Bound,
}

/// One token's loss: the definition of [`ppo_value`].
///
/// ```
/// use rlhf_core::loss::ppo_value::{PpoValueConfig, ppo_value_scalar};
/// use rlhf_core::number::Bound;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // From 0 towards 3, clipped at 1: half of 2², although the value itself is only 1 away.
/// let config = PpoValueConfig { cliprange_value: Bound::new(1.0)? };
/// assert_eq!(ppo_value_scalar(config, 2.0, 0.0, 3.0), 2.0);
/// # Ok(())
/// # }
/// ```
pub fn ppo_value_scalar<R: Real>(config: PpoValueConfig, value: R, old_value: f64, ret: f64) -> R {
    let range = config.cliprange_value.get();
    let held = value.max(R::from(old_value - range)).min(R::from(old_value + range));
    (value - ret).square().max((held - ret).square()) * 0.5
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::PpoValueConfig;
    use crate::elementwise::{larger, smaller};
    use crate::mask::masked;
    use crate::shape::same;

    /// What the value loss gives.
    #[derive(Debug, Clone)]
    pub struct ValueLoss {
        /// `[B, T]`, 0 behind the mask.
        pub loss: Tensor<2>,
        /// `[B, T]`: 1 where the clipped error is the larger one, so that the value gets no
        /// gradient; 0 elsewhere and behind the mask. Detached.
        pub clipped: Tensor<2>,
    }

    /// The loss of each token.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn ppo_value(
        config: PpoValueConfig,
        value: Tensor<2>,
        old_value: Tensor<2>,
        ret: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> ValueLoss {
        let name = "ppo_value";
        same(name, "old_value", old_value.dims(), value.dims());
        same(name, "ret", ret.dims(), value.dims());
        let value = masked(name, value, mask);
        let ret = masked(name, ret.detach(), mask);
        let free = (value.clone() - ret.clone()).square();
        let range = config.cliprange_value.get();
        if range.is_infinite() {
            return ValueLoss { clipped: free.zeros_like().detach(), loss: free.mul_scalar(0.5) };
        }
        let old = masked(name, old_value.detach(), mask);
        // Not old + clamp(value − old), whose rounding would move a value inside of the range.
        let held = smaller(larger(value, old.clone().sub_scalar(range)), old.add_scalar(range));
        let bound = (held - ret).square();
        let clipped = bound.clone().greater(free.clone()).float().detach();
        ValueLoss { loss: larger(free, bound).mul_scalar(0.5), clipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config(range: f64) -> PpoValueConfig {
        PpoValueConfig { cliprange_value: Bound::new(range).expect("positive") }
    }

    #[test]
    fn each_corner_by_hand() {
        // Old value 1, ε = ½, return 3: gains stop at 1.5, losses count in full.
        let at = |value: f64| gradient(&[value], |x| ppo_value_scalar(config(0.5), x[0], 1.0, 3.0));
        for (value, loss, slope) in [
            (1.25, 1.531_25, -1.75),
            // Beyond the range and nearer: ½ · 1.5², without a gradient.
            (2.0, 1.125, 0.0),
            // Beyond it the other way: the free error is larger.
            (0.0, 4.5, -3.0),
            // Past the return, further from it than the bound: ½ · 2².
            (5.0, 2.0, 2.0),
        ] {
            let (found, into) = at(value);
            assert!(
                (found - loss).abs() < 1e-15 && (into[0] - slope).abs() < 1e-15,
                "{value}: {found} {into:?}"
            );
        }
    }

    #[test]
    fn without_a_range_it_is_half_of_the_square() {
        for (value, ret) in [(0.0, 3.0), (-5e3, 5e3), (2.0, 2.0)] {
            let found = gradient(&[value], |x| {
                ppo_value_scalar(PpoValueConfig { cliprange_value: Bound::NONE }, x[0], 7.0, ret)
            });
            assert!((found.0 - 0.5 * (value - ret).powi(2)).abs() <= 0.0);
            assert!((found.1[0] - (value - ret)).abs() <= 0.0);
        }
    }

    #[test]
    fn clipping_never_lowers_a_loss() {
        for value in [-3.0, -0.4, 0.1, 0.6, 4.0] {
            for ret in [-1.0, 0.2, 2.0] {
                assert!(
                    ppo_value_scalar(config(0.3), value, 0.0, ret) >= 0.5 * (value - ret) * (value - ret)
                );
            }
        }
    }
}
