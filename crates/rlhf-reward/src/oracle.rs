//! Sources of preferences that [`PreferenceOracle`] asks of: any reward model by Bradley and Terry's
//! law, a rule, a table of pairs that were judged before.
//!
//! Each gives a probability of each pair, or an error that names the prompt and both answers; a number
//! that is none never becomes a preference.
//!
//! ```
//! use rlhf_core::contract::{Candidate, Comparison, PreferenceOracle};
//! use rlhf_reward::oracle::Rule;
//!
//! let answer = |completion| Candidate { prompt: "2 + 2 =", completion, prompt_ids: &[], completion_ids: &[] };
//! let mut shorter = Rule(|pair: &Comparison<'_>| {
//!     let [a, b] = [pair.a, pair.b].map(|c| c.completion.len() as f64);
//!     1.0 / (1.0 + (a - b).exp())
//! });
//! let found = shorter.prefer(&[Comparison { a: answer("4"), b: answer("22") }])?;
//! assert!((found[0].get() - 0.7310585786300049).abs() < 1e-15);
//! # Ok::<(), rlhf_reward::oracle::PairFault>(())
//! ```

mod recorded;

pub use recorded::{Judgement, Recorded};

use std::collections::HashMap;

use rlhf_core::contract::{Candidate, Comparison, PreferenceOracle, RewardModel};
use rlhf_core::host::stable::sigmoid;
use rlhf_core::number::{Positive, Prob};

/// A pair that has no preference: the question, and what was found instead of an answer to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "preference of {} over {} for the prompt {}: expected {expected}, found {found}",
    quoted(a),
    quoted(b),
    quoted(prompt)
)]
pub struct PairFault {
    /// What both answer.
    pub prompt: String,
    /// The first answer.
    pub a: String,
    /// The second answer.
    pub b: String,
    /// What a preference is.
    pub expected: &'static str,
    /// What was found.
    pub found: String,
}

impl PairFault {
    /// The fault of one comparison.
    pub fn new(pair: &Comparison<'_>, expected: &'static str, found: impl Into<String>) -> Self {
        let [prompt, a, b] = [pair.a.prompt, pair.a.completion, pair.b.completion].map(str::to_owned);
        Self { prompt, a, b, expected, found: found.into() }
    }
}

/// A text in quotation marks; of a long one the beginning.
fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

/// Each number as the preference of its pair.
///
/// # Errors
/// The first that is not in [0, 1], or is no number.
///
/// # Panics
/// If there are more or fewer numbers than pairs.
#[track_caller]
pub fn preferences(pairs: &[Comparison<'_>], found: &[f64]) -> Result<Vec<Prob>, PairFault> {
    assert!(pairs.len() == found.len(), "preferences: expected {}, found {}", pairs.len(), found.len());
    let one = |(pair, p): (&Comparison<'_>, &f64)| {
        Prob::new(*p).map_err(|_| PairFault::new(pair, "a number from 0 to 1", p.to_string()))
    };
    pairs.iter().zip(found).map(one).collect()
}

/// `σ` of each log-odds as the preference of its pair.
///
/// # Errors
/// The first that is NaN or infinite.
///
/// # Panics
/// If there are more or fewer log-odds than pairs.
#[track_caller]
pub fn from_log_odds(pairs: &[Comparison<'_>], log_odds: &[f64]) -> Result<Vec<Prob>, PairFault> {
    if let Some((pair, x)) = pairs.iter().zip(log_odds).find(|(_, x)| !x.is_finite()) {
        return Err(PairFault::new(pair, "finite log-odds", x.to_string()));
    }
    preferences(pairs, &log_odds.iter().map(|x| sigmoid(*x)).collect::<Vec<f64>>())
}

/// The distinct candidates of some comparisons, so that each is read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distinct<'a> {
    /// In the order in which they first appear.
    pub candidates: Vec<Candidate<'a>>,
    /// Where the two of each comparison stand among them.
    pub places: Vec<[usize; 2]>,
}

impl<'a> Distinct<'a> {
    /// Those of `pairs`: K answers compared with each other are K, not K².
    pub fn of(pairs: &[Comparison<'a>]) -> Self {
        let mut known = HashMap::new();
        let mut candidates: Vec<Candidate<'a>> = Vec::new();
        let mut place = |c: Candidate<'a>| {
            *known.entry((c.prompt, c.completion, c.prompt_ids, c.completion_ids)).or_insert_with(|| {
                candidates.push(c);
                candidates.len() - 1
            })
        };
        let places = pairs.iter().map(|pair| [place(pair.a), place(pair.b)]).collect();
        Self { candidates, places }
    }
}

/// Bradley and Terry's law over a reward model: `P(a ≻ b) = σ((r_a − r_b) / T)`. It has no cycles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BradleyTerry<R> {
    /// Where rewards come from.
    pub model: R,
    /// T, in units of the reward: 1 for a model that was trained on preferences.
    pub temperature: Positive,
}

/// What [`BradleyTerry`] can fail with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BradleyTerryError<E: std::error::Error + 'static> {
    /// The reward model.
    #[error(transparent)]
    Model(E),
    /// A reward that is NaN or infinite.
    #[error(transparent)]
    Pair(#[from] PairFault),
}

impl<R: RewardModel> BradleyTerry<R> {
    /// `(r_a − r_b) / T` of each pair, in order. Asks the model once, for each distinct candidate.
    ///
    /// # Errors
    /// Whatever the model answers; a reward that is NaN or infinite.
    ///
    /// # Panics
    /// If the model answers with another number of rewards than candidates.
    pub fn log_odds(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<f64>, BradleyTerryError<R::Error>> {
        let distinct = Distinct::of(pairs);
        let n = distinct.candidates.len();
        let rewards = self.model.score(&distinct.candidates).map_err(BradleyTerryError::Model)?;
        assert!(rewards.len() == n, "Bradley–Terry: expected {n} rewards, found {}", rewards.len());
        // Before the difference: ∞ − ∞ would blame the pair for what one reward is.
        for (pair, [a, b]) in pairs.iter().zip(&distinct.places) {
            if let Some(r) = [rewards[*a], rewards[*b]].into_iter().find(|r| !r.is_finite()) {
                return Err(PairFault::new(pair, "finite rewards", r.to_string()).into());
            }
        }
        let t = self.temperature.get();
        Ok(distinct.places.iter().map(|[a, b]| (rewards[*a] - rewards[*b]) / t).collect())
    }
}

impl<R: RewardModel> PreferenceOracle for BradleyTerry<R> {
    type Error = BradleyTerryError<R::Error>;

    fn prefer(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<Prob>, Self::Error> {
        let odds = self.log_odds(pairs)?;
        Ok(from_log_odds(pairs, &odds)?)
    }
}

/// A rule: any function of a comparison to `P(a ≻ b)`. That it says `1 − P` of the pair turned round is
/// the rule's own business: a rule that does not likes a place.
#[derive(Clone, Copy)]
pub struct Rule<F>(pub F);

impl<F> std::fmt::Debug for Rule<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").finish_non_exhaustive()
    }
}

impl<F: FnMut(&Comparison<'_>) -> f64> PreferenceOracle for Rule<F> {
    type Error = PairFault;

    fn prefer(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<Prob>, PairFault> {
        preferences(pairs, &pairs.iter().map(&mut self.0).collect::<Vec<f64>>())
    }
}

#[cfg(test)]
mod tests;
