//! Self-Play Preference Optimization: each response's log-ratio is drawn to how much it wins.
//!
//! ```text
//! ℓ(y) = ½ (z − T)²          z = log π(y|x) − log π_t(y|x)          T = (P(y ≻ π_t) − ½) / β
//! pair:     ℓ(y⁺) + ℓ(y⁻)
//! single:   the pair with P(y⁺ ≻ π_t) = P(y⁺ ≻ y⁻) and P(y⁻ ≻ π_t) = 1 − P(y⁺ ≻ y⁻)
//! ```
//!
//! Where: π is `policy`, π_t is `previous` (the iterate that sampled the responses), both summed over
//! the completion; P(y ≻ π_t) is `win_rate`, P(y⁺ ≻ y⁻) is `prob`, 1/β is the paper's η; entries 0
//! and 1 of a pair are y⁺ (chosen) and y⁻ (rejected).
//! Paper: Wu et al., *Self-Play Preference Optimization for Language Model Alignment*,
//! arXiv:2405.00675, Section 4 (the square loss, log Z taken to be η/2); the pair with its ½ as in
//! the authors' published code.
//! Departures: none from that code. Hard labels, P ∈ {0, 1}, without the ½ are TRL's `sppo_hard`.
//! Detached: `previous`, `win_rates`, `prob`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{sppo, sppo_response, sppo_single};

/// Numbers of [`sppo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SppoConfig {
    /// β = 1/η: a response that always wins is drawn to a log-ratio of 1/(2β) nats.
    pub beta: Beta,
}

impl SppoConfig {
    /// With this β. The authors' runs have 0.001 (η = 1000); a small model wants 0.02 to 0.2.
    pub fn new(beta: Beta) -> Self {
        Self { beta }
    }
}

/// One response's share of the loss: the definition of [`sppo_response`]. In a table of responses it
/// is the row of one of them.
pub fn sppo_response_scalar<R: Real>(config: SppoConfig, policy: R, previous: f64, win_rate: f64) -> R {
    (policy - previous - (win_rate - 0.5) / config.beta.get()).square() * 0.5
}

/// One pair's loss: the definition of [`sppo`].
///
/// ```
/// use rlhf_core::loss::sppo::{SppoConfig, sppo_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Log-ratios 2 and −1 where (¾ − ½)/¼ = 1 and 0 are sought: ½ (1² + 1²).
/// let config = SppoConfig::new(Beta::new(0.25)?);
/// let loss = sppo_scalar(config, [-8.0, -11.0f64], [-10.0, -10.0], [0.75, 0.5]);
/// assert!((loss - 1.0).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn sppo_scalar<R: Real>(
    config: SppoConfig,
    policy: [R; 2],
    previous: [f64; 2],
    win_rates: [f64; 2],
) -> R {
    let one = |i: usize| sppo_response_scalar(config, policy[i], previous[i], win_rates[i]);
    one(0) + one(1)
}

