//! Clipped importance weights, so that every token keeps a gradient.
//!
//! ```text
//! ℓ_t = −sg(w_t) A_t log π_t
//! upper bound    w_t = min(r_t, max)
//! two-sided      w_t = clip(r_t, 1 − ε_low, 1 + ε_high)
//! ```
//!
//! Where: r_t is the ratio of `logp` (π) to `old_logp` ([`token`](crate::token)), A_t is
//! `advantage`, sg stops the gradient.
//! Paper: MiniMax, *MiniMax-M1*, arXiv:2506.13585, Eq. 4 and 5.
//! Departures: the paper's mean over tokens is the caller's ([`dapo`](crate::loss::dapo) has it).
//! Eq. 5 has both bounds and the paper's runs no lower one. TRL's `epsilon_high` is the bound `max`
//! itself, for which it recommends 5; in verl and NeMo-RL it is the distance from 1, on both sides.
//! Detached: `old_logp`, `advantage`, the weight w, and the result's ratio.

use serde::{Deserialize, Serialize};

use crate::number::{Bound, Weight};
use crate::real::Real;
use crate::token::token_ratio_scalar;

#[cfg(feature = "burn")]
pub use tensor::cispo;

/// How far a weight may go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CispoConfig {
    /// Up to `max`: TRL's reading.
    UpperBound {
        /// The largest weight, on the ratio's own scale; infinite for no bound.
        max: Bound,
    },
    /// From 1 − ε_low to 1 + ε_high: verl's and NeMo-RL's reading.
    TwoSided {
        /// ε_low: how far below 1 a weight may go.
        epsilon_low: Weight,
        /// ε_high: how far above 1 a weight may go.
        epsilon_high: Weight,
    },
}

impl CispoConfig {
    /// The smallest and the largest weight.
    fn range(self) -> [f64; 2] {
        match self {
            Self::UpperBound { max } => [0.0, max.get()],
            Self::TwoSided { epsilon_low, epsilon_high } => {
                [1.0 - epsilon_low.get(), 1.0 + epsilon_high.get()]
            }
        }
    }
}

/// One token's loss: the definition of [`cispo`].
///
/// ```
/// use rlhf_core::loss::cispo::{CispoConfig, cispo_scalar};
/// use rlhf_core::number::Bound;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The ratio is 4 and counts as 3, A is 2: −3 · 2 · log ½ = 6 log 2.
/// let config = CispoConfig::UpperBound { max: Bound::new(3.0)? };
/// let loss = cispo_scalar(config, 0.5f64.ln(), 0.125f64.ln(), 2.0);
/// assert!((loss - 4.1588830833596715).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn cispo_scalar<R: Real>(config: CispoConfig, logp: R, old_logp: f64, advantage: f64) -> R {
    let [low, high] = config.range();
    let weight = token_ratio_scalar(logp, old_logp).detached().clamp(low, high);
    -(weight * logp * advantage)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::CispoConfig;
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
    pub fn cispo(
        config: CispoConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let name = "cispo";
        same(name, "advantage", advantage.dims(), logp.dims());
        let ratio = token_ratio(name, logp.clone(), old_logp, mask).detach();
        let [low, high] = config.range();
        let weight = ratio.clone().clamp(low, high);
        let loss = (weight * masked(name, advantage.detach(), mask) * masked(name, logp, mask)).neg();
        TokenLoss { loss, ratio }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn two_sided() -> CispoConfig {
        let epsilon = Weight::new(0.2).expect("a weight");
        CispoConfig::TwoSided { epsilon_low: epsilon, epsilon_high: epsilon }
    }

    fn upper(max: f64) -> CispoConfig {
        CispoConfig::UpperBound { max: Bound::new(max).expect("positive") }
    }

    #[test]
    fn three_tokens_in_both_readings() {
        // Ratios ½, 1 and 1.5 from −1, advantages 1, −1 and 2. Two-sided the weights are 0.8, 1 and
        // 1.2, with the one bound 5 they are the ratios: log π = −1 + log r.
        let ratios = [0.5f64, 1.0, 1.5];
        for (config, weights) in [(two_sided(), [0.8, 1.0, 1.2]), (upper(5.0), ratios)] {
            for i in 0..3 {
                let (logp, a) = (-1.0 + ratios[i].ln(), [1.0, -1.0, 2.0][i]);
                let loss = cispo_scalar(config, logp, -1.0, a);
                assert!((loss + weights[i] * a * logp).abs() < 1e-15);
            }
        }
    }

    #[test]
    fn a_clipped_token_keeps_its_gradient() {
        // PPO would have none in the first case: −w A.
        for (config, logp, advantage, slope) in
            [(two_sided(), 1.0, 2.0, -2.4), (two_sided(), -9.0, -1.0, 0.8), (upper(2.0), 1.0, 3.0, -6.0)]
        {
            let found = gradient(&[logp], |x| cispo_scalar(config, x[0], 0.0, advantage)).1[0];
            assert!((found - slope).abs() < 1e-15, "{config:?}: {found}");
        }
    }
}
