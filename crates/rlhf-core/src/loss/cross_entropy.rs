//! Cross-entropy of the next token, plain and with smoothed labels.
//!
//! ```text
//! ℓ   = −log p(y)
//! ℓ_ε = −(1 − ε) log p(y) − (ε / V) Σ_v log p(v)
//! ```
//!
//! Where: p is the softmax of a row of `logits`, y its entry of `targets`, V the vocabulary, ε is
//! `label_smoothing`.
//! Paper: Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*,
//! arXiv:1512.00567, Section 7 (the loss is H(q′, p) there).
//! Departures: none; ε counts as in `transformers`' `LabelSmoother`, the target's own ε / V
//! included.
//! Detached: nothing.

use serde::{Deserialize, Serialize};

use crate::host::stable::log_softmax;
use crate::logp::token_logp_scalar;
use crate::number::Prob;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{cross_entropy, cross_entropy_smoothed};

/// How much of the target's mass goes to the whole vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossEntropyConfig {
    /// ε, from 0 (plain) to 1 (the target does not matter).
    pub label_smoothing: Prob,
}

/// One row's loss in nats: the definition of [`cross_entropy`].
///
/// ```
/// // Two equal logits: −log ½.
/// let loss = rlhf_core::loss::cross_entropy::cross_entropy_scalar(&[0.0, 0.0f64], 0);
/// assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
/// ```
///
/// # Panics
/// When `target` is not below the row's length.
pub fn cross_entropy_scalar<R: Real>(logits: &[R], target: usize) -> R {
    -token_logp_scalar(logits, target)
}

/// One row's loss with smoothed labels: the definition of [`cross_entropy_smoothed`].
///
/// # Panics
/// When `target` is not below the row's length.
pub fn cross_entropy_smoothed_scalar<R: Real>(config: CrossEntropyConfig, logits: &[R], target: usize) -> R {
    let eps = config.label_smoothing.get();
    let logp = log_softmax(logits);
    let uniform = logp.iter().copied().sum::<R>() / logp.len() as f64;
    logp[target] * (eps - 1.0) - uniform * eps
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Int, Tensor};

    use super::CrossEntropyConfig;
    use crate::logp::token_logp;
    use crate::shape::{filled, same};

    /// Cross-entropy of each row, in nats.
    ///
    /// # Shapes
    /// `logits: [M, V]`, `targets: [M]` in `0..V`; the result is `[M]`.
    ///
    /// Rows that are no target (labels of −100) are left out before; so the losses of `[B, T]` scored
    /// positions are reshaped and [`normalise`](crate::mask::normalise)d with their mask, or the rows
    /// are picked and averaged.
    ///
    /// # Panics
    /// On an empty axis, another number of targets than rows, or a target outside `0..V` (in the
    /// device's words).
    #[track_caller]
    pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        filled("cross_entropy", "logits", logits.dims());
        same("cross_entropy", "targets", targets.dims(), [logits.dims()[0]]);
        token_logp(logits, targets).neg()
    }

    /// Cross-entropy of each row with smoothed labels, in nats.
    ///
    /// # Shapes
    /// `logits: [M, V]`, `targets: [M]` in `0..V`; the result is `[M]`.
    ///
    /// # Panics
    /// On an empty axis or another number of targets than rows.
    #[track_caller]
    pub fn cross_entropy_smoothed(
        config: CrossEntropyConfig,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
    ) -> Tensor<1> {
        let [m, _] = logits.dims();
        filled("cross_entropy_smoothed", "logits", logits.dims());
        same("cross_entropy_smoothed", "targets", targets.dims(), [m]);
        let eps = config.label_smoothing.get();
        let logp = log_softmax(logits, 1);
        let of_target = logp.clone().gather(1, targets.unsqueeze_dim::<2>(1)).reshape([m]);
        let uniform = logp.mean_dim(1).reshape([m]);
        of_target.mul_scalar(eps - 1.0) - uniform.mul_scalar(eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smoothing(eps: f64) -> CrossEntropyConfig {
        CrossEntropyConfig { label_smoothing: Prob::new(eps).expect("a probability") }
    }

    #[test]
    fn no_smoothing_is_the_plain_loss() {
        let z = [0.3, -1.0, 2.0];
        let plain = cross_entropy_scalar(&z, 1);
        assert!((cross_entropy_smoothed_scalar(smoothing(0.0), &z, 1) - plain).abs() < 1e-15);
    }

    #[test]
    fn full_smoothing_forgets_the_target() {
        let z = [0.3, -1.0, 2.0];
        let a = cross_entropy_smoothed_scalar(smoothing(1.0), &z, 0);
        assert!((cross_entropy_smoothed_scalar(smoothing(1.0), &z, 2) - a).abs() < 1e-15);
    }

    #[test]
    fn half_smoothing_by_hand() {
        // p = (3/4, 1/4), y = 0, ε = ½: −½ log ¾ − ¼ (log ¾ + log ¼).
        let expected = -0.75 * 0.75f64.ln() - 0.25 * 0.25f64.ln();
        let found = cross_entropy_smoothed_scalar(smoothing(0.5), &[3f64.ln(), 0.0], 0);
        assert!((found - expected).abs() < 1e-15, "{found} {expected}");
    }
}
