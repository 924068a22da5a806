//! Weighted preference optimisation: a pair counts as much as the policy would have sampled it.
//!
//! ```text
//! ℓ = w(y⁺) w(y⁻) ℓ_pair
//! w(y) = exp( 1/|y| Σ_t [log π(y_t|x, y_<t) − log Σ_v π(v|x, y_<t)²] )
//! ```
//!
//! Where: log π(y_t|…) is `logp`, log Σ_v π(v|…)² is `log_sum_sq_probs`, both where `mask` is true, |y|
//! is the number of these, ℓ_pair is any loss whose rows are pairs (those of `aot` are order statistics).
//! Paper: Zhou et al., *WPO: Enhancing RLHF with Weighted Preference Optimization*, arXiv:2406.11827,
//! Eq. 2, with the sampled alignment.
//! Departures: none; the product with the loss stands at the call site.
//! Detached: the weight: both `logp` and `log_sum_sq_probs`.

use crate::mask::sequence_mean_scalar;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::wpo_weight;

/// One completion's weight: the definition of [`wpo_weight`]. It is 1 where each token is as likely as
/// one sampled from the policy is on average, and for no token at all.
///
/// ```
/// use rlhf_core::loss::wpo::wpo_weight_scalar;
///
/// // The policy says (½, ½), whose squares sum to ½, then (¾, ¼) with ⅝; the tokens had ½ and ¼:
/// // the root of (½ / ½) (¼ / ⅝) = 0.4.
/// let w = wpo_weight_scalar(&[0.5f64.ln(), 0.25f64.ln()], &[0.5f64.ln(), 0.625f64.ln()], &[true; 2]);
/// assert!((w - 0.4f64.sqrt()).abs() < 1e-15);
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn wpo_weight_scalar<R: Real>(logp: &[R], log_sum_sq_probs: &[f64], mask: &[bool]) -> R {
    assert_eq!(log_sum_sq_probs.len(), logp.len(), "wpo_weight: arguments differ in length");
    let aligned: Vec<R> = logp.iter().zip(log_sum_sq_probs).map(|(x, s)| *x - *s).collect();
    sequence_mean_scalar(&aligned, mask).exp().detached()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use crate::mask::{masked, sequence_mean};
    use crate::shape::same;

    /// The weight of each completion, without gradient.
    ///
    /// ```text
    /// let loss = dpo(config, policy, reference).loss * wpo_weight(chosen, …) * wpo_weight(rejected, …);
    /// ```
    ///
    /// # Shapes
    /// `logp` (of the tokens, in nats), `log_sum_sq_probs` and `mask` are `[B, T]`, the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn wpo_weight(logp: Tensor<2>, log_sum_sq_probs: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        same("wpo_weight", "log_sum_sq_probs", log_sum_sq_probs.dims(), logp.dims());
        let aligned = masked("wpo_weight", logp.detach() - log_sum_sq_probs.detach(), mask);
        sequence_mean(aligned, mask).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    #[test]
    fn what_the_policy_samples_on_average_weighs_1() {
        // Uniform over 8: each token has log ⅛, and so has the sum of squares.
        let uniform = [-(8f64.ln()); 3];
        assert!((wpo_weight_scalar(&uniform, &uniform, &[true; 3]) - 1.0).abs() < 1e-15);
        assert!((wpo_weight_scalar(&[f64::NAN], &[0.0], &[false]) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn the_weight_is_a_mean_over_tokens_and_has_no_slope() {
        // Mean of −1 and −3.
        let (w, slope) = gradient(&[-2.0, f64::NAN, -5.0], |x| {
            wpo_weight_scalar(x, &[-1.0, 0.0, -2.0], &[true, false, true])
        });
        assert!((w - (-2f64).exp()).abs() < 1e-15 && slope.iter().all(|g| g.abs() <= 0.0));
    }
}
