//! DAPO: clip-higher, no KL, and every token of the optimiser step weighs the same.
//!
//! ```text
//! L = Σ_i Σ_t ℓ_it / N          ℓ_it of grpo with ε_high > ε_low and β = 0
//! ```
//!
//! Where: ℓ_it is the token loss of [`grpo`](crate::loss::grpo) under [`dapo_config`], N is
//! `step_tokens`, the completion tokens of the whole optimiser step.
//! Paper: Yu et al., *DAPO: An Open-Source LLM Reinforcement Learning System at Scale*,
//! arXiv:2503.14476, Eq. 8.
//! Departures: Eq. 8 counts the tokens of one prompt's group; N counts those of the step, as TRL's
//! `dapo` does, and then any cut into micro-batches gives the same gradient. Dynamic sampling and
//! overlong shaping belong to the caller ([`host::overlong`](crate::host::overlong)).
//! Detached: as in `grpo`.

use crate::error::NumError;
use crate::loss::grpo::GrpoConfig;
use crate::loss::kl_penalty::KlConfig;
use crate::loss::ppo_clip::PpoClipConfig;
use crate::mask::{Normalise, normalise_scalar};
use crate::number::{Bound, Positive, Weight};
use crate::real::Real;

/// Clip-higher without a KL. The paper's ε_low is 0.2, its ε_high 0.28 (section 4.1).
pub fn dapo_config(epsilon_low: Weight, epsilon_high: Weight) -> GrpoConfig {
    let clip = PpoClipConfig { epsilon_low, epsilon_high, delta: Bound::NONE };
    GrpoConfig { clip, beta: Weight::ZERO, kl: KlConfig::unbiased() }
}

/// Divides by the completion tokens of the whole optimiser step.
///
/// # Errors
/// A step without tokens.
pub fn dapo_normaliser(step_tokens: usize) -> Result<Normalise, NumError> {
    Ok(Normalise::SumOver(Positive::new(step_tokens as f64).map_err(|e| e.named("step_tokens"))?))
}

/// A micro-batch's share of the step's loss, from the losses of its tokens.
///
/// ```
/// use rlhf_core::loss::dapo::dapo_scalar;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // 2 and 3 tokens, together or one by one: (1 + 2) / 5 + (3 + 4 + 5) / 5 = 3.
/// let (a, b): (&[f64], &[f64]) = (&[1.0, 2.0, 0.0], &[3.0, 4.0, 5.0]);
/// let (m, n) = (&[true, true, false][..], &[true; 3][..]);
/// assert_eq!(dapo_scalar(5, &[a, b], &[m, n])?, 3.0);
/// assert_eq!(dapo_scalar(5, &[a], &[m])? + dapo_scalar(5, &[b], &[n])?, 3.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A step without tokens.
///
/// # Panics
/// As [`normalise_scalar`].
pub fn dapo_scalar<R: Real>(step_tokens: usize, loss: &[&[R]], mask: &[&[bool]]) -> Result<R, NumError> {
    Ok(normalise_scalar(dapo_normaliser(step_tokens)?, loss, mask))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::grpo::grpo_scalar;

    #[test]
    fn gains_stop_at_the_higher_bound() {
        let weight = |x| Weight::new(x).expect("a weight");
        let config = dapo_config(weight(0.2), weight(0.28));
        let loss = |ratio: f64, advantage| grpo_scalar(config, ratio.ln(), 0.0, f64::NAN, advantage);
        assert!((loss(2.0, 1.0) + 1.28).abs() < 1e-15 && (loss(0.5, -1.0) - 0.8).abs() < 1e-15);
    }

    #[test]
    fn a_step_without_tokens_is_refused() {
        assert!(dapo_normaliser(0).is_err());
    }
}
