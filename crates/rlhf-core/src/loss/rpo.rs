//! Regularized Preference Optimization: DPO with the likelihood of a baseline's responses.
//!
//! ```text
//! ℓ = −log σ(β Δ) − η β log π(y₀|x)
//! Δ = [log π(y⁺|x) − log π_ref(y⁺|x)] − [log π(y⁻|x) − log π_ref(y⁻|x)]
//!
//! max_π min_r { L_D(r) + η (E_π[r] − E_base[r] − β KL(π ‖ π_ref)) } = min_π E[ℓ] + η β E_base[log π_ref]
//! ```
//!
//! Where: log π and log π_ref of y⁺ and y⁻ are entries 0 and 1 of `policy` and `reference`, y₀ is drawn
//! from the baseline policy and log π(y₀|x) is `baseline`, β and η are `beta` and `eta`; L_D(r) is the
//! mean Bradley–Terry loss of rewards r.
//! Paper: Liu et al., *Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an
//! Adversarial Regularizer*, arXiv:2405.16436, the objective in words.
//! Departures: none; the paper's experiments take y₀ = y⁺ (then `baseline` is entry 0 of `policy`).
//! The losses that are called RPO elsewhere are [`rpo_nll`](super::rpo_nll), a weighted likelihood
//! beside DPO without this derivation.
//! Detached: `reference`, and all of the result but its loss.

use serde::{Deserialize, Serialize};

use super::dpo::{DpoConfig, dpo_scalar};
use crate::number::{Beta, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{RpoLoss, rpo};

/// Numbers of [`rpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RpoConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// η: how pessimistic the reward is; of the order of 1/√(pairs) in the theory. 0 is DPO.
    pub eta: Weight,
}

