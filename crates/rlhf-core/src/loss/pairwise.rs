//! Pairwise preference model: cross-entropy of a logit against a soft label.
//!
//! ```text
//! ℓ = −p log σ(x) − (1 − p) log σ(−x)
//! ```
//!
//! Where: x is `logit`, the model's log-odds that a is preferred to b; p is `prob`, how often a was.
//! Paper: Munos et al., *Nash Learning from Human Feedback*, arXiv:2312.00886, in words (its
//! preference model); Jiang et al., *LLM-Blender*, arXiv:2306.02561, in words (PairRanker).
//! Departures: soft labels; the papers' are 0 or 1. Nothing makes x change its sign when a and b
//! change places: ask the model in both orders, or use [`gpm`](crate::loss::gpm).
//! Detached: `prob`.

use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::pairwise;

/// One pair's loss in nats: the definition of [`pairwise`].
///
/// ```
/// use rlhf_core::loss::pairwise::pairwise_scalar;
///
/// // Even odds cost log 2 whatever the label.
/// let loss = pairwise_scalar(0.0f64, 0.8);
/// assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
/// ```
pub fn pairwise_scalar<R: Real>(logit: R, prob: f64) -> R {
    -logit.log_sigmoid() * prob - (-logit).log_sigmoid() * (1.0 - prob)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use crate::elementwise::softplus;
    use crate::shape::{filled, same};

    /// The loss of each pair, in nats.
    ///
    /// # Shapes
    /// `logit`, `prob` (0 to 1) and the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn pairwise(logit: Tensor<1>, prob: Tensor<1>) -> Tensor<1> {
        filled("pairwise", "logit", logit.dims());
        same("pairwise", "prob", prob.dims(), logit.dims());
        let prob = prob.detach();
        let other = prob.clone().neg().add_scalar(1.0);
        softplus(logit.clone().neg()) * prob + softplus(logit) * other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    #[test]
    fn the_minimum_is_the_label_itself_and_costs_its_entropy() {
        for p in [0.1f64, 0.5, 0.8] {
            let (loss, slope) = gradient(&[(p / (1.0 - p)).ln()], |x| pairwise_scalar(x[0], p));
            let entropy = -p * p.ln() - (1.0 - p) * (1.0 - p).ln();
            assert!((loss - entropy).abs() < 1e-15 && slope[0].abs() < 1e-15, "{p}");
        }
    }

    #[test]
    fn the_other_order_has_the_other_label() {
        for (x, p) in [(0.7, 0.9), (-40.0, 0.3), (5e3, 0.0)] {
            assert!((pairwise_scalar(x, p) - pairwise_scalar(-x, 1.0 - p)).abs() <= 1e-15 * f64::abs(x));
        }
        // Sure and right costs nothing, sure and wrong the logit.
        assert!(pairwise_scalar(5e3, 1.0).abs() < 1e-300 && (pairwise_scalar(5e3, 0.0) - 5e3).abs() < 1e-9);
    }
}
