//! Direct Nash Optimization: the win rates of two responses say how far apart their log-ratios are.
//!
//! ```text
//! ℓ = −σ(r⁺ − r⁻) log σ(η Δ) − σ(r⁻ − r⁺) log σ(−η Δ)
//! Δ = [log π(y⁺|x) − log π_t(y⁺|x)] − [log π(y⁻|x) − log π_t(y⁻|x)]
//! ```
//!
//! Where: π is `policy`, π_t is `previous`, both summed over the completion; r = P(y ≻ π_t) is
//! `win_rates`; η is `eta`; entries 0 and 1 are y⁺ and y⁻ (any two responses, in any order).
//! Paper: Rosset et al., *Direct Nash Optimization: Teaching Language Models to Self-Improve with
//! General Preferences*, arXiv:2404.03715, Algorithm 1; [`large_margin_pairs`] is the filter of its
//! practical form DNO-Prct, Algorithm 2.
//! Departures: none. DNO-Prct is [`dpo`](crate::loss::dpo) on those pairs with π_t for a reference.
//! Detached: `previous`, `win_rates`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::dno;

/// Numbers of [`dno`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnoConfig {
    /// η: a difference of win rates r is fitted by a difference of log-ratios r/η.
    pub eta: Beta,
}

/// One pair's loss: the definition of [`dno`].
///
/// ```
/// use rlhf_core::loss::dno::{DnoConfig, dno_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // A policy that is its previous iterate: log 2 whatever the win rates.
/// let config = DnoConfig { eta: Beta::new(0.1)? };
/// let loss = dno_scalar(config, [-5.0, -9.0f64], [-5.0, -9.0], [0.8, 0.3]);
/// assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn dno_scalar<R: Real>(config: DnoConfig, policy: [R; 2], previous: [f64; 2], win_rates: [f64; 2]) -> R {
    let ratio = |i: usize| policy[i] - previous[i];
    let x = (ratio(0) - ratio(1)) * config.eta.get();
    let first = (win_rates[0] - win_rates[1]).sigmoid();
    let second = (win_rates[1] - win_rates[0]).sigmoid();
    -x.log_sigmoid() * first - (-x).log_sigmoid() * second
}

/// Pairs (better, worse) of one prompt's responses whose scores are at least `margin` apart and not
/// equal, by index, in the order of the better one: what DNO-Prct trains on. NaN is in no pair.
///
/// ```
/// use rlhf_core::loss::dno::large_margin_pairs;
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// assert_eq!(large_margin_pairs(&[5.0, 1.0, 4.5], Weight::new(1.0)?), [[0, 1], [2, 1]]);
/// # Ok(())
/// # }
/// ```
pub fn large_margin_pairs(scores: &[f64], margin: Weight) -> Vec<[usize; 2]> {
    let apart = |a: f64, b: f64| a > b && a - b >= margin.get();
    let worse = |i: usize| (0..scores.len()).filter(move |j| apart(scores[i], scores[*j]));
    (0..scores.len()).flat_map(|i| worse(i).map(move |j| [i, j])).collect()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::DnoConfig;
    use crate::elementwise::{sigmoid, softplus};
    use crate::pair::{PairLoss, log_ratios};
    use crate::shape::same;

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `previous` (log-probabilities summed over the completion), of
    /// `win_rates` and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn dno(
        config: DnoConfig,
        policy: [Tensor<1>; 2],
        previous: [Tensor<1>; 2],
        win_rates: [Tensor<1>; 2],
    ) -> PairLoss {
        let ratios = log_ratios("dno", policy, previous);
        same("dno", "win_rates chosen", win_rates[0].dims(), ratios[0].dims());
        same("dno", "win_rates rejected", win_rates[1].dims(), ratios[0].dims());
        let [first, second] = win_rates;
        let gap = (first - second).detach();
        let [chosen, rejected] = ratios.clone();
        let x = (chosen - rejected).mul_scalar(config.eta.get());
        let loss = softplus(x.clone().neg()) * sigmoid(gap.clone()) + softplus(x) * sigmoid(gap.neg());
        PairLoss::new(loss, config.eta.get(), ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config(eta: f64) -> DnoConfig {
        DnoConfig { eta: Beta::new(eta).expect("positive") }
    }

    #[test]
    fn the_minimum_is_the_step_of_multiplicative_weights() {
        // π_{t+1} ∝ π_t e^{r/η}: log-ratios r/η up to a constant.
        let previous = [-3.0, -7.0];
        let rates = [0.8, 0.35];
        let next = [previous[0] + rates[0] / 0.05 - 2.0, previous[1] + rates[1] / 0.05 - 2.0];
        let (_, slope) = gradient(&next, |p| dno_scalar(config(0.05), [p[0], p[1]], previous, rates));
        assert!(slope.iter().all(|g| g.abs() < 1e-15), "{slope:?}");
    }

    #[test]
    fn the_order_of_the_two_is_of_no_account() {
        let of = |a: usize, b: usize| {
            let (policy, previous, rates) = ([-4.0, -9.0], [-6.0, -5.0], [0.9, 0.2]);
            let pick = |x: [f64; 2]| [x[a], x[b]];
            dno_scalar(config(0.3), pick(policy), pick(previous), pick(rates))
        };
        assert!((of(0, 1) - of(1, 0)).abs() < 1e-15);
        // Log-ratios 2 and −4: x = 1.8, σ(0.7) log(1 + e^−1.8) + σ(−0.7) log(1 + e^1.8).
        let sigma = 1.0 / (1.0 + (-0.7f64).exp());
        let expected = sigma * (-1.8f64).exp().ln_1p() + (1.0 - sigma) * 1.8f64.exp().ln_1p();
        assert!((of(0, 1) - expected).abs() < 1e-14);
    }

    #[test]
    fn only_clear_winners_are_kept() {
        let of = |scores: &[f64], margin| large_margin_pairs(scores, Weight::new(margin).expect("a weight"));
        assert_eq!(of(&[2.0, 4.0, 3.0], 1.0), [[1, 0], [1, 2], [2, 0]]);
        assert_eq!(of(&[2.0, 4.0, 3.0], 1.5), [[1, 0]]);
        assert!(of(&[1.0, 1.0, f64::NAN], 0.0).is_empty() && of(&[], 1.0).is_empty());
    }
}
