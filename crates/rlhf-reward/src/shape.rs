//! What is added to a score before completions are compared.

use rlhf_core::number::Weight;

/// `s − λ ln(length)`, length in characters of the trimmed completion.
///
/// Source: the authors' code of SuperHF (Mukobi et al. 2023, arXiv:2310.16763); its comment says
/// `λ · length`, its code takes the logarithm.
///
/// ```
/// use rlhf_core::number::Weight;
/// let shaped = rlhf_reward::shape::length_penalty(0.0, 100, Weight::new(0.1).unwrap());
/// assert!((shaped - -0.46051702).abs() < 1e-8); // −0.1 ln 100
/// ```
///
/// # Panics
/// On a length of zero: empty completions are dropped before they are scored.
#[track_caller]
pub fn length_penalty(score: f64, characters: usize, lambda: Weight) -> f64 {
    assert!(characters > 0, "length_penalty: expected a completion, found an empty one");
    if lambda == Weight::ZERO { score } else { score - lambda.get() * (characters as f64).ln() }
}
