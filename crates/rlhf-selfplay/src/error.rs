//! What can be wrong with a step of self-play.

use rlhf_core::host::pairwise::PairwiseError;

use crate::method::Anchor;

/// Errors of [`judged`](crate::judged), [`method`](crate::method) and [`gradients`](crate::gradients).
/// Prompts, answers and tokens count from 0.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// What an oracle said of two answers is no probability.
    #[error("prompt {prompt}, answers {first} and {second}: preference: expected {expected}, found {found}")]
    Preference {
        /// The prompt's own number.
        prompt: usize,
        /// The answer that is, or is not, preferred.
        first: usize,
        /// The other one; of an opponent's answers where there are such.
        second: usize,
        /// The range, in words.
        expected: &'static str,
        /// What was said.
        found: f64,
    },
    /// Too few answers, or a number of preferences that is not theirs.
    #[error("prompt {prompt}: {what}: expected {expected}, found {found}")]
    Answers {
        /// The prompt's own number.
        prompt: usize,
        /// What was counted.
        what: &'static str,
        /// How many there should be, in words.
        expected: String,
        /// How many there are.
        found: usize,
    },
    /// A table of preferences that contradicts itself.
    #[error("prompt {prompt}: {source}")]
    Table {
        /// The prompt's own number.
        prompt: usize,
        /// What is wrong with it.
        source: PairwiseError,
    },
    /// Examples that a method has no loss for.
    #[error("{method}: expected {expected}, found {found}")]
    Rows {
        /// The method's name.
        method: &'static str,
        /// What it learns from.
        expected: &'static str,
        /// What it was given.
        found: String,
    },
    /// An example that a frozen model has not been asked about.
    #[error("{method}: prompt {prompt}: expected log-probabilities of the {anchor} model, found none")]
    NotReferred {
        /// The method's name.
        method: &'static str,
        /// The prompt's own number.
        prompt: usize,
        /// The model.
        anchor: Anchor,
    },
    /// A token that a frozen model holds for impossible, or has no number for.
    #[error(
        "prompt {prompt}, answer {answer}, token {token}: log-probability under the {anchor} model: \
         expected a finite number, found {found}"
    )]
    Logp {
        /// The model.
        anchor: Anchor,
        /// The prompt's own number.
        prompt: usize,
        /// Which of the example's answers: 0 the chosen or only one, 1 the rejected one.
        answer: usize,
        /// Which of its scored tokens.
        token: usize,
        /// −∞ or NaN.
        found: f64,
    },
}
