//! Odds Ratio Preference Optimization: the contrast of a pair's odds.
//!
//! ```text
//! ℓ = −β log σ(o)
//! o = log odds(y⁺) − log odds(y⁻)          log odds(y) = p̄ − log(1 − e^p̄)          p̄ = log π(y|x) / n
//! ```
//!
//! Where: log π(y⁺|x) and log π(y⁻|x) are entries 0 and 1 of `policy`, n is the entry of `lengths`
//! beside each, β is `beta` (the paper's λ), o and log σ(o) are `log_odds` and `ratio` of the result.
//! Paper: Hong et al., *ORPO: Monolithic Preference Optimization without Reference Model*,
//! arXiv:2403.07691, Eq. 7, weighted as in Eq. 6 (p̄ and the odds: Eq. 3 and 4).
//! Departures: the likelihood term of Eq. 6 is the caller's, by
//! [`cross_entropy`](super::cross_entropy) (TRL: the mean over the chosen prompts' tokens too). A p̄
//! closer to 0 than 2⁻¹⁰⁰, of a completion that is certain to rounding, counts as that: its odds are
//! finite, and so is the gradient in `f32`.
//! Detached: `lengths`, and all of the result but its loss.

use serde::{Deserialize, Serialize};

use crate::host::ragged::log1mexp;
use crate::number::Beta;
use crate::pair::per_length_scalar;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{OrpoLoss, orpo};

/// The log-probability nearest to 0 whose odds are taken, −2⁻¹⁰⁰: far below `f32`'s rounding of a
/// probability, and far above its smallest number.
const NEAREST: f64 = -f64::EPSILON * f64::EPSILON * 16.0;

/// Numbers of [`orpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrpoConfig {
    /// β: the weight beside the likelihood term, λ in the paper; TRL's is 0.1.
    pub beta: Beta,
}

/// One pair's loss: the definition of [`orpo`].
///
/// ```
/// use rlhf_core::loss::orpo::{OrpoConfig, orpo_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // A token's mean probability ¾ and ½: odds 3 and 1, so −log(3 / (3 + 1)).
/// let config = OrpoConfig { beta: Beta::new(1.0)? };
/// let loss = orpo_scalar(config, [2.0 * 0.75f64.ln(), 5.0 * 0.5f64.ln()], [2.0, 5.0]);
/// assert!((loss + 0.75f64.ln()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn orpo_scalar<R: Real>(config: OrpoConfig, policy: [R; 2], lengths: [f64; 2]) -> R {
    (-log_odds_scalar(policy, lengths)).softplus() * config.beta.get()
}

/// o of one pair: by how much the log-odds of the chosen completion exceed the other's.
pub fn log_odds_scalar<R: Real>(policy: [R; 2], lengths: [f64; 2]) -> R {
    let of = |i: usize| {
        let mean = per_length_scalar(policy[i], lengths[i]);
        mean - log1mexp(mean.clamp(f64::NEG_INFINITY, NEAREST))
    };
    of(0) - of(1)
}

#[cfg(feature = "burn")]
mod tensor {
    use std::f64::consts::LN_2;

    use burn::tensor::Tensor;

    use super::{NEAREST, OrpoConfig};
    use crate::elementwise::{exp_m1, log_sigmoid};
    use crate::pair::means;

    /// What [`orpo`] gives.
    #[derive(Debug, Clone)]
    pub struct OrpoLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: o, the log of the odds ratio, in nats. Detached.
        pub log_odds: Tensor<1>,
        /// `[B]`: log σ(o), never above 0. Detached.
        pub ratio: Tensor<1>,
        /// `[B]`: β times the chosen mean log-probability. Detached.
        pub chosen_reward: Tensor<1>,
        /// `[B]`: β times the rejected mean log-probability. Detached.
        pub rejected_reward: Tensor<1>,
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` (chosen, rejected; log-probabilities summed over the completion), of
    /// `lengths` (completion tokens, at least 1; a completion without tokens, 0, counts as 1) and
    /// every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn orpo(config: OrpoConfig, policy: [Tensor<1>; 2], lengths: [Tensor<1>; 2]) -> OrpoLoss {
        let [chosen, rejected] = means("orpo", policy, lengths);
        let beta = config.beta.get();
        let reward = |mean: &Tensor<1>| mean.clone().detach().mul_scalar(beta);
        let (chosen_reward, rejected_reward) = (reward(&chosen), reward(&rejected));
        let log_odds = of_mean(chosen) - of_mean(rejected);
        let ratio = log_sigmoid(log_odds.clone());
        OrpoLoss {
            loss: ratio.clone().mul_scalar(-beta),
            log_odds: log_odds.detach(),
            ratio: ratio.detach(),
            chosen_reward,
            rejected_reward,
        }
    }

    /// Log-odds from a mean log-probability.
    fn of_mean(mean: Tensor<1>) -> Tensor<1> {
        // The branch that is not taken gets a number at which its slope is finite: 0 · ∞ is NaN.
        let near = exp_m1(mean.clone().clamp(-LN_2, NEAREST)).neg().log();
        let far = mean.clone().clamp_max(-LN_2).exp().neg().log1p();
        let is_far = mean.clone().lower_elem(-LN_2);
        mean - near.mask_where(is_far, far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    #[test]
    fn both_ends_keep_their_digits() {
        // log(1 − e⁻ˣ) = log x − x/2 + O(x²) near 0, −e⁻ˣ far out.
        let near = log1mexp(-1e-12);
        assert!((near - (1e-12f64.ln() - 0.5e-12)).abs() < 1e-14);
        assert!((log1mexp(-50.0f64) / -(-50f64).exp() - 1.0).abs() < 1e-14);
        // log(1 − ½), and the same from both forms beside it.
        let ln_2 = std::f64::consts::LN_2;
        assert!((log1mexp(-ln_2) + ln_2).abs() < 1e-15);
        assert!((log1mexp(-ln_2 - 1e-9) - log1mexp(-ln_2 + 1e-9) - 2e-9).abs() < 1e-14);
    }

    #[test]
    fn the_slope_is_one_over_the_other_probability() {
        // d log(p / (1 − p)) / d log p = 1 / (1 − p); here p = ¼ and ⅔.
        let (o, slope) =
            gradient(&[0.25f64.ln(), (2.0 / 3.0f64).ln()], |p| log_odds_scalar([p[0], p[1]], [1.0; 2]));
        assert!((o - (1.0f64 / 6.0).ln()).abs() < 1e-15);
        assert!((slope[0] - 4.0 / 3.0).abs() < 1e-14 && (slope[1] + 3.0).abs() < 1e-14);
    }

    #[test]
    fn what_is_certain_has_finite_odds() {
        let config = OrpoConfig { beta: Beta::new(0.1).expect("positive") };
        let at = |p: [f64; 2]| gradient(&p, |p| orpo_scalar(config, [p[0], p[1]], [1.0; 2]));
        for p in [[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0], [-1e-40, -5e3]] {
            let (loss, slope) = at(p);
            assert!(loss.is_finite() && slope.iter().all(|g| g.is_finite()), "{p:?}: {loss} {slope:?}");
        }
        // o = −log(e − 1) − 100 log 2 there, and log σ(o) is o.
        let expected = 0.1 * (100.0 * std::f64::consts::LN_2 - (1f64.exp() - 1.0).recip().ln());
        assert!((at([-1.0, 0.0]).0 - expected).abs() < 1e-13);
    }
}
