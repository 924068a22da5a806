//! Variational sequence-level soft policy optimisation: REINFORCE under a smooth sequence weight.
//!
//! ```text
//! ℓ_t   = −sg(φ(w)) A_t log π(y_t)          φ(w) = w^k e^{λ (1 − w)}
//! log w = hold(Σ_t hold(log r_t)),  with a correction  + Σ_t hold(log c_t)  inside
//! ```
//!
//! Where: π is `logp`, r_t its ratio to `old_logp` ([`token`](crate::token)), A_t is `advantage`,
//! k and λ are `k_pos` and `lambda_pos` where A_t ≥ 0, `k_neg` and `lambda_neg` elsewhere, c_t is
//! `ratio`, the probability that the trainer gives a token over the one it was sampled with. φ(1) = 1.
//! Paper: Shen et al., *VESPO: Variational Sequence-Level Soft Policy Optimization for Stable
//! Off-Policy LLM Training*, arXiv:2602.10693 (its kernel, in words); what holds each logarithm (±20 a
//! token; log 10⁻⁸ for c_t and w from below, 20 from above) is the authors' code by way of TRL.
//! Departures: TRL sums log c_t behind the mask as well, which counts only where c_t is not 1 there:
//! [`log_correction`] with a mask that is true throughout is TRL's number. TRL makes a NaN of φ 0;
//! here it stays.
//! Detached: w and so φ, `old_logp`, `log_weight`, `ratio`, `advantage`.

use serde::{Deserialize, Serialize};

use crate::mask::sequence_sum_scalar;
use crate::number::{Positive, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{VespoLoss, log_correction, log_weight, vespo, vespo_weighted};

/// The largest log-ratio of a token, and the largest log w, in nats.
const HIGH: f64 = 20.0;

/// The smallest log w, and the smallest log c of a token: log 10⁻⁸ in nats.
const LOW: f64 = -8.0 * std::f64::consts::LN_10;

/// The shape of φ on either side of an advantage of 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VespoConfig {
    /// k where A ≥ 0: how strongly a weight below 1 is drawn to 0. TRL has 2.
    pub k_pos: Weight,
    /// λ where A ≥ 0: how strongly one above 1 is. TRL has 3.
    pub lambda_pos: Positive,
    /// k where A < 0. TRL has 3.
    pub k_neg: Weight,
    /// λ where A < 0. TRL has 2.
    pub lambda_neg: Positive,
}

/// log w of one sequence before it is held, detached: the definition of [`log_weight`].
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn log_weight_scalar<R: Real>(logp: &[R], old_logp: &[f64], mask: &[bool]) -> R {
    assert_eq!(old_logp.len(), logp.len(), "log_weight: old_logp: another length than logp");
    let token = |(x, old): (&R, &f64)| (x.detached() - *old).clamp(-HIGH, HIGH);
    let log_ratio: Vec<R> = logp.iter().zip(old_logp).map(token).collect();
    sequence_sum_scalar(&log_ratio, mask)
}

/// Σ log c of one sequence, detached: the definition of [`log_correction`].
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn log_correction_scalar<R: Real>(ratio: &[R], mask: &[bool]) -> R {
    let log_ratio: Vec<R> = ratio.iter().map(|c| c.detached().ln().clamp(LOW, HIGH)).collect();
    sequence_sum_scalar(&log_ratio, mask)
}