/// One pair's loss where nothing but P(chosen ≻ rejected) is known: the definition of
/// [`sppo_single`].
pub fn sppo_single_scalar<R: Real>(config: SppoConfig, policy: [R; 2], previous: [f64; 2], prob: f64) -> R {
    sppo_scalar(config, policy, previous, [prob, 1.0 - prob])
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::SppoConfig;
    use crate::pair::{PairLoss, log_ratios};
    use crate::shape::{filled, same};

    /// The share of each response.
    ///
    /// # Shapes
    /// `policy` and `previous` (log-probabilities summed over the completion), `win_rate` and the
    /// result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn sppo_response(
        config: SppoConfig,
        policy: Tensor<1>,
        previous: Tensor<1>,
        win_rate: Tensor<1>,
    ) -> Tensor<1> {
        let name = "sppo_response";
        filled(name, "policy", policy.dims());
        same(name, "previous", previous.dims(), policy.dims());
        same(name, "win_rate", win_rate.dims(), policy.dims());
        of_ratio(config, policy - previous.detach(), win_rate)
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `previous` (chosen, rejected; log-probabilities summed over the
    /// completion), of `win_rates` and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn sppo(
        config: SppoConfig,
        policy: [Tensor<1>; 2],
        previous: [Tensor<1>; 2],
        win_rates: [Tensor<1>; 2],
    ) -> PairLoss {
        let ratios = log_ratios("sppo", policy, previous);
        same("sppo", "win_rates chosen", win_rates[0].dims(), ratios[0].dims());
        same("sppo", "win_rates rejected", win_rates[1].dims(), ratios[0].dims());
        of_pair(config, ratios, win_rates)
    }

    /// The loss of each pair where nothing but P(chosen ≻ rejected) is known.
    ///
    /// # Shapes
    /// As [`sppo`]; `prob` is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn sppo_single(
        config: SppoConfig,
        policy: [Tensor<1>; 2],
        previous: [Tensor<1>; 2],
        prob: Tensor<1>,
    ) -> PairLoss {
        let ratios = log_ratios("sppo_single", policy, previous);
        same("sppo_single", "prob", prob.dims(), ratios[0].dims());
        let other = prob.clone().neg().add_scalar(1.0);
        of_pair(config, ratios, [prob, other])
    }

    fn of_pair(config: SppoConfig, ratios: [Tensor<1>; 2], win_rates: [Tensor<1>; 2]) -> PairLoss {
        let [chosen, rejected] = ratios.clone();
        let [chosen_rate, rejected_rate] = win_rates;
        let loss = of_ratio(config, chosen, chosen_rate) + of_ratio(config, rejected, rejected_rate);
        PairLoss::new(loss, config.beta.get(), ratios)
    }

    fn of_ratio(config: SppoConfig, ratio: Tensor<1>, win_rate: Tensor<1>) -> Tensor<1> {
        let target = win_rate.detach().sub_scalar(0.5).div_scalar(config.beta.get());
        (ratio - target).square().mul_scalar(0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    const POLICY: [[f64; 2]; 2] = [[-10.0, -20.0], [-32.0, -15.5]];
    const PREVIOUS: [[f64; 2]; 2] = [[-10.5, -19.0], [-30.0, -16.0]];
    const WIN_RATES: [[f64; 2]; 2] = [[0.8, 0.25], [0.65, 0.4]];

    fn config(beta: f64) -> SppoConfig {
        SppoConfig::new(Beta::new(beta).expect("positive"))
    }

    #[test]
    fn two_pairs_by_hand() {
        // Log-ratios (½, −1) and (−2, ½); targets (3, −2½) and (1½, −1) at β = 0.1:
        // ½ (2½² + 1½²) = 4¼ and ½ (3½² + 1½²) = 7¼. At β = 0.001 the targets are a hundredfold.
        let cases = [(0.1, [4.25, 7.25]), (0.001, [75850.625, 16602.125])];
        for (beta, expected) in cases {
            for i in 0..2 {
                let loss = sppo_scalar(config(beta), POLICY[i], PREVIOUS[i], WIN_RATES[i]);
                assert!((loss - expected[i]).abs() < 1e-11 * expected[i], "{beta}: {loss}");
            }
        }
    }

    #[test]
    fn the_gradient_is_the_distance_to_the_target() {
        // z − T of each response, in nats.
        let expected = [[-2.5, 1.5], [-3.5, 1.5]];
        for i in 0..2 {
            let loss = |x: &[_]| sppo_scalar(config(0.1), [x[0], x[1]], PREVIOUS[i], WIN_RATES[i]);
            let (_, slope) = gradient(&POLICY[i], loss);
            assert!((slope[0] - expected[i][0]).abs() < 1e-13 && (slope[1] - expected[i][1]).abs() < 1e-13);
        }
    }

    #[test]
    fn a_single_probability_stands_for_both_win_rates() {
        // Targets ±4 and ±2: ½ (3½² + 3²) = 10⅝, ½ (4² + 2½²) = 11⅛.
        let single = |i: usize, p| sppo_single_scalar(config(0.1), POLICY[i], PREVIOUS[i], p);
        assert!((single(0, 0.9) - 10.625).abs() < 1e-13 && (single(1, 0.7) - 11.125).abs() < 1e-13);
    }
}
