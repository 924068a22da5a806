//! General Preference Optimization: SPPO with skew-symmetric scores in the place of win rates.
//!
//! ```text
//! ℓ = ½ (z⁺ − s⁺/β)² + ½ (z⁻ − s⁻/β)²          z = log π(y|x) − log π_t(y|x)
//! ```
//!
//! Where: π is `policy`, π_t is `previous`, both summed over the completion; s = E_{y′~π_t} s(y ≻ y′) is
//! `scores`, of any sign, with s(y ≻ y′) = −s(y′ ≻ y) as [`gpm`](crate::loss::gpm) gives it; entries 0
//! and 1 are y⁺ and y⁻.
//! Paper: Zhang et al., *Beyond Bradley-Terry Models: A General Preference Model for Language Model
//! Alignment*, arXiv:2410.02197, in words (GPO); the pair with its ½ as [`sppo`](crate::loss::sppo).
//! Departures: log Z is left out: skew-symmetric scores have mean 0 under π_t, so that it is of
//! second order in 1/β.
//! Detached: `previous`, `scores`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::gpo;

/// Numbers of [`gpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpoConfig {
    /// β: a response with score s is drawn to a log-ratio of s/β nats.
    pub beta: Beta,
}

/// One pair's loss: the definition of [`gpo`].
///
/// ```
/// use rlhf_core::loss::gpo::{GpoConfig, gpo_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Log-ratios 2 and −1 where 1/½ = 2 and −2/½ = −4 are sought: ½ (0² + 3²).
/// let config = GpoConfig { beta: Beta::new(0.5)? };
/// let loss = gpo_scalar(config, [-8.0, -11.0f64], [-10.0, -10.0], [1.0, -2.0]);
/// assert!((loss - 4.5).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn gpo_scalar<R: Real>(config: GpoConfig, policy: [R; 2], previous: [f64; 2], scores: [f64; 2]) -> R {
    let one = |i: usize| (policy[i] - previous[i] - scores[i] / config.beta.get()).square() * 0.5;
    one(0) + one(1)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::GpoConfig;
    use crate::pair::{PairLoss, log_ratios};
    use crate::shape::same;

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `previous` (chosen, rejected; log-probabilities summed over the
    /// completion), of `scores` and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn gpo(
        config: GpoConfig,
        policy: [Tensor<1>; 2],
        previous: [Tensor<1>; 2],
        scores: [Tensor<1>; 2],
    ) -> PairLoss {
        let ratios = log_ratios("gpo", policy, previous);
        same("gpo", "scores chosen", scores[0].dims(), ratios[0].dims());
        same("gpo", "scores rejected", scores[1].dims(), ratios[0].dims());
        let beta = config.beta.get();
        let one = |z: Tensor<1>, s: Tensor<1>| (z - s.detach().div_scalar(beta)).square().mul_scalar(0.5);
        let [chosen, rejected] = ratios.clone();
        let [chosen_score, rejected_score] = scores;
        PairLoss::new(one(chosen, chosen_score) + one(rejected, rejected_score), beta, ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::sppo::{SppoConfig, sppo_scalar};

    #[test]
    fn scores_of_win_rates_less_a_half_are_sppo() {
        let beta = Beta::new(0.1).expect("positive");
        let (policy, previous) = ([-10.0, -20.0], [-10.5, -19.0]);
        let sppo = sppo_scalar(SppoConfig::new(beta), policy, previous, [0.8, 0.25]);
        let gpo = gpo_scalar(GpoConfig { beta }, policy, previous, [0.8 - 0.5, 0.25 - 0.5]);
        assert!((gpo - sppo).abs() < 1e-15 && (gpo - 4.25).abs() < 1e-13);
    }

    #[test]
    fn an_evenly_matched_cycle_stays_where_it_is() {
        // s(y ≻ π_t) = 0 for each response: nothing pulls a policy that is its previous iterate.
        let config = GpoConfig { beta: Beta::new(0.001).expect("positive") };
        let (loss, slope) = crate::real::gradient(&[-3.0, -4.0], |p| {
            gpo_scalar(config, [p[0], p[1]], [-3.0, -4.0], [0.0, 0.0])
        });
        assert!(loss.abs() <= 0.0 && slope.iter().all(|g| g.abs() <= 0.0));
    }
}
