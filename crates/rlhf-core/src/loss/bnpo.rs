//! BNPO as TRL means it: the mean over the tokens of the batch at hand.
//!
//! ```text
//! L = Σ_i Σ_t ℓ_it / Σ_i |y_i|
//! ```
//!
//! Where: ℓ_it is the token loss of [`grpo`](crate::loss::grpo), |y_i| the completion tokens of row
//! i, both of one micro-batch.
//! Paper: the name is from Xiao et al., *BNPO: Beta Normalization Policy Optimization*,
//! arXiv:2506.02864; the normaliser is that of TRL's `loss_type = "bnpo"`.
//! Departures: the paper normalises rewards by a Beta distribution that it fits to them; TRL's loss
//! has nothing of that. Cut into micro-batches of unequal length it is another loss: the mean of
//! means is not the mean. [`dapo`](crate::loss::dapo) has no such fault.
//! Detached: as in `grpo`.

use crate::mask::{Normalise, normalise_scalar};
use crate::real::Real;

/// Divides by the micro-batch's own tokens.
pub fn bnpo_normaliser() -> Normalise {
    Normalise::TokenMean
}

/// A micro-batch's loss from those of its tokens.
///
/// ```
/// use rlhf_core::loss::bnpo::bnpo_scalar;
///
/// // 2 and 1 tokens: (1 + 2 + 6) / 3.
/// let loss: [&[f64]; 2] = [&[1.0, 2.0], &[6.0, 0.0]];
/// assert_eq!(bnpo_scalar(&loss, &[&[true, true], &[true, false]]), 3.0);
/// ```
///
/// # Panics
/// As [`normalise_scalar`].
pub fn bnpo_scalar<R: Real>(loss: &[&[R]], mask: &[&[bool]]) -> R {
    normalise_scalar(bnpo_normaliser(), loss, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_means_is_another_loss() {
        // Together 28 / 7 = 4; cut in two, the mean of 3/2 and 25/5 is 3.25.
        let rows: [&[f64]; 3] = [&[1.0, 2.0, 0.0], &[3.0, 4.0, 5.0], &[6.0, 7.0, 0.0]];
        let masks: [&[bool]; 3] = [&[true, true, false], &[true; 3], &[true, true, false]];
        assert!((bnpo_scalar(&rows, &masks) - 4.0).abs() < 1e-15);
        let cut = [bnpo_scalar(&rows[..1], &masks[..1]), bnpo_scalar(&rows[1..], &masks[1..])];
        assert!((0.5 * (cut[0] + cut[1]) - 3.25).abs() < 1e-15);
    }
}