/// The loss of each token of one sequence, 0 behind the mask: the definition of [`vespo`].
///
/// ```
/// use rlhf_core::loss::vespo::{VespoConfig, vespo_scalar};
/// use rlhf_core::number::{Positive, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// let (k, lambda) = (Weight::new(2.0)?, Positive::new(3.0)?);
/// let config = VespoConfig { k_pos: k, lambda_pos: lambda, k_neg: k, lambda_neg: lambda };
/// // On policy φ = 1: −A log π.
/// let loss = vespo_scalar(config, &[-0.5f64, -2.0], &[-0.5, -2.0], &[3.0, 3.0], &[true, true]);
/// assert!((loss[0] - 1.5).abs() < 1e-15 && (loss[1] - 6.0).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn vespo_scalar<R: Real>(
    config: VespoConfig,
    logp: &[R],
    old_logp: &[f64],
    advantage: &[f64],
    mask: &[bool],
) -> Vec<R> {
    assert_eq!(advantage.len(), logp.len(), "vespo: advantage: another length than logp");
    let log_w = log_weight_scalar(logp, old_logp, mask);
    let of = |((x, a), on): ((&R, &f64), &bool)| {
        if *on { phi(config, log_w, *a) * -*a * *x } else { R::from(0.0) }
    };
    logp.iter().zip(advantage).zip(mask).map(of).collect()
}

/// One token's loss under the log w of its sequence: the definition of [`vespo_weighted`].
pub fn vespo_weighted_scalar<R: Real>(config: VespoConfig, logp: R, log_weight: f64, advantage: f64) -> R {
    logp * (-advantage * phi(config, log_weight, advantage))
}

