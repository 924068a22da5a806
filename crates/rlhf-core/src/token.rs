//! What the policy-gradient losses share: the ratio of a token's probabilities, the result.
//!
//! ```text
//! r_t = π(y_t | y_<t) / π_old(y_t | y_<t) = exp(log π − log π_old)
//! ```
//!
//! A log-ratio above [`MAX_LOG_RATIO`] is held there: its exponential would overflow `f32`, and a
//! clipped objective, finite in mathematics, would get 0 · ∞ = NaN for a gradient.

use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{SequenceLoss, TokenLoss, token_ratio};

/// The largest log-ratio that is exponentiated, in nats; e⁸⁰ is 5.5 · 10³⁴.
pub const MAX_LOG_RATIO: f64 = 80.0;

/// r of one token; the definition of [`token_ratio`].
pub fn token_ratio_scalar<R: Real>(logp: R, old_logp: f64) -> R {
    (logp - old_logp).clamp(f64::NEG_INFINITY, MAX_LOG_RATIO).exp()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::MAX_LOG_RATIO;
    use crate::mask::masked;
    use crate::shape::same;

    /// What a loss on the tokens of completions gives.
    #[derive(Debug, Clone)]
    pub struct TokenLoss {
        /// `[B, T]`, 0 behind the mask.
        pub loss: Tensor<2>,
        /// `[B, T]`: r, 1 behind the mask. Detached.
        pub ratio: Tensor<2>,
    }

    /// What a loss on whole completions gives.
    #[derive(Debug, Clone)]
    pub struct SequenceLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: the sequence's ratio. Detached.
        pub ratio: Tensor<1>,
    }

    /// r of each token, 1 behind the mask, with no gradient there; `old_logp` is detached.
    ///
    /// # Shapes
    /// All arguments and the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes; the message begins with `name`.
    #[track_caller]
    pub fn token_ratio(
        name: &str,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        mask: &Tensor<2, Bool>,
    ) -> Tensor<2> {
        same(name, "old_logp", old_logp.dims(), logp.dims());
        let log_ratio = masked(name, logp - old_logp.detach(), mask);
        log_ratio.clamp_max(MAX_LOG_RATIO).exp()
    }
}
