//! Group Sequence Policy Optimization: one ratio for the whole completion, and its token form.
//!
//! ```text
//! s   = (π(y) / π_old(y))^{1/|y|} = exp(1/|y| Σ_t log r_t)
//! ℓ_t = −min(min(s, δ) A_t, clip(s, 1 − ε_low, 1 + ε_high) A_t)
//! token form:  s is replaced by s_t = sg(s) π(y_t) / sg(π(y_t))
//! ```
//!
//! Where: r_t is the ratio of `logp` to `old_logp` ([`token`](crate::token)), |y| the number of
//! tokens that `mask` lets through, A_t is `advantage`, ε_low, ε_high and δ are `epsilon_low`,
//! `epsilon_high` and `delta`; sg stops the gradient.
//! Paper: Zheng et al., *Group Sequence Policy Optimization*, arXiv:2507.18071, Eq. 5 and 7, token
//! form Eq. 13 and 14. The paper's clip range is 3e-4 below and 4e-4 above (Section 5.1).
//! Departures: one number a token, all equal where the advantage is the sequence's own, so that the
//! caller's normaliser decides: the mean of each sequence is Eq. 5, a sum over it is LUSPO. With an
//! advantage a token, `gspo` is NeMo-RL's reading: each of them pulls at the whole sequence. δ is
//! TRL's bound on s. The log of s is held at 80.
//! Detached: `old_logp`, `advantage`, the result's ratio; in the token form also s.

use crate::loss::ppo_clip::{PpoClipConfig, surrogate_scalar};
use crate::mask::sequence_mean_scalar;
use crate::real::Real;
use crate::token::MAX_LOG_RATIO;

#[cfg(feature = "burn")]
pub use tensor::{gspo, gspo_token, sequence_ratio};

/// s of one sequence: the definition of [`sequence_ratio`]. 1 without tokens.
///
/// ```
/// use rlhf_core::loss::gspo::sequence_ratio_scalar;
///
/// // Twice as likely at one token, eight times at the other: √16. The third is behind the mask.
/// let logp = [2f64.ln(), 8f64.ln(), f64::NAN];
/// let s = sequence_ratio_scalar(&logp, &[0.0; 3], &[true, true, false]);
/// assert!((s - 4.0).abs() < 1e-14);
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn sequence_ratio_scalar<R: Real>(logp: &[R], old_logp: &[f64], mask: &[bool]) -> R {
    mean_log_ratio(logp, old_logp, mask).clamp(f64::NEG_INFINITY, MAX_LOG_RATIO).exp()
}

/// The loss of each token of one sequence, 0 behind the mask: the definition of [`gspo`].
///
/// ```
/// use rlhf_core::loss::gspo::gspo_scalar;
/// use rlhf_core::loss::ppo_clip::PpoClipConfig;
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // s = √(2 · 8) = 4: clipped at 1.2 where the advantage is 3, in full where it is −1.
/// let config = PpoClipConfig::new(Weight::new(0.2)?);
/// let loss = gspo_scalar(config, &[2f64.ln(), 8f64.ln()], &[0.0; 2], &[3.0, -1.0], &[true; 2]);
/// assert!((loss[0] + 3.6).abs() < 1e-14 && (loss[1] - 4.0).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn gspo_scalar<R: Real>(
    config: PpoClipConfig,
    logp: &[R],
    old_logp: &[f64],
    advantage: &[f64],
    mask: &[bool],
) -> Vec<R> {
    assert_eq!(advantage.len(), logp.len(), "gspo: advantage: another length than logp");
    let s = sequence_ratio_scalar(logp, old_logp, mask);
    let of = |(a, on): (&f64, &bool)| if *on { surrogate_scalar(config, s, *a) } else { R::from(0.0) };
    advantage.iter().zip(mask).map(of).collect()
}

