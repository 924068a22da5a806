//! Direct Preference Optimization, plain, with smoothed labels, and per token.
//!
//! ```text
//! ℓ = −(1 − ε) log σ(β Δ) − ε log σ(−β Δ)          Δ = s⁺ − s⁻
//! per token:                                        Δ = s⁺/n⁺ − s⁻/n⁻
//! ```
//!
//! Where: s⁺ and s⁻ are the scores ([`pair`](crate::pair)) of entries 0 and 1 of `policy` and
//! `reference` under `f_divergence` (log π − log π_ref for the reverse KL), β is `beta`, ε is
//! `label_smoothing`, n⁺ and n⁻ are `lengths`.
//! Paper: Rafailov et al., *Direct Preference Optimization*, arXiv:2305.18290, Eq. 7; other
//! divergences from Wang et al., *Beyond Reverse KL*, arXiv:2309.16240, Eq. 8; per token as in
//! Lambert et al., *Tulu 3*, arXiv:2411.15124, Eq. 6.
//! Departures: Eq. 7 has ε = 0; ε > 0 is the conservative loss of E. Mitchell's note of 2023.
//! Detached: `reference`, `lengths`, and both rewards of the result (β times the log-ratio of the sums,
//! per token as well).

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Prob};
use crate::pair::{FDivergence, per_length_scalar, score_scalar, smoothed_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{dpo, dpo_per_token};

/// Numbers of [`dpo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// ε: the share of labels that are taken to be the wrong way round.
    pub label_smoothing: Prob,
    /// The divergence that holds the policy to the reference.
    pub f_divergence: FDivergence,
}

impl DpoConfig {
    /// No smoothing, reverse KL: Eq. 7. The paper's β is 0.1 (Appendix B; 0.5 for TL;DR).
    pub fn new(beta: Beta) -> Self {
        Self { beta, label_smoothing: Prob::ZERO, f_divergence: FDivergence::ReverseKl }
    }
}

/// One pair's loss: the definition of [`dpo`].
///
/// ```
/// use rlhf_core::loss::dpo::{DpoConfig, dpo_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The chosen log-ratio is 2, the rejected one −2: log(1 + e⁻⁰·⁴) at β = 0.1.
/// let loss = dpo_scalar(DpoConfig::new(Beta::new(0.1)?), [-10.0, -14.0f64], [-12.0, -12.0]);
/// assert!((loss - 0.5130152523999526).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn dpo_scalar<R: Real>(config: DpoConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    dpo_per_token_scalar(config, policy, reference, [1.0; 2])
}

/// One pair's loss with scores per token: the definition of [`dpo_per_token`]. A length of 0 counts as 1.
pub fn dpo_per_token_scalar<R: Real>(
    config: DpoConfig,
    policy: [R; 2],
    reference: [f64; 2],
    lengths: [f64; 2],
) -> R {
    let score =
        |i: usize| per_length_scalar(score_scalar(config.f_divergence, policy[i] - reference[i]), lengths[i]);
    let x = (score(0) - score(1)) * config.beta.get();
    smoothed_scalar(x, config.label_smoothing.get())
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::DpoConfig;
    use crate::pair::{PairLoss, log_ratios, means, scores, smoothed};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn dpo(config: DpoConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("dpo", policy, reference);
        let loss = of_scores(config, scores(config.f_divergence, ratios.clone()));
        PairLoss::new(loss, config.beta.get(), ratios)
    }

    /// The loss of each pair, its scores divided by the completions' lengths. The rewards are β times
    /// the log-ratios of sums, as those of [`dpo`], not per token.
    ///
    /// # Shapes
    /// As [`dpo`]; `lengths` are the numbers of completion tokens, `[B]` each, at least 1 (a completion
    /// without tokens, 0, counts as 1).
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn dpo_per_token(
        config: DpoConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        lengths: [Tensor<1>; 2],
    ) -> PairLoss {
        let ratios = log_ratios("dpo_per_token", policy, reference);
        let per_token = means("dpo_per_token", scores(config.f_divergence, ratios.clone()), lengths);
        let loss = of_scores(config, per_token);
        PairLoss::new(loss, config.beta.get(), ratios)
    }

    fn of_scores(config: DpoConfig, [chosen, rejected]: [Tensor<1>; 2]) -> Tensor<1> {
        smoothed((chosen - rejected).mul_scalar(config.beta.get()), config.label_smoothing.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(beta: f64, eps: f64) -> DpoConfig {
        let label_smoothing = Prob::new(eps).expect("a probability");
        DpoConfig { label_smoothing, ..DpoConfig::new(Beta::new(beta).expect("positive")) }
    }

    #[test]
    fn a_policy_that_is_its_reference_costs_log_2() {
        let loss = dpo_scalar(config(0.1, 0.3), [-7.0, -20.0], [-7.0, -20.0]);
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn swapping_the_pair_costs_its_margin() {
        // ℓ(−x) − ℓ(x) = x (1 − 2ε).
        for (delta, eps) in [(0.5, 0.0), (3.0, 0.1), (40.0, 0.4), (5e3, 0.0)] {
            let at = |d: f64| dpo_scalar(config(0.5, eps), [d, 0.0], [0.0, 0.0]);
            let expected = 0.5 * delta * (1.0 - 2.0 * eps);
            assert!((at(-delta) - at(delta) - expected).abs() <= 1e-13 * expected.max(1.0));
        }
    }

    #[test]
    fn per_token_is_the_plain_loss_of_means() {
        let found = dpo_per_token_scalar(config(2.0, 0.0), [-4.0, -9.0], [-6.0, -6.0], [4.0, 3.0]);
        // ½ + 1 = 1.5: log(1 + e⁻³).
        assert!((found - (-3f64).exp().ln_1p()).abs() < 1e-15);
    }
}
