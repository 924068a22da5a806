//! Soft Adaptive Policy Optimization: a smooth gate in the place of the clip.
//!
//! ```text
//! ℓ_t = −(4/τ) σ(τ (r_t − 1)) A_t          τ = τ_pos where A_t > 0, τ_neg elsewhere
//! sequence form:  r_t is replaced by s = exp(1/|y| Σ_t log r_t)
//! ```
//!
//! Where: r_t is the ratio of `logp` to `old_logp` ([`token`](crate::token)), |y| the number of
//! tokens that `mask` lets through, A_t is `advantage`, τ_pos and τ_neg are `temperature_pos` and
//! `temperature_neg`.
//! Paper: Gao et al., *Soft Adaptive Policy Optimization*, arXiv:2511.20347 (its soft gate, in words).
//! Departures: none in [`sapo`]; [`sapo_sequence`] is what TRL makes of it with
//! `importance_sampling_level="sequence"`.
//! Detached: `old_logp`, `advantage`, and the result's ratio.

use serde::{Deserialize, Serialize};

use crate::loss::gspo::sequence_ratio_scalar;
use crate::number::Positive;
use crate::real::Real;
use crate::token::token_ratio_scalar;

#[cfg(feature = "burn")]
pub use tensor::{sapo, sapo_sequence};

/// How fast the gate closes around a ratio of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SapoConfig {
    /// τ_pos: where the advantage is positive; 1 in the paper.
    pub temperature_pos: Positive,
    /// τ_neg: elsewhere. The paper has 1.05, so that what is pushed down fades sooner.
    pub temperature_neg: Positive,
}

/// One token's loss: the definition of [`sapo`].
///
/// ```
/// use rlhf_core::loss::sapo::{SapoConfig, sapo_scalar};
/// use rlhf_core::number::Positive;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // On policy the gate is half open: −(4/2) · ½ · 3.
/// let config = SapoConfig { temperature_pos: Positive::new(2.0)?, temperature_neg: Positive::new(1.0)? };
/// assert!((sapo_scalar(config, -0.7f64, -0.7, 3.0) + 3.0).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn sapo_scalar<R: Real>(config: SapoConfig, logp: R, old_logp: f64, advantage: f64) -> R {
    gated(config, token_ratio_scalar(logp, old_logp), advantage)
}

/// The loss of each token of one sequence, 0 behind the mask: the definition of [`sapo_sequence`].
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn sapo_sequence_scalar<R: Real>(
    config: SapoConfig,
    logp: &[R],
    old_logp: &[f64],
    advantage: &[f64],
    mask: &[bool],
) -> Vec<R> {
    assert_eq!(advantage.len(), logp.len(), "sapo_sequence: advantage: another length than logp");
    let s = sequence_ratio_scalar(logp, old_logp, mask);
    let of = |(a, on): (&f64, &bool)| if *on { gated(config, s, *a) } else { R::from(0.0) };
    advantage.iter().zip(mask).map(of).collect()
}

fn gated<R: Real>(config: SapoConfig, ratio: R, advantage: f64) -> R {
    let tau = if advantage > 0.0 { config.temperature_pos.get() } else { config.temperature_neg.get() };
    ((ratio - 1.0) * tau).sigmoid() * (-4.0 / tau * advantage)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::SapoConfig;
    use crate::elementwise::sigmoid;
    use crate::loss::gspo::sequence_ratio;
    use crate::mask::{masked, per_token};
    use crate::shape::same;
    use crate::token::{TokenLoss, token_ratio};

    /// The loss of each token.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B, T]`; one advantage a sequence is spread
    /// by [`per_token`].
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn sapo(
        config: SapoConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        same("sapo", "advantage", advantage.dims(), logp.dims());
        let ratio = token_ratio("sapo", logp, old_logp, mask);
        gated(config, ratio, masked("sapo", advantage.detach(), mask), mask)
    }

    /// The loss of each token, gated by the ratio of its sequence.
    ///
    /// # Shapes
    /// As [`sapo`].
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn sapo_sequence(
        config: SapoConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let name = "sapo_sequence";
        let [b, t] = logp.dims();
        same(name, "advantage", advantage.dims(), [b, t]);
        let ratio = per_token(sequence_ratio(name, logp, old_logp, mask), t);
        gated(config, ratio, masked(name, advantage.detach(), mask), mask)
    }

    fn gated(
        config: SapoConfig,
        ratio: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let (pos, neg) = (config.temperature_pos.get(), config.temperature_neg.get());
        let tau = advantage.full_like(neg).mask_fill(advantage.clone().greater_elem(0.0), pos);
        let gate = sigmoid(ratio.clone().sub_scalar(1.0) * tau.clone());
        let loss = gate * (advantage / tau).mul_scalar(-4.0);
        TokenLoss { loss, ratio: ratio.detach().mask_fill(mask.clone().bool_not(), 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config() -> SapoConfig {
        let positive = |x| Positive::new(x).expect("positive");
        SapoConfig { temperature_pos: positive(1.0), temperature_neg: positive(1.05) }
    }

    #[test]
    fn on_policy_the_slope_is_that_of_policy_gradient_whatever_the_temperature() {
        // d/dr of (4/τ) σ(τ (r − 1)) at 1 is 4 · ¼.
        for advantage in [2.0, -3.0] {
            let (_, slope) = gradient(&[-1.0], |x| sapo_scalar(config(), x[0], -1.0, advantage));
            assert!((slope[0] + advantage).abs() < 1e-14);
        }
    }

    #[test]
    fn the_sign_of_the_advantage_chooses_the_temperature() {
        // r = 2: σ(τ) with τ = 1 and 1.05.
        let at = |advantage| sapo_scalar(config(), 2f64.ln(), 0.0, advantage);
        let expected = |tau: f64| 4.0 / tau / (1.0 + (-tau).exp());
        assert!((at(1.0) + expected(1.0)).abs() < 1e-14 && (at(-1.0) - expected(1.05)).abs() < 1e-14);
    }

    #[test]
    fn far_out_the_gate_is_open_or_shut_and_flat() {
        let at = |d: f64| gradient(&[d], |x| sapo_scalar(config(), x[0], 0.0, 1.0));
        let (above, below) = (at(5e3), at(-5e3));
        assert!((above.0 + 4.0).abs() < 1e-15 && above.1[0].abs() <= 0.0);
        // r = 0: 4 σ(−1).
        assert!((below.0 + 4.0 / (1.0 + 1f64.exp())).abs() < 1e-15 && below.1[0].abs() <= 0.0);
    }

    #[test]
    fn one_token_is_its_own_sequence() {
        let whole =
            sapo_sequence_scalar(config(), &[-1.0, f64::NAN], &[-1.3, 0.0], &[0.5; 2], &[true, false]);
        assert!((whole[0] - sapo_scalar(config(), -1.0, -1.3, 0.5)).abs() < 1e-15 && whole[1].abs() <= 0.0);
    }
}
