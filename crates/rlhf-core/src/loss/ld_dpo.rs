//! Length-desensitised DPO: a completion's log-probability in which the part that is longer than its
//! partner counts less.
//!
//! ```text
//! log π̂(y|x) = Σ_{k ≤ n} log π(y_k|x, y_<k) + α Σ_{k > n} log π(y_k|x, y_<k)          n = min(|y⁺|, |y⁻|)
//! ```
//!
//! Where: log π(y_k|…) are the entries of `logp` that `mask` lets through, in order, |y⁺| and |y⁻|
//! are the number of these and `partner`, α is `alpha`.
//! Paper: Liu et al., *Length Desensitization in Direct Preference Optimization*, arXiv:2409.06411,
//! the modified likelihood of Section 3.
//! Departures: none. The result takes the place of a plain sum in any loss on pairs; [`dpo`] makes it
//! the paper's, with both the policy's and the reference's log-probabilities so weighted.
//! Detached: nothing; a loss detaches what it is given for the reference.
//!
//! [`dpo`]: crate::loss::dpo

use serde::{Deserialize, Serialize};

use crate::number::Prob;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::ld_logp;

/// Numbers of [`ld_logp`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LdDpoConfig {
    /// α: the weight of what is longer than the partner. 1 is the plain sum, 0 cuts the longer one.
    pub alpha: Prob,
}

/// One completion's log-probability: the definition of [`ld_logp`]. `partner` is the number of tokens
/// of the pair's other completion.
///
/// ```
/// use rlhf_core::loss::ld_dpo::{LdDpoConfig, ld_logp_scalar};
/// use rlhf_core::number::Prob;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // A prompt's token, then three of the completion; the partner has one: −1 + ½ (−2 − 4).
/// let config = LdDpoConfig { alpha: Prob::new(0.5)? };
/// let logp = ld_logp_scalar(config, &[-9.0, -1.0, -2.0, -4.0], &[false, true, true, true], 1);
/// assert!((logp - -4.0f64).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn ld_logp_scalar<R: Real>(config: LdDpoConfig, logp: &[R], mask: &[bool], partner: usize) -> R {
    assert_eq!(logp.len(), mask.len(), "ld_logp: logp and mask differ in length");
    let weight = |k: usize| if k < partner { 1.0 } else { config.alpha.get() };
    let tokens = logp.iter().zip(mask).filter(|(_, on)| **on);
    tokens.enumerate().map(|(k, (logp, _))| *logp * weight(k)).sum()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::LdDpoConfig;
    use crate::mask::{masked, per_token};
    use crate::shape::same;

    /// The log-probability of each completion.
    ///
    /// ```text
    /// let [n_chosen, n_rejected] = [lengths(&chosen_mask), lengths(&rejected_mask)];
    /// let policy = [
    ///     ld_logp(ld, chosen_logp, &chosen_mask, n_rejected),
    ///     ld_logp(ld, rejected_logp, &rejected_mask, n_chosen),
    /// ];
    /// ```
    ///
    /// # Shapes
    /// `logp` (of the tokens, in nats) and `mask` are `[B, T]`; `partner`, the numbers of tokens of the
    /// other completions ([`lengths`](crate::mask::lengths)), and the result are `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn ld_logp(
        config: LdDpoConfig,
        logp: Tensor<2>,
        mask: &Tensor<2, Bool>,
        partner: Tensor<1>,
    ) -> Tensor<1> {
        let [b, t] = logp.dims();
        let logp = masked("ld_logp", logp, mask);
        same("ld_logp", "partner", partner.dims(), [b]);
        // Which token of the completion each one is, counted from 1.
        let place = mask.clone().float().cumsum(1);
        let beyond = place.clone().greater(per_token(partner.detach(), t));
        let weight = place.ones_like().mask_fill(beyond, config.alpha.get());
        (logp * weight).sum_dim(1).reshape([b])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGP: [f64; 4] = [-1.0, -2.0, f64::NAN, -4.0];
    const MASK: [bool; 4] = [true, true, false, true];

    fn at(alpha: f64, partner: usize) -> f64 {
        let config = LdDpoConfig { alpha: Prob::new(alpha).expect("a probability") };
        ld_logp_scalar(config, &LOGP, &MASK, partner)
    }

    #[test]
    fn only_tokens_of_the_completion_are_counted() {
        // The hole of the mask is no token: the third one is the last.
        assert!((at(0.5, 2) - (-1.0 - 2.0 - 0.5 * 4.0)).abs() < 1e-15);
        assert!((at(0.0, 1) - -1.0).abs() < 1e-15);
        assert!((at(0.25, 0) - 0.25 * -7.0).abs() < 1e-15);
    }

    #[test]
    fn the_shorter_one_and_alpha_1_are_plain_sums() {
        for (alpha, partner) in [(0.0, 3), (0.3, 9), (1.0, 0), (1.0, 2)] {
            assert!((at(alpha, partner) - -7.0).abs() < 1e-15);
        }
    }
}
