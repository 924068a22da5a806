//! Iterative Nash Policy Optimization: online mirror descent of the regularised game, on pairs.
//!
//! ```text
//! ℓ = (h − 1/(2η))²          h = Δ log π − (τ/η) Δ log μ − (1 − τ/η) Δ log π_t
//! ```
//!
//! Where: Δ log p = log p(y⁺|x) − log p(y⁻|x), summed over the completion, entries 0 and 1 of each
//! being y⁺ (the winner) and y⁻ (the loser); π is `policy`, π_t and μ are `previous` and `original`
//! of `references`; η and τ are `eta` and `tau`.
//! Paper: Zhang et al., *Iterative Nash Policy Optimization: Aligning LLMs with General Preferences
//! via No-Regret Learning*, arXiv:2407.00617, in words (the objective of its Algorithm 1).
//! Departures: none. 1/η here is the step size of the mirror descent: [`rspo`](crate::loss::rspo)
//! with the reverse KL takes the same step in a table when its own η is 1/(η − τ).
//! Detached: both `references`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::loss::rspo::References;
use crate::number::{Beta, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::inpo;

/// Numbers of [`inpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InpoConfig {
    /// η: the pull to the previous iterate and the original together; the margin sought is 1/(2η).
    pub eta: Beta,
    /// τ: the share of the pull that goes to the original is τ/η; 0 leaves the game unregularised.
    pub tau: Weight,
}

/// One pair's loss: the definition of [`inpo`].
///
/// ```
/// use rlhf_core::loss::inpo::{InpoConfig, inpo_scalar};
/// use rlhf_core::loss::rspo::References;
/// use rlhf_core::number::{Beta, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // h = 10 − ½ · 6 − ½ · 8 = 3 where 1/(2 · ¼) = 2 is sought.
/// let config = InpoConfig { eta: Beta::new(0.25)?, tau: Weight::new(0.125)? };
/// let references = References { previous: [-11.0, -19.0], original: [-12.0, -18.0] };
/// let loss = inpo_scalar(config, [-10.0, -20.0f64], references);
/// assert!((loss - 1.0).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn inpo_scalar<R: Real>(config: InpoConfig, policy: [R; 2], references: References<[f64; 2]>) -> R {
    let share = config.tau.get() / config.eta.get();
    let References { previous, original } = references;
    let ratio = |i: usize| policy[i] - share * original[i] - (1.0 - share) * previous[i];
    (ratio(0) - ratio(1) - 0.5 / config.eta.get()).square()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::InpoConfig;
    use crate::loss::rspo::References;
    use crate::pair::PairLoss;
    use crate::shape::{filled, same};

    /// The loss of each pair; the rewards are η times the log-ratio to the mixture of the references.
    ///
    /// # Shapes
    /// Every entry of `policy` and of both `references` (winner, loser; log-probabilities summed over
    /// the completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn inpo(
        config: InpoConfig,
        policy: [Tensor<1>; 2],
        references: References<[Tensor<1>; 2]>,
    ) -> PairLoss {
        let References { previous, original } = references;
        let [winner, loser] = policy;
        let [near, near_loser] = previous;
        let [far, far_loser] = original;
        filled("inpo", "policy winner", winner.dims());
        same("inpo", "policy loser", loser.dims(), winner.dims());
        same("inpo", "previous winner", near.dims(), winner.dims());
        same("inpo", "previous loser", near_loser.dims(), winner.dims());
        same("inpo", "original winner", far.dims(), winner.dims());
        same("inpo", "original loser", far_loser.dims(), winner.dims());
        let eta = config.eta.get();
        let share = config.tau.get() / eta;
        let ratio = |p: Tensor<1>, near: Tensor<1>, far: Tensor<1>| {
            p - far.detach().mul_scalar(share) - near.detach().mul_scalar(1.0 - share)
        };
        let ratios = [ratio(winner, near, far), ratio(loser, near_loser, far_loser)];
        let loss = (ratios[0].clone() - ratios[1].clone()).sub_scalar(0.5 / eta).square();
        PairLoss::new(loss, eta, ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::stable::log_softmax;
    use crate::real::{Dual, gradient};

    fn config(eta: f64, tau: f64) -> InpoConfig {
        InpoConfig { eta: Beta::new(eta).expect("positive"), tau: Weight::new(tau).expect("a weight") }
    }

    #[test]
    fn two_pairs_by_hand() {
        // η = 0.1, τ/η = ⅓, 1/(2η) = 5. h = 10 − 6½/3 − ⅔ · 8½ = 13/6 and
        // h = −16½ + 16/3 + ⅔ · 14 = −11/6.
        let cases = [
            ([-10.0, -20.0], [-10.5, -19.0], [-12.0, -18.5], 13.0 / 6.0),
            ([-32.0, -15.5], [-30.0, -16.0], [-31.0, -15.0], -11.0 / 6.0),
        ];
        for (policy, previous, original, h) in cases {
            let loss = inpo_scalar(config(0.1, 0.1 / 3.0), policy, References { previous, original });
            let expected: f64 = (h - 5.0) * (h - 5.0);
            assert!((loss - expected).abs() < 1e-12, "{loss} {expected}");
        }
    }

    #[test]
    fn the_minimum_over_a_table_is_the_step_of_magnetic_mirror_descent() {
        // C3 at η = 1/0.7 + 0.2 for INPO: π ∝ [π_t μ^{0.7 · 0.2} e^{0.7 q}]^{1/(1 + 0.7 · 0.2)}.
        let game = [[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]];
        let (previous, original): ([f64; 3], [f64; 3]) = ([0.5, 0.2, 0.3], [0.6, 0.3, 0.1]);
        let (step, tau) = (0.7, 0.2);
        let rate = |y: usize| (0..3).map(|o| game[y][o] * previous[o]).sum::<f64>();
        let next: Vec<f64> = (0..3)
            .map(|y| (previous[y].ln() + step * tau * original[y].ln() + step * rate(y)) / (1.0 + step * tau))
            .collect();
        let probs: Vec<f64> = log_softmax(&next).into_iter().map(f64::exp).collect();
        for (found, expected) in probs.iter().zip([0.517663, 0.200143, 0.282194]) {
            assert!((found - expected).abs() < 5e-7, "{probs:?}");
        }
        let config = config(1.0 / step + tau, tau);
        // Every ordered pair of draws from π_t, the first the winner as often as the game says.
        let expected_loss = |logits: &[Dual]| -> Dual {
            let logp = log_softmax(logits);
            let pairs = (0..9).map(|i| (i / 3, i % 3));
            pairs
                .map(|(a, b)| {
                    let pick = |p: &[f64; 3]| [p[a].ln(), p[b].ln()];
                    let references = References { previous: pick(&previous), original: pick(&original) };
                    inpo_scalar(config, [logp[a], logp[b]], references)
                        * (previous[a] * previous[b] * 2.0 * game[a][b])
                })
                .sum()
        };
        let (_, slope) = gradient(&next, expected_loss);
        assert!(slope.iter().all(|g| g.abs() < 1e-13), "{slope:?}");
    }
}
