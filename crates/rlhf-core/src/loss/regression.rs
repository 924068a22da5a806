//! Squared error of a reward model that learns ratings.
//!
//! ```text
//! ℓ = (r − y)²
//! ```
//!
//! Where: r is `reward`, y is `target`.
//! Paper: Wang et al., *HelpSteer2: Open-source dataset for training top-performing reward models*,
//! arXiv:2406.08673, Section 3 (mean squared error, in words).
//! Departures: none; the mean is the caller's.
//! Detached: `target`.

use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::regression;

/// One example's loss: the definition of [`regression`].
///
/// ```
/// let loss = rlhf_core::loss::regression::regression_scalar(2.5f64, 1.0);
/// assert!((loss - 2.25).abs() < 1e-15);
/// ```
pub fn regression_scalar<R: Real>(reward: R, target: f64) -> R {
    (reward - target).square()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use crate::shape::{filled, same};

    /// The loss of each example.
    ///
    /// # Shapes
    /// Both arguments and the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or another number of targets than rewards.
    #[track_caller]
    pub fn regression(reward: Tensor<1>, target: Tensor<1>) -> Tensor<1> {
        filled("regression", "reward", reward.dims());
        same("regression", "target", target.dims(), reward.dims());
        (reward - target.detach()).square()
    }
}