/// The loss of each token of one sequence, 0 behind the mask: the definition of [`gspo_token`].
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn gspo_token_scalar<R: Real>(
    config: PpoClipConfig,
    logp: &[R],
    old_logp: &[f64],
    advantage: &[f64],
    mask: &[bool],
) -> Vec<R> {
    assert_eq!(advantage.len(), logp.len(), "gspo_token: advantage: another length than logp");
    let log_s = mean_log_ratio(logp, old_logp, mask).detached();
    let of = |((x, a), on): ((&R, &f64), &bool)| {
        let s = (*x - x.detached() + log_s).clamp(f64::NEG_INFINITY, MAX_LOG_RATIO).exp();
        if *on { surrogate_scalar(config, s, *a) } else { R::from(0.0) }
    };
    logp.iter().zip(advantage).zip(mask).map(of).collect()
}

#[track_caller]
fn mean_log_ratio<R: Real>(logp: &[R], old_logp: &[f64], mask: &[bool]) -> R {
    assert_eq!(old_logp.len(), logp.len(), "sequence_ratio: old_logp: another length than logp");
    let log_ratio: Vec<R> = logp.iter().zip(old_logp).map(|(x, old)| *x - *old).collect();
    sequence_mean_scalar(&log_ratio, mask)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use crate::loss::ppo_clip::{PpoClipConfig, surrogate};
    use crate::mask::{masked, per_token, sequence_mean};
    use crate::shape::{filled, same};
    use crate::token::{MAX_LOG_RATIO, TokenLoss};

    /// s of each sequence, 1 for one without tokens; `old_logp` is detached.
    ///
    /// # Shapes
    /// `logp`, `old_logp` and `mask` are `[B, T]`, the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes; the message begins with `name`.
    #[track_caller]
    pub fn sequence_ratio(
        name: &str,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> Tensor<1> {
        mean_log_ratio(name, logp, old_logp, mask).clamp_max(MAX_LOG_RATIO).exp()
    }

    /// The loss of each token, the gradient through the sequence's ratio.
    ///
    /// # Shapes
    /// All arguments and each field of the result are `[B, T]`; one advantage a sequence is spread
    /// by [`per_token`].
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn gspo(
        config: PpoClipConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let [b, t] = logp.dims();
        same("gspo", "advantage", advantage.dims(), [b, t]);
        let ratio = per_token(sequence_ratio("gspo", logp, old_logp, mask), t);
        of_ratio("gspo", config, ratio, advantage, mask)
    }

    /// The loss of each token, the gradient through the token's own log-probability.
    ///
    /// # Shapes
    /// As [`gspo`].
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn gspo_token(
        config: PpoClipConfig,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let name = "gspo_token";
        let [b, t] = logp.dims();
        same(name, "advantage", advantage.dims(), [b, t]);
        let log_s = mean_log_ratio(name, logp.clone().detach(), old_logp, mask);
        // Worth 0, with the gradient of the token's log-probability.
        let own = masked(name, logp.clone() - logp.detach(), mask);
        let ratio = (own + per_token(log_s, t)).clamp_max(MAX_LOG_RATIO).exp();
        of_ratio(name, config, ratio, advantage, mask)
    }

    #[track_caller]
    fn of_ratio(
        name: &str,
        config: PpoClipConfig,
        ratio: Tensor<2>,
        advantage: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> TokenLoss {
        let advantage = masked(name, advantage.detach(), mask);
        let seen = ratio.clone().detach().mask_fill(mask.clone().bool_not(), 1.0);
        TokenLoss { loss: surrogate(config, ratio, advantage), ratio: seen }
    }

    #[track_caller]
    fn mean_log_ratio(name: &str, logp: Tensor<2>, old_logp: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        filled(name, "logp", logp.dims());
        same(name, "old_logp", old_logp.dims(), logp.dims());
        same(name, "mask", mask.dims(), logp.dims());
        sequence_mean(logp - old_logp.detach(), mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Weight;
    use crate::real::gradient;

    const LOGP: [f64; 3] = [-1.69315, -1.0, -0.59453];
    const ADVANTAGE: [f64; 3] = [1.0, -1.0, 2.0];

    fn config(epsilon: f64) -> PpoClipConfig {
        PpoClipConfig::new(Weight::new(epsilon).expect("a weight"))
    }

    fn total(old_logp: f64) -> f64 {
        gspo_scalar(config(0.2), &LOGP, &[old_logp; 3], &ADVANTAGE, &[true; 3]).iter().sum()
    }

    #[test]
    fn one_sequence_by_hand() {
        // NeMo-RL's test: log-ratios −0.69315, 0, 0.40547; their mean is −0.28768 / 3. In range, so
        // each token costs −A s and the mean is −s (1 − 1 + 2) / 3.
        let s = (-0.28768f64 / 3.0).exp();
        assert!((sequence_ratio_scalar(&LOGP, &[-1.0; 3], &[true; 3]) - s).abs() < 1e-15);
        assert!((s - 0.9085609240654214).abs() < 1e-15);
        assert!((total(-1.0) / 3.0 + 0.605707282710281).abs() < 1e-15);
    }

    #[test]
    fn two_sequences_by_hand() {
        // The second's old log-probabilities are lower by 1, so that s is e times that of the first:
        // gains stop at 1.2, the bad token counts in full: −1.2 + s − 2.4.
        let s = (1.0 - 0.28768f64 / 3.0).exp();
        assert!((s - 2.4697246499349936).abs() < 1e-14);
        assert!((total(-2.0) - (s - 3.6)).abs() < 1e-14);
        assert!(((total(-1.0) + total(-2.0)) / 6.0 + 0.49123286636597485).abs() < 1e-15);
    }

    #[test]
    fn both_forms_have_one_value_and_with_one_advantage_one_gradient() {
        let run = |advantage: [f64; 3], token: bool| {
            let f = if token { gspo_token_scalar } else { gspo_scalar };
            gradient(&LOGP, |x| f(config(0.2), x, &[-1.1; 3], &advantage, &[true; 3]).into_iter().sum())
        };
        let ((a, by_sequence), (b, by_token)) = (run([0.7; 3], false), run([0.7; 3], true));
        assert!((a - b).abs() < 1e-15);
        assert!(by_sequence.iter().zip(&by_token).all(|(x, y)| (x - y).abs() < 1e-15));
        // With an advantage a token: −A_t s each by the token form, their mean by the other.
        let s = (0.1 - 0.28768f64 / 3.0).exp();
        let ((a, by_sequence), (b, by_token)) = (run(ADVANTAGE, false), run(ADVANTAGE, true));
        assert!((a - b).abs() < 1e-15);
        assert!(by_token.iter().zip(ADVANTAGE).all(|(x, a)| (x + a * s).abs() < 1e-14));
        assert!(by_sequence.iter().all(|x| (x + 2.0 / 3.0 * s).abs() < 1e-14));
    }

    #[test]
    fn a_sequence_without_tokens_costs_nothing() {
        let loss = gspo_scalar(config(0.2), &[f64::NAN], &[0.0], &[5.0], &[false]);
        assert!(loss[0].abs() <= 0.0);
        assert!((sequence_ratio_scalar(&[f64::NAN], &[0.0], &[false]) - 1.0).abs() <= 0.0);
    }

    #[test]
    fn far_out_the_clip_holds_value_and_slope() {
        for (log_ratio, expected) in [(5e3, -1.2), (-5e3, 0.0)] {
            for f in [gspo_scalar, gspo_token_scalar] {
                let (value, slope) =
                    gradient(&[log_ratio], |x| f(config(0.2), x, &[0.0], &[1.0], &[true])[0]);
                assert!((value - expected).abs() < 1e-15 && slope[0].abs() <= 0.0);
            }
        }
    }
}
