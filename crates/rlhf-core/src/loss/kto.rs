//! Kahneman–Tversky optimisation: completions that are desirable or not, no pairs.
//!
//! ```text
//! desirable:    ℓ = λ_D [1 − σ(β (d − z))]          d = log π(y|x) − log π_ref(y|x)
//! undesirable:  ℓ = λ_U [1 − σ(β (z − d))]          z = max(0, mean of d over mismatched pairs)
//! ```
//!
//! Where: π is `policy`, π_ref is `reference`, z is `baseline` ([`kl_baseline`]), β is `beta`, λ_D
//! and λ_U are `desirable_weight` and `undesirable_weight`. Mismatched pairs are the batch's prompts,
//! each with the completion of another one: z estimates KL(π ‖ π_ref).
//! Paper: Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization*,
//! arXiv:2402.01306, Eq. 7; `apo_zero_unpaired` from D'Oosterlinck et al., *Anchored Preference
//! Optimization and Contrastive Revisions*, arXiv:2408.06266, Eq. 7.
//! Departures: none in [`kto`]. [`apo_zero_unpaired`] is TRL's: it takes the two halves of Eq. 7
//! apart, which is KTO at z = 0.
//! Detached: `reference`, the baseline, and the reward of the result.

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{UnpairedLoss, apo_zero_unpaired, kto};

/// Numbers of [`kto`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KtoConfig {
    /// β: how fast the value of a gain saturates.
    pub beta: Beta,
    /// λ_D: the weight of desirable completions.
    pub desirable_weight: Weight,
    /// λ_U: the weight of undesirable completions.
    pub undesirable_weight: Weight,
}

impl KtoConfig {
    /// Both weights 1, for data with as many desirable as undesirable completions. The paper's β is
    /// 0.1 in most of its runs, as is TRL's.
    pub fn new(beta: Beta) -> Self {
        Self { beta, desirable_weight: Weight::ONE, undesirable_weight: Weight::ONE }
    }
}

/// What is known of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Thumbs up.
    Desirable,
    /// Thumbs down.
    Undesirable,
}

/// z from the summed log-ratios of mismatched pairs, in nats: their mean, or 0 where it is negative.
///
/// # Panics
/// Without a number.
///
/// ```
/// use rlhf_core::loss::kto::kl_baseline;
///
/// assert_eq!(kl_baseline(&[2.0, -1.0, 5.0]), 2.0);
/// assert_eq!(kl_baseline(&[1.0, -3.0]), 0.0); // a KL divergence is never negative
/// ```
#[track_caller]
pub fn kl_baseline(log_ratios: &[f64]) -> f64 {
    assert!(!log_ratios.is_empty(), "kl_baseline: log_ratios: expected at least one, found none");
    let mean = log_ratios.iter().sum::<f64>() / log_ratios.len() as f64;
    // Not `f64::max`, which would hide NaN.
    if mean < 0.0 { 0.0 } else { mean }
}

/// One completion's loss: the definition of [`kto`].
///
/// ```
/// use rlhf_core::loss::kto::{KtoConfig, Label, kto_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The log-ratio is 4 where z = 4 − log 3: σ = ¾.
/// let config = KtoConfig::new(Beta::new(1.0)?);
/// let of = |label| kto_scalar(config, -6.0f64, -10.0, label, 4.0 - 3f64.ln());
/// assert!((of(Label::Desirable) - 0.25).abs() < 1e-15);
/// assert!((of(Label::Undesirable) - 0.75).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn kto_scalar<R: Real>(config: KtoConfig, policy: R, reference: f64, label: Label, baseline: f64) -> R {
    let x = (policy - reference - baseline) * config.beta.get();
    match label {
        Label::Desirable => (-x).sigmoid() * config.desirable_weight.get(),
        Label::Undesirable => x.sigmoid() * config.undesirable_weight.get(),
    }
}

