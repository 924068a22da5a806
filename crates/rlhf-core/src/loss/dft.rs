//! Dynamic fine-tuning: each token's cross-entropy times the probability the model gives it.
//!
//! ```text
//! ℓ = −sg(p(y)) log p(y)
//! ```
//!
//! Where: p is the softmax of a row of `logits`, y its entry of `targets`, sg stops the gradient.
//! Paper: Wu et al., *On the Generalization of SFT: A Reinforcement Learning Perspective with
//! Reward Rectification*, arXiv:2508.05629, Eq. 9.
//! Departures: none.
//! Detached: the weight p(y).

use crate::logp::token_logp_scalar;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::dft;

/// One row's loss: the definition of [`dft`].
///
/// ```
/// // p(y) = ½: ½ log 2.
/// let loss = rlhf_core::loss::dft::dft_scalar(&[0.0, 0.0f64], 0);
/// assert!((loss - 0.5 * std::f64::consts::LN_2).abs() < 1e-15);
/// ```
///
/// # Panics
/// When `target` is not below the row's length.
pub fn dft_scalar<R: Real>(logits: &[R], target: usize) -> R {
    let logp = token_logp_scalar(logits, target);
    -logp.exp().detached() * logp
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Int, Tensor};

    use crate::logp::token_logp;
    use crate::shape::{filled, same};

    /// The loss of each row.
    ///
    /// # Shapes
    /// `logits: [M, V]`, `targets: [M]` in `0..V`; the result is `[M]`.
    ///
    /// # Panics
    /// On an empty axis or another number of targets than rows.
    #[track_caller]
    pub fn dft(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        filled("dft", "logits", logits.dims());
        same("dft", "targets", targets.dims(), [logits.dims()[0]]);
        let logp = token_logp(logits, targets);
        (logp.clone().detach().exp() * logp).neg()
    }
}

#[cfg(test)]
mod tests {
    use super::dft_scalar;

    #[test]
    fn an_impossible_token_costs_nothing() {
        // p log p → 0: the point of the method, and the opposite of cross-entropy.
        assert!(dft_scalar::<f64>(&[0.0, 5e3], 0).abs() < 1e-300);
    }
}