fn phi<R: Real>(config: VespoConfig, log_weight: R, advantage: f64) -> R {
    let (k, lambda) = if advantage >= 0.0 {
        (config.k_pos, config.lambda_pos.get())
    } else {
        (config.k_neg, config.lambda_neg.get())
    };
    let log_w = log_weight.clamp(LOW, HIGH);
    (log_w * k.get() - log_w.exp_m1() * lambda).exp()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::{HIGH, LOW, VespoConfig};
    use crate::elementwise::exp_m1;
    use crate::mask::{masked, per_token, sequence_sum};
    use crate::shape::{filled, same};

    /// What [`vespo`] gives.
    #[derive(Debug, Clone)]
    pub struct VespoLoss {
        /// `[B, T]`, 0 behind the mask.
        pub loss: Tensor<2>,
        /// `[B, T]`: φ(w), 0 behind the mask. Detached.
        pub phi: Tensor<2>,
    }

    /// log w of each sequence before it is held, detached; 0 without tokens.
    ///
    /// # Shapes
    /// The arguments are `[B, T]`, the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn log_weight(logp: Tensor<2>, old_logp: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        log_weight_of("log_weight", logp, old_logp, mask)
    }

    /// Σ log c of each sequence, detached: what is added to [`log_weight`] for tokens that were
    /// sampled by another engine than the old policy was evaluated with.
    ///
    /// # Shapes
    /// `ratio` (truncated or masked as the caller likes; 0 counts as 10⁻⁸) and `mask` are `[B, T]`,
    /// the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn log_correction(ratio: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        filled("log_correction", "ratio", ratio.dims());
        same("log_correction", "mask", mask.dims(), ratio.dims());
        sequence_sum(ratio.detach().log().clamp(LOW, HIGH), mask)
    }

    /// The loss of each token.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B, T]`; one advantage a sequence is spread
    /// by [`per_token`].
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn vespo(
        config: VespoConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> VespoLoss {
        same("vespo", "advantage", advantage.dims(), logp.dims());
        let log_weight = log_weight_of("vespo", logp.clone(), old_logp, mask);
        of_weight("vespo", config, [logp, advantage], log_weight, mask)
    }

    /// The loss of each token under weights that the caller put together: [`log_weight`], plus
    /// [`log_correction`] where tokens were sampled by another engine.
    ///
    /// # Shapes
    /// `logp`, `advantage`, `mask` and each field of the result are `[B, T]`, `log_weight` is `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn vespo_weighted(
        config: VespoConfig,
        logp: Tensor<2>,
        log_weight: Tensor<1>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> VespoLoss {
        let name = "vespo_weighted";
        same(name, "advantage", advantage.dims(), logp.dims());
        same(name, "log_weight", log_weight.dims(), [logp.dims()[0]]);
        of_weight(name, config, [logp, advantage], log_weight.detach(), mask)
    }

    #[track_caller]
    fn log_weight_of(name: &str, logp: Tensor<2>, old_logp: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        filled(name, "logp", logp.dims());
        same(name, "old_logp", old_logp.dims(), logp.dims());
        same(name, "mask", mask.dims(), logp.dims());
        sequence_sum((logp - old_logp).detach().clamp(-HIGH, HIGH), mask)
    }

    #[track_caller]
    fn of_weight(
        name: &str,
        config: VespoConfig,
        [logp, advantage]: [Tensor<2>; 2],
        log_weight: Tensor<1>,
        mask: &Tensor<2, Bool>,
    ) -> VespoLoss {
        let t = logp.dims()[1];
        let advantage = masked(name, advantage.detach(), mask);
        let bad = advantage.clone().lower_elem(0.0);
        let by_sign = |pos: f64, neg: f64| advantage.full_like(pos).mask_fill(bad.clone(), neg);
        let k = by_sign(config.k_pos.get(), config.k_neg.get());
        let lambda = by_sign(config.lambda_pos.get(), config.lambda_neg.get());
        let log_w = per_token(log_weight.clamp(LOW, HIGH), t);
        let phi = masked(name, (log_w.clone() * k - exp_m1(log_w) * lambda).exp(), mask);
        let loss = (phi.clone() * advantage).neg() * masked(name, logp, mask);
        VespoLoss { loss, phi }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config() -> VespoConfig {
        let (k, lambda) = (|x| Weight::new(x).expect("a weight"), |x| Positive::new(x).expect("positive"));
        VespoConfig { k_pos: k(2.0), lambda_pos: lambda(3.0), k_neg: k(3.0), lambda_neg: lambda(2.0) }
    }

    #[test]
    fn the_sign_of_the_advantage_chooses_the_shape() {
        // w = 2: φ = 2² e⁻³ and 2³ e⁻².
        let at = |advantage: f64| vespo_weighted_scalar(config(), -1.0, 2f64.ln(), advantage);
        assert!((at(1.0) - 4.0 * (-3f64).exp()).abs() < 1e-15);
        assert!((at(-1.0) + 8.0 * (-2f64).exp()).abs() < 1e-15);
    }

    #[test]
    fn the_weight_is_of_the_whole_sequence_and_has_no_gradient() {
        // Log-ratios 0.3 and −0.1: w = e^0.2, for both tokens.
        let w = 0.2f64.exp();
        let phi = w.powi(2) * (3.0 * (1.0 - w)).exp();
        let (value, slope) = gradient(&[-1.0, -2.0], |x| {
            vespo_scalar(config(), x, &[-1.3, -1.9], &[0.5; 2], &[true; 2]).into_iter().sum()
        });
        assert!((value - 1.5 * phi).abs() < 1e-14);
        assert!(slope.iter().all(|s| (s + 0.5 * phi).abs() < 1e-14));
    }

    #[test]
    fn a_correction_adds_to_the_weight() {
        // c = ½ and 4 are worth log 2, what is behind the mask nothing; a token that is masked out by
        // its ratio counts as 10⁻⁸.
        let found = log_correction_scalar(&[0.5, 4.0, 9.0], &[true, true, false]);
        assert!((found - 2f64.ln()).abs() < 1e-15);
        assert!((log_correction_scalar(&[0.0], &[true]) - 1e-8f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn each_logarithm_is_held() {
        // A token counts 20 at most, so that one that is far off is made up for by two others.
        let log_w = log_weight_scalar(&[5e3, -15.0, -5.0], &[0.0; 3], &[true; 3]);
        assert!(log_w.abs() < 1e-14);
        // w is held at 10⁻⁸ and e²⁰: φ = 10⁻¹⁶ e³ (to 8 digits) and 0.
        let at = |log_w: f64| vespo_weighted_scalar(config(), -1.0, log_w, 1.0);
        assert!((at(-5e3) / (1e-16 * (3.0 - 3e-8f64).exp()) - 1.0).abs() < 1e-13);
        assert!(at(5e3).abs() <= 0.0);
    }
}