/// One pair's loss: the definition of [`rpo`].
///
/// ```
/// use rlhf_core::loss::rpo::{RpoConfig, rpo_scalar};
/// use rlhf_core::number::{Beta, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margin 10 at β = 0.1: log(1 + e⁻¹); and ½ · 0.1 · 20.
/// let config = RpoConfig { beta: Beta::new(0.1)?, eta: Weight::new(0.5)? };
/// let loss = rpo_scalar(config, [-20.0, -30.0f64], [-25.0, -25.0], -20.0);
/// assert!((loss - 1.31326168751822286).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn rpo_scalar<R: Real>(config: RpoConfig, policy: [R; 2], reference: [f64; 2], baseline: R) -> R {
    let weight = config.eta.get() * config.beta.get();
    let contrast = dpo_scalar(DpoConfig::new(config.beta), policy, reference);
    // Without weight there may be no baseline at all: whatever stands there is not read.
    if weight > 0.0 { contrast - baseline * weight } else { contrast }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::super::dpo::{DpoConfig, dpo};
    use super::RpoConfig;
    use crate::pair::{log_ratios, reference_free};
    use crate::shape::same;

    /// What [`rpo`] gives.
    #[derive(Debug, Clone)]
    pub struct RpoLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: DPO's part. Detached.
        pub contrast: Tensor<1>,
        /// `[B]`: −log π(y₀|x) in nats, without its weight. Detached.
        pub nll: Tensor<1>,
        /// `[B]`: β times the chosen log-ratio, in nats. Detached.
        pub chosen_reward: Tensor<1>,
        /// `[B]`: β times the rejected log-ratio, in nats. Detached.
        pub rejected_reward: Tensor<1>,
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected), `baseline` (log-probabilities summed
    /// over the completion; `baseline` is not read where η = 0) and every field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn rpo(
        config: RpoConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        baseline: Tensor<1>,
    ) -> RpoLoss {
        let ratios = log_ratios("rpo", policy, reference);
        same("rpo", "baseline", baseline.dims(), ratios[0].dims());
        let zero = reference_free(&ratios);
        let pair = dpo(DpoConfig::new(config.beta), ratios, zero);
        let nll = baseline.neg();
        let weight = config.eta.get() * config.beta.get();
        let loss = pair.loss.clone();
        RpoLoss {
            loss: if weight > 0.0 { loss + nll.clone().mul_scalar(weight) } else { loss },
            contrast: pair.loss.detach(),
            nll: nll.detach(),
            chosen_reward: pair.chosen_reward,
            rejected_reward: pair.rejected_reward,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::stable::{log_softmax, softplus};

    const BETA: f64 = 0.5;
    const ETA: f64 = 0.1;
    /// How often the row's arm beat the column's, of 24 comparisons.
    const WINS: [[f64; 3]; 3] = [[0.0, 6.0, 7.0], [3.0, 0.0, 5.0], [1.0, 2.0, 0.0]];

    /// The mean over the comparisons, and over a uniform baseline, of `rpo_scalar` at log π.
    fn rpo_of(logp: &[f64]) -> f64 {
        let config =
            RpoConfig { beta: Beta::new(BETA).expect("positive"), eta: Weight::new(ETA).expect("a weight") };
        let baseline = logp.iter().sum::<f64>() / 3.0;
        let one = |a: usize, b: usize| {
            WINS[a][b] / 24.0 * rpo_scalar(config, [logp[a], logp[b]], [(1.0f64 / 3.0).ln(); 2], baseline)
        };
        (0..9).map(|i| one(i / 3, i % 3)).sum()
    }

    /// L_D(r) + η (E_π[r] − E_base[r] − β KL(π ‖ π_ref)), baseline and reference uniform.
    fn game(logp: &[f64], r: &[f64]) -> f64 {
        let nll: f64 = (0..9).map(|i| WINS[i / 3][i % 3] / 24.0 * softplus(r[i % 3] - r[i / 3])).sum();
        let inner: f64 =
            logp.iter().zip(r).map(|(l, r)| l.exp() * (r - BETA * (l + 3f64.ln())) - r / 3.0).sum();
        nll + ETA * inner
    }

    #[test]
    fn it_is_the_game_against_the_most_pessimistic_reward() {
        // Whatever r: the best answer to it is π ∝ π_ref e^{r/β}, and there the game's value is the
        // loss of that π but for η β E_base[log π_ref].
        let rest = -ETA * BETA * 3f64.ln();
        for r in [[1.0, 0.597484, 0.0], [0.3, -2.0, 5.0], [0.0; 3]] {
            let best = log_softmax(&r.map(|r| r / BETA));
            assert!((game(&best, &r) - (rpo_of(&best) + rest)).abs() < 1e-14);
            for other in [[0.2, 0.5, 0.3], [0.9, 0.05, 0.05], [0.3, 0.3, 0.4]] {
                assert!(game(&other.map(f64::ln), &r) < game(&best, &r));
            }
        }
    }

    #[test]
    fn its_minimum_is_the_saddle_point() {
        // Rewards held in [0, 1]: r = (1, 0.597484, 0), π = (0.631948, 0.282527, 0.085525), and the
        // game is worth 0.580823 there, from either side.
        let r = [1.0, 0.597484, 0.0];
        let best = log_softmax(&r.map(|r| r / BETA));
        for (logp, p) in best.iter().zip([0.631948, 0.282527, 0.085525]) {
            assert!((logp.exp() - p).abs() < 1e-6);
        }
        assert!((game(&best, &r) - 0.580823).abs() < 1e-6);
        // Against this policy no allowed reward does better than r.
        for other in [[1.0, 0.7, 0.0], [1.0, 0.5, 0.0], [0.9, 0.597484, 0.0], [1.0, 0.597484, 0.1]] {
            assert!(game(&best, &other) > game(&best, &r), "{other:?}");
        }
    }

    #[test]
    fn by_hand_with_a_weight_of_half_a_thousandth() {
        // log(1 + e^−0.15) and 0.005 · 0.1 · 10.
        let config =
            RpoConfig { beta: Beta::new(0.1).expect("positive"), eta: Weight::new(0.005).expect("a weight") };
        let loss = rpo_scalar(config, [-10.0, -12.0], [-11.0, -11.5], -10.0);
        assert!((loss - 0.6259570478).abs() < 1e-10);
    }
}
