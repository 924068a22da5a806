//! Log-probabilities of chosen tokens and the entropy of the distribution they came from.
//!
//! ```text
//! log p(v) = z_v − log Σ_w exp z_w          H = −Σ_v p(v) log p(v)
//! ```
//!
//! Where: z is a row of `logits`, already divided by the temperature ([`at_temperature`]).
//! Rows are scored positions, `[M, V]`: whoever calls has picked them out, so nothing here has a
//! mask, and a token outside `0..V`, such as the −100 of ignored labels, is refused by the device. Logits must be finite; a token that must not occur is left out by the sampler, not here.

use crate::host::stable::{log_softmax, logsumexp};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{at_temperature, entropy, selected_logp, token_logp};

/// One row's log-probability of `token`, in nats: the definition of [`token_logp`].
///
/// ```
/// // Two equal logits: each has probability one half.
/// let logp = rlhf_core::logp::token_logp_scalar(&[3.0, 3.0f64], 1);
/// assert!((logp + std::f64::consts::LN_2).abs() < 1e-15);
/// ```
///
/// # Panics
/// When `token` is not below the row's length.
pub fn token_logp_scalar<R: Real>(logits: &[R], token: usize) -> R {
    logits[token] - logsumexp(logits)
}

/// One row's entropy in nats: the definition of [`entropy`].
///
/// ```
/// let h = rlhf_core::logp::entropy_scalar(&[1.0f64; 4]);
/// assert!((h - 4f64.ln()).abs() < 1e-15);
/// ```
pub fn entropy_scalar<R: Real>(logits: &[R]) -> R {
    -log_softmax(logits).into_iter().map(|logp| logp.exp() * logp).sum::<R>()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Int, Tensor};

    use crate::shape::{filled, same};

    /// Logits divided by `temperature`.
    ///
    /// # Panics
    /// Unless `temperature` is positive and finite.
    #[track_caller]
    pub fn at_temperature(logits: Tensor<2>, temperature: f64) -> Tensor<2> {
        assert!(
            temperature > 0.0 && temperature.is_finite(),
            "at_temperature: temperature: expected a positive finite number, found {temperature}"
        );
        logits.div_scalar(temperature)
    }

    /// Log-probability of one token a row, in nats.
    ///
    /// # Shapes
    /// `logits: [M, V]`, `tokens: [M]` in `0..V`; the result is `[M]`.
    ///
    /// # Panics
    /// On an empty axis or another number of tokens than rows.
    #[track_caller]
    pub fn token_logp(logits: Tensor<2>, tokens: Tensor<1, Int>) -> Tensor<1> {
        let [m, _] = logits.dims();
        filled("token_logp", "logits", logits.dims());
        same("token_logp", "tokens", tokens.dims(), [m]);
        selected_logp(logits, tokens.unsqueeze_dim::<2>(1)).reshape([m])
    }

    /// Log-probability of `K` tokens a row, in nats.
    ///
    /// # Shapes
    /// `logits: [M, V]`, `tokens: [M, K]` in `0..V`; the result is `[M, K]`.
    ///
    /// # Panics
    /// On an empty axis or another number of rows.
    #[track_caller]
    pub fn selected_logp(logits: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<2> {
        let [m, _] = logits.dims();
        filled("selected_logp", "logits", logits.dims());
        filled("selected_logp", "tokens", tokens.dims());
        same("selected_logp", "tokens", [tokens.dims()[0]], [m]);
        // The shift changes no value, so no gradient goes through it. The chosen entries are taken
        // before the normaliser is subtracted: a whole log-softmax would be one more [M, V].
        let shift = logits.clone().detach().max_dim(1);
        let shifted = logits - shift;
        let log_sum = shifted.clone().exp().sum_dim(1).log();
        shifted.gather(1, tokens) - log_sum
    }

    /// Entropy of each row's distribution, in nats.
    ///
    /// # Shapes
    /// `logits: [M, V]`; the result is `[M]`.
    ///
    /// # Panics
    /// On an empty axis.
    #[track_caller]
    pub fn entropy(logits: Tensor<2>) -> Tensor<1> {
        let [m, _] = logits.dims();
        filled("entropy", "logits", logits.dims());
        let logp = log_softmax(logits, 1);
        (logp.clone().exp() * logp).sum_dim(1).reshape([m]).neg()
    }
}