/// One completion's loss: the definition of [`apo_zero_unpaired`].
pub fn apo_zero_unpaired_scalar<R: Real>(config: KtoConfig, policy: R, reference: f64, label: Label) -> R {
    kto_scalar(config, policy, reference, label, 0.0)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::KtoConfig;
    use crate::elementwise::sigmoid;
    use crate::shape::{filled, same};

    /// What a loss on single completions gives.
    #[derive(Debug, Clone)]
    pub struct UnpairedLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: β times the log-ratio, in nats. Detached.
        pub reward: Tensor<1>,
    }

    /// The loss of each completion; one kind of them may be absent.
    ///
    /// # Shapes
    /// `policy` and `reference` (log-probabilities summed over the completion), `desirable` (`true`
    /// for thumbs up) and every field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn kto(
        config: KtoConfig,
        policy: Tensor<1>,
        reference: Tensor<1>,
        desirable: &Tensor<1, Bool>,
        baseline: f64,
    ) -> UnpairedLoss {
        of_baseline("kto", config, [policy, reference], desirable, baseline)
    }

    /// The loss of each completion, its reward compared with none; one kind may be absent.
    ///
    /// # Shapes
    /// As [`kto`].
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn apo_zero_unpaired(
        config: KtoConfig,
        policy: Tensor<1>,
        reference: Tensor<1>,
        desirable: &Tensor<1, Bool>,
    ) -> UnpairedLoss {
        of_baseline("apo_zero_unpaired", config, [policy, reference], desirable, 0.0)
    }

    #[track_caller]
    fn of_baseline(
        name: &str,
        config: KtoConfig,
        [policy, reference]: [Tensor<1>; 2],
        desirable: &Tensor<1, Bool>,
        baseline: f64,
    ) -> UnpairedLoss {
        filled(name, "policy", policy.dims());
        same(name, "reference", reference.dims(), policy.dims());
        same(name, "desirable", desirable.dims(), policy.dims());
        let beta = config.beta.get();
        let ratio = policy - reference.detach();
        let x = ratio.clone().sub_scalar(baseline).mul_scalar(beta);
        let x = x.clone().mask_where(desirable.clone(), x.neg());
        let weight = x.zeros_like().add_scalar(config.undesirable_weight.get());
        let weight = weight.mask_fill(desirable.clone(), config.desirable_weight.get());
        UnpairedLoss { loss: sigmoid(x) * weight, reward: ratio.detach().mul_scalar(beta) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config() -> KtoConfig {
        let weight = |x| Weight::new(x).expect("a weight");
        KtoConfig {
            desirable_weight: weight(1.5),
            undesirable_weight: weight(0.5),
            ..KtoConfig::new(Beta::new(0.2).expect("positive"))
        }
    }

    #[test]
    fn the_two_labels_share_out_the_weight() {
        // (1 − σ) + σ = 1 whatever the reward, so the weighted losses over their weights sum to 1.
        for policy in [-5e3, -8.0, 0.0, 3.0, 5e3] {
            let of = |label| kto_scalar(config(), policy, -2.0, label, 1.5);
            let sum = of(Label::Desirable) / 1.5 + of(Label::Undesirable) / 0.5;
            assert!((sum - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn a_completion_at_the_baseline_is_pulled_hardest() {
        // λ β σ′(0) = λ β / 4, up where desirable and down where not; σ′(2) at d = 10.
        let slope = |policy, label| gradient(&[policy], |p| kto_scalar(config(), p[0], 0.0, label, 1.5)).1[0];
        assert!((slope(1.5, Label::Desirable) + 1.5 * 0.05).abs() < 1e-15);
        assert!((slope(1.5, Label::Undesirable) - 0.5 * 0.05).abs() < 1e-15);
        assert!(slope(11.5, Label::Desirable) > slope(1.5, Label::Desirable));
    }

    #[test]
    fn plain_weights_are_one() {
        let config = KtoConfig::new(Beta::new(0.2).expect("positive"));
        assert!((apo_zero_unpaired_scalar(config, -3.0, -3.0, Label::Desirable) - 0.5).abs() < 1e-15);
        assert!((apo_zero_unpaired_scalar(config, -3.0, -3.0, Label::Undesirable) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn the_baseline_is_a_mean_that_is_not_negative() {
        assert!((kl_baseline(&[2.0, -1.0, 5.0]) - 2.0).abs() < 1e-15);
        assert!(kl_baseline(&[1.0, -3.0]).abs() <= 0.0);
    }

    #[test]
    fn nan_is_not_clamped_away() {
        assert!(kl_baseline(&[1.0, f64::NAN]).is_nan());
    }

    #[test]
    #[should_panic(expected = "kl_baseline: log_ratios: expected at least one, found none")]
    fn a_baseline_of_nothing() {
        let _ = kl_baseline(&[]);
    }
}
