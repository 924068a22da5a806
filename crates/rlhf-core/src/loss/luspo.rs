//! LUSPO: a sequence's loss counts as often as the sequence has tokens.
//!
//! ```text
//! L = Σ_i |y_i| ℓ_i / B = Σ_i Σ_t ℓ_i / B          ℓ_i of gspo
//! ```
//!
//! Where: ℓ_i is the sequence loss of [`gspo`](crate::loss::gspo), the same for each of its |y_i|
//! tokens, B is `step_sequences`, the completions of the whole optimiser step.
//! Paper: Liu et al., *Length-Unbiased Sequence Policy Optimization: Revealing and Controlling
//! Response Length Variation in RLVR*, arXiv:2602.05261, in words.
//! Departures: none. TRL's `luspo` takes token ratios unless it is told to take the sequence's: that
//! is this normaliser on the token losses of [`grpo`](crate::loss::grpo).
//! Detached: as in `gspo`.

use crate::error::NumError;
use crate::mask::{Normalise, normalise_scalar};
use crate::number::Positive;
use crate::real::Real;

/// Divides the sum over tokens by the completions of the whole optimiser step.
///
/// # Errors
/// A step without completions.
pub fn luspo_normaliser(step_sequences: usize) -> Result<Normalise, NumError> {
    Ok(Normalise::SumOver(Positive::new(step_sequences as f64).map_err(|e| e.named("step_sequences"))?))
}

/// A micro-batch's share of the step's loss, from the losses of its tokens.
///
/// ```
/// use rlhf_core::loss::luspo::luspo_scalar;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Losses 2 and 3 of sequences with 2 and 1 tokens: (2 · 2 + 1 · 3) / 2.
/// let loss: [&[f64]; 2] = [&[2.0, 2.0], &[3.0, 3.0]];
/// assert_eq!(luspo_scalar(2, &loss, &[&[true, true], &[true, false]])?, 3.5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A step without completions.
///
/// # Panics
/// As [`normalise_scalar`].
pub fn luspo_scalar<R: Real>(step_sequences: usize, loss: &[&[R]], mask: &[&[bool]]) -> Result<R, NumError> {
    Ok(normalise_scalar(luspo_normaliser(step_sequences)?, loss, mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_means_would_forget_the_length() {
        let loss: [&[f64]; 2] = [&[1.0; 3], &[1.0; 3]];
        let mask: [&[bool]; 2] = [&[true; 3], &[true, false, false]];
        let found = luspo_scalar(2, &loss, &mask).expect("two sequences");
        assert!((found - 2.0).abs() < 1e-15);
        assert!((normalise_scalar(Normalise::SequenceMean, &loss, &mask) - 1.0).abs() < 1e-15);
        assert!(luspo_normaliser(0).is_err());
    }
}
