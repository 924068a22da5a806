//! Noise contrastive alignment of a preference pair.
//!
//! ```text
//! ℓ = −log σ(r⁺) − ½ log σ(−r⁺) − ½ log σ(−r⁻)          r = β [log π(y|x) − log π_ref(y|x)]
//! ```
//!
//! Where: r⁺ and r⁻ are the rewards of entries 0 and 1 of `policy` and `reference`, β is `beta`.
//! Paper: Chen et al., *Noise Contrastive Alignment of Language Models with Explicit Rewards*,
//! arXiv:2402.05369, in words: its NCA loss for two answers, the whole weight on the better one.
//! Departures: none; two answers only, as TRL's `nca_pair`.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::nca;

/// Numbers of [`nca`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NcaConfig {
    /// β: the reward of one nat of log-ratio.
    pub beta: Beta,
}

/// One pair's loss: the definition of [`nca`]. It sees each reward, not only their gap.
///
/// ```
/// use rlhf_core::loss::nca::{NcaConfig, nca_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Rewards ± log 3, where σ is ¾ and ¼: −log ¾ − ½ log ¼ − ½ log ¾.
/// let config = NcaConfig { beta: Beta::new(1.0)? };
/// let loss = nca_scalar(config, [3f64.ln(), -3f64.ln()], [0.0; 2]);
/// assert!((loss + 1.5 * 0.75f64.ln() + 0.5 * 0.25f64.ln()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn nca_scalar<R: Real>(config: NcaConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let reward = |i: usize| (policy[i] - reference[i]) * config.beta.get();
    (-reward(0)).softplus() + reward(0).softplus() * 0.5 + reward(1).softplus() * 0.5
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::NcaConfig;
    use crate::elementwise::softplus;
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
    pub fn nca(config: NcaConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let beta = config.beta.get();
        let ratios = log_ratios("nca", policy, reference);
        let [chosen, rejected] = ratios.clone().map(|d| d.mul_scalar(beta));
        let noise = (softplus(chosen.clone()) + softplus(rejected)).div_scalar(2.0);
        PairLoss::new(softplus(chosen.neg()) + noise, beta, ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    #[test]
    fn the_chosen_reward_is_held_where_its_odds_are_two() {
        // −σ(−r) + ½ σ(r) = 0 where σ(r) = ⅔: the reward stops growing at log 2.
        let config = NcaConfig { beta: Beta::new(0.5).expect("positive") };
        let at = [2.0 * 2f64.ln() - 3.0, -9.0];
        let (_, slope) = gradient(&at, |p| nca_scalar(config, [p[0], p[1]], [-3.0, -9.0]));
        // The rejected one, still at a reward of 0, goes down: β · ½ · σ(0).
        assert!(slope[0].abs() < 1e-15 && (slope[1] - 0.125).abs() < 1e-15);
    }

    #[test]
    fn a_policy_that_is_its_reference_costs_twice_log_2() {
        let config = NcaConfig { beta: Beta::new(3.0).expect("positive") };
        let loss = nca_scalar(config, [-7.0, -20.0], [-7.0, -20.0]);
        assert!((loss - 2.0 * std::f64::consts::LN_2).abs() < 1e-15);
    }
}
