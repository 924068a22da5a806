//! The contracts: object-safe, batch in and batch out, one required method each.

use std::error::Error;

#[cfg(feature = "burn")]
use burn::tensor::{Int, Tensor};

use crate::number::Prob;

/// A language model as a function of tokens.
#[cfg(feature = "burn")]
pub trait PolicyModel {
    /// `tokens: [B, T] -> logits: [B, T, V]`; position `t` sees tokens `0..=t` only.
    fn logits(&self, tokens: Tensor<2, Int>) -> Tensor<3>;
}

/// A prompt and one completion of it, as text and as the policy's tokens. A rule reads the text, a
/// model that shares the policy's vocabulary reads the tokens, one that does not encodes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// What was asked.
    pub prompt: &'a str,
    /// What was answered.
    pub completion: &'a str,
    /// `prompt` in the policy's vocabulary.
    pub prompt_ids: &'a [u32],
    /// `completion` in the policy's vocabulary.
    pub completion_ids: &'a [u32],
}

/// Scores completions; higher is better.
pub trait RewardModel {
    /// What can go wrong while scoring.
    type Error: Error + Send + Sync + 'static;

    /// One score for each candidate, in order; no gradient flows.
    ///
    /// # Errors
    /// Whatever the model or the service behind it answers.
    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Self::Error>;
}

/// Two completions of one prompt, each as a [`Candidate`]: `a.prompt` is `b.prompt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison<'a> {
    /// The first answer.
    pub a: Candidate<'a>,
    /// The second answer.
    pub b: Candidate<'a>,
}

/// Says how likely one completion is preferred to another.
pub trait PreferenceOracle {
    /// What can go wrong while judging.
    type Error: Error + Send + Sync + 'static;

    /// `P(a ≻ b)` for each pair, in order.
    ///
    /// # Errors
    /// Whatever the judge answers.
    fn prefer(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<Prob>, Self::Error>;
}
