//! Self-play preference optimisation with hard probabilities of winning.
//!
//! ```text
//! ℓ = (d⁺ − 1/(2β))² + (d⁻ + 1/(2β))²          d = log π(y|x) − log π_ref(y|x)
//! ```
//!
//! Where: d⁺ and d⁻ are the log-ratios of entries 0 and 1 of `policy` and `reference`, β is `beta`
//! (the paper's 1/η).
//! Paper: Wu et al., *Self-Play Preference Optimization for Language Model Alignment*,
//! arXiv:2405.00675, Eq. 4.7 with P = 1 for the chosen and 0 for the rejected completion.
//! Departures: hard probabilities and a sum of two squares, as TRL's `sppo_hard`; the authors' code
//! (uclaml/SPPO) takes half of that sum and estimates P with a preference model
//! ([`sppo`](crate::loss::sppo)).
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::sppo_hard;

/// Numbers of [`sppo_hard`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SppoHardConfig {
    /// β: a log-ratio of 1/(2β) is sought for the chosen, −1/(2β) for the rejected completion.
    pub beta: Beta,
}

/// One pair's loss: the definition of [`sppo_hard`].
///
/// ```
/// use rlhf_core::loss::sppo_hard::{SppoHardConfig, sppo_hard_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Log-ratios 2 and −1 where 5 and −5 are sought: 3² + 4².
/// let config = SppoHardConfig { beta: Beta::new(0.1)? };
/// let loss = sppo_hard_scalar(config, [-8.0, -12.0f64], [-10.0, -11.0]);
/// assert!((loss - 25.0).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn sppo_hard_scalar<R: Real>(config: SppoHardConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let target = 0.5 / config.beta.get();
    (policy[0] - reference[0] - target).square() + (policy[1] - reference[1] + target).square()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::SppoHardConfig;
    use crate::pair::{PairLoss, log_ratios};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn sppo_hard(config: SppoHardConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let target = 0.5 / config.beta.get();
        let ratios = log_ratios("sppo_hard", policy, reference);
        let [chosen, rejected] = ratios.clone();
        let loss = chosen.sub_scalar(target).square() + rejected.add_scalar(target).square();
        PairLoss::new(loss, config.beta.get(), ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_is_at_both_targets() {
        let config = SppoHardConfig { beta: Beta::new(0.25).expect("positive") };
        let at = [-5.0 + 2.0, -7.0 - 2.0];
        let (loss, slope) =
            crate::real::gradient(&at, |p| sppo_hard_scalar(config, [p[0], p[1]], [-5.0, -7.0]));
        assert!(loss.abs() < 1e-15 && slope.iter().all(|g| g.abs() < 1e-15));
    }

    #[test]
    fn each_completion_has_its_own_slope() {
        // 2 (d − ½) at 2 and 2 (d + ½) at 2.
        let config = SppoHardConfig { beta: Beta::new(1.0).expect("positive") };
        let (_, slope) =
            crate::real::gradient(&[2.0, 2.0], |p| sppo_hard_scalar(config, [p[0], p[1]], [0.0; 2]));
        assert!((slope[0] - 3.0).abs() < 1e-15 && (slope[1] - 5.0).abs() < 1e-15);
    }
}
