//! Dr. GRPO: one constant for all lengths, so that long wrong answers are not spared.
//!
//! ```text
//! L = Σ_i Σ_t ℓ_it / (B · T_max)          ℓ_it of grpo with β = 0
//! ```
//!
//! Where: ℓ_it is the token loss of [`grpo`](crate::loss::grpo) under [`dr_grpo_config`], B is
//! `step_sequences`, the completions of the whole optimiser step, T_max is
//! `max_completion_length`, the longest that a completion may become.
//! Paper: Liu et al., *Understanding R1-Zero-Like Training: A Critical Perspective*,
//! arXiv:2503.20783, section 3.2.
//! Departures: none. Its other half, an advantage that is centred and not divided by the group's
//! spread, belongs to the caller ([`host::advantage`](crate::host::advantage)).
//! Detached: as in `grpo`.

use crate::error::NumError;
use crate::loss::grpo::GrpoConfig;
use crate::mask::{Normalise, normalise_scalar};
use crate::number::{Positive, Weight};
use crate::real::Real;

/// The clip without a KL.
pub fn dr_grpo_config(epsilon: Weight) -> GrpoConfig {
    GrpoConfig::new(epsilon, Weight::ZERO)
}

/// Divides by the completions of the whole optimiser step times the longest allowed one.
///
/// # Errors
/// A count of zero.
pub fn dr_grpo_normaliser(
    step_sequences: usize,
    max_completion_length: usize,
) -> Result<Normalise, NumError> {
    let count = |n: usize, what| Positive::new(n as f64).map_err(|e| e.named(what));
    let sequences = count(step_sequences, "step_sequences")?;
    let longest = count(max_completion_length, "max_completion_length")?;
    Ok(Normalise::SumOver(Positive::new(sequences.get() * longest.get())?))
}

/// A micro-batch's share of the step's loss, from the losses of its tokens. `counts` are the
/// completions of the step and the longest allowed one.
///
/// ```
/// use rlhf_core::loss::dr_grpo::dr_grpo_scalar;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // 2 and 1 tokens of up to 4: (1 + 2 + 5) / (2 · 4).
/// let loss: [&[f64]; 2] = [&[1.0, 2.0], &[5.0, 0.0]];
/// let mask: [&[bool]; 2] = [&[true, true], &[true, false]];
/// assert_eq!(dr_grpo_scalar([2, 4], &loss, &mask)?, 1.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A count of zero.
///
/// # Panics
/// As [`normalise_scalar`].
pub fn dr_grpo_scalar<R: Real>(counts: [usize; 2], loss: &[&[R]], mask: &[&[bool]]) -> Result<R, NumError> {
    Ok(normalise_scalar(dr_grpo_normaliser(counts[0], counts[1])?, loss, mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_weighs_the_same_in_short_and_long_completions() {
        let mask: [&[bool]; 2] = [&[true; 3], &[true, false, false]];
        let of = |loss: [&[f64]; 2]| dr_grpo_scalar([2, 3], &loss, &mask).expect("counts");
        let (long, short) = (of([&[6.0, 0.0, 0.0], &[0.0; 3]]), of([&[0.0; 3], &[6.0, 0.0, 0.0]]));
        assert!((long - 1.0).abs() < 1e-15 && (short - 1.0).abs() < 1e-15);
        assert!(dr_grpo_normaliser(0, 3).is_err() && dr_grpo_normaliser(2, 0).is_err());
    }

    #[test]
    fn there_is_no_kl() {
        let config = dr_grpo_config(Weight::new(0.2).expect("a weight"));
        assert!(config.beta.get().abs() <= 0.0);
    }
}
