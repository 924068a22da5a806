//! What is added to a score, or scales it, before completions are compared: lengths and repetition.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use rlhf_core::number::{Positive, Weight};

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

/// `−p (1 − unique / total)` over the `n`-grams of the tokens, 0 for fewer than `n` tokens.
///
/// Source: Yeo et al., *Demystifying Long Chain-of-Thought Reasoning in LLMs*, arXiv:2502.03373,
/// Appendix C.2; TRL's `get_repetition_penalty_reward` with `max_penalty` = −p.
///
/// ```
/// use std::num::NonZeroUsize;
/// use rlhf_core::number::Weight;
/// use rlhf_reward::shape::repetition_penalty;
///
/// // Four pairs, all (5, 5): 1 − ¼.
/// let n = NonZeroUsize::new(2).unwrap();
/// assert_eq!(repetition_penalty(&[5; 5], n, Weight::new(1.0).unwrap()), -0.75);
/// ```
pub fn repetition_penalty(tokens: &[u32], n: NonZeroUsize, p: Weight) -> f64 {
    let total = (tokens.len() + 1).saturating_sub(n.get());
    if total == 0 {
        return 0.0;
    }
    let unique = tokens.windows(n.get()).collect::<HashSet<_>>().len();
    -p.get() * (1.0 - unique as f64 / total as f64)
}

/// Rewards of an answer at the shortest and at the longest length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ends {
    /// At no tokens.
    pub short: f64,
    /// At `max_length` tokens and above.
    pub long: f64,
}

impl Ends {
    /// A right answer, better if short: 1 to 0.5 (TRL's defaults).
    pub const CORRECT: Self = Self { short: 1.0, long: 0.5 };
    /// A wrong answer, less bad if long: −1 to −0.5 (TRL's defaults).
    pub const WRONG: Self = Self { short: -1.0, long: -0.5 };
}

/// `long + ½ (short − long) (1 + cos(π · min(length / max_length, 1)))`.
///
/// Source: Yeo et al., *Demystifying Long Chain-of-Thought Reasoning in LLMs*, arXiv:2502.03373,
/// Appendix C.1; TRL's `get_cosine_scaled_reward`.
///
/// ```
/// use rlhf_core::number::Positive;
/// use rlhf_reward::shape::{Ends, cosine_scaled};
///
/// // Half way: the mean of both ends.
/// let reward = cosine_scaled(50, Positive::new(100.0).unwrap(), Ends::CORRECT);
/// assert!((reward - 0.75).abs() < 1e-15);
/// ```
pub fn cosine_scaled(length: usize, max_length: Positive, ends: Ends) -> f64 {
    let share = (length as f64 / max_length.get()).min(1.0);
    ends.long + 0.5 * (ends.short - ends.long) * (1.0 + (std::f64::consts::PI * share).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_counts_windows() {
        let of = |tokens: &[u32], n: usize| {
            repetition_penalty(
                tokens,
                NonZeroUsize::new(n).expect("not zero"),
                Weight::new(1.0).expect("a weight"),
            )
        };
        // (1 2)(2 1)(1 2)(2 1)(1 2): two kinds of five. (1 2)(2 3)(3 1)(1 2)(2 3): three of five.
        assert!((of(&[1, 2, 1, 2, 1, 2], 2) + 0.6).abs() < 1e-15);
        assert!((of(&[1, 2, 3, 1, 2, 3], 2) + 0.4).abs() < 1e-15);
        assert!(of(&[1, 2], 3).abs() <= 0.0 && of(&[], 1).abs() <= 0.0 && of(&[1, 2, 3], 3).abs() <= 0.0);
    }

    #[test]
    fn the_cosine_meets_both_ends_and_stays_there() {
        let at = |n: usize, ends| cosine_scaled(n, Positive::new(100.0).expect("positive"), ends);
        assert!((at(0, Ends::CORRECT) - 1.0).abs() < 1e-15 && (at(0, Ends::WRONG) + 1.0).abs() < 1e-15);
        assert!((at(100, Ends::WRONG) + 0.5).abs() < 1e-15 && (at(999, Ends::CORRECT) - 0.5).abs() < 1e-15);
    }
}
