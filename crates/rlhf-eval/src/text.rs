//! Figures of generated text: length, variety, repetition, and how much completions resemble each other.
//!
//! Words are what white space separates, as they stand: `The` and `the,` are two words. Only
//! [METEOR](crate::meteor) lowers the case.

use std::collections::HashSet;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::meteor::Vocabulary;
use crate::stats::{Tally, mean, sample_sd};

/// Mean and spread of one figure over several texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation; 0 for a single value.
    pub sd: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// How many values.
    pub n: usize,
}

/// Lengths of several texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lengths {
    /// Words, separated by white space.
    pub words: Spread,
    /// Characters (Unicode scalar values), white space included.
    pub characters: Spread,
}

/// A completion and the prompt that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion<'a> {
    /// The prompt; completions of equal prompts are never compared with each other.
    pub prompt: &'a str,
    /// The completion's text.
    pub text: &'a str,
}

/// Which pairs of completions [`self_similarity`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// Random unordered pairs, each scored in both directions and averaged: SuperHF's evaluation.
    Unordered(usize),
    /// Random ordered pairs, each scored in its one direction.
    Ordered(usize),
}

/// Mean, deviation and range of at least one value.
///
/// # Errors
/// No value, or one that is not finite.
pub fn spread(values: &[f64]) -> Result<Spread, EvalError> {
    Ok(Spread {
        mean: mean(values)?,
        sd: if values.len() > 1 { sample_sd(values)? } else { 0.0 },
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        n: values.len(),
    })
}

/// Words and characters of at least one text.
///
/// # Errors
/// No text.
pub fn lengths<S: AsRef<str>>(texts: &[S]) -> Result<Lengths, EvalError> {
    let words: Vec<f64> = texts.iter().map(|text| text.as_ref().split_whitespace().count() as f64).collect();
    let characters: Vec<f64> = texts.iter().map(|text| text.as_ref().chars().count() as f64).collect();
    Ok(Lengths { words: spread(&words)?, characters: spread(&characters)? })
}

/// Distinct-n: different runs of `n` words (`hits`) out of all of them (`total`), pooled over the texts. A run
/// never crosses from one text into the next. The share falls as text is added, so compare equal amounts only.
///
/// Paper: Li et al., *A Diversity-Promoting Objective Function for Neural Conversation Models*,
/// arXiv:1510.03055, section 5.2.
/// Departures: the paper divides by the words, this by the runs, so that the share can reach 1 for any n.
///
/// ```
/// use rlhf_eval::text::distinct_n;
/// let found = distinct_n(&["a b a b", "a b c"], 2)?; // ab ba ab · ab bc: 3 different of 5
/// assert_eq!((found.hits, found.total), (3, 5));
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// `n` is 0, or no text has `n` words.
pub fn distinct_n<S: AsRef<str>>(texts: &[S], n: usize) -> Result<Tally, EvalError> {
    check_n(n)?;
    let texts: Vec<Vec<&str>> = texts.iter().map(|text| text.as_ref().split_whitespace().collect()).collect();
    let mut seen = HashSet::new();
    let mut total = 0;
    for run in texts.iter().flat_map(|words| words.windows(n)) {
        seen.insert(run);
        total += 1;
    }
    if total == 0 {
        return Err(EvalError::TooFew { what: "distinct-n, runs of n words", expected: 1, found: 0 });
    }
    Ok(Tally { hits: seen.len() as u64, total })
}

/// Repetition within each text: runs of `n` words that occurred earlier in the same text (`hits`) out of all runs
/// (`total`), pooled. Unlike [`distinct_n`] it does not depend on how many texts there are.
///
/// # Errors
/// `n` is 0, or no text has `n` words.
pub fn repetition<S: AsRef<str>>(texts: &[S], n: usize) -> Result<Tally, EvalError> {
    check_n(n)?;
    let mut tally = Tally { hits: 0, total: 0 };
    for text in texts {
        let words: Vec<&str> = text.as_ref().split_whitespace().collect();
        let mut seen = HashSet::new();
        for run in words.windows(n) {
            tally.hits += u64::from(!seen.insert(run));
            tally.total += 1;
        }
    }
    if tally.total == 0 {
        return Err(EvalError::TooFew { what: "repetition, runs of n words", expected: 1, found: 0 });
    }
    Ok(tally)
}

/// METEOR between completions of different prompts, over pairs drawn at random without repetition; all pairs if
/// there are no more than asked for. It rises as a policy collapses to a template.
///
/// The result depends on the order of `completions` and on `rng` only.
///
/// # Errors
/// No pair asked for, or no two completions of different prompts.
pub fn self_similarity(
    completions: &[Completion<'_>],
    pairs: Pairs,
    rng: &mut impl Rng,
) -> Result<Spread, EvalError> {
    let (Pairs::Unordered(asked) | Pairs::Ordered(asked)) = pairs;
    if asked == 0 {
        return Err(EvalError::TooFew { what: "pairs of completions to draw", expected: 1, found: 0 });
    }
    let prepared = Prepared::new(completions);
    let scores: Vec<f64> = draw(&prepared, pairs, asked, rng)
        .into_iter()
        .map(|(i, j)| match pairs {
            Pairs::Unordered(_) => prepared.both_ways(i, j),
            Pairs::Ordered(_) => prepared.one_way(i, j),
        })
        .collect();
    similarity_spread(&scores)
}

/// METEOR over all pairs of completions of different prompts, each in both directions and averaged: SuperHF's
/// figure during training. Its mean is the mean over all ordered pairs. The work grows with the square of the
/// number of completions.
///
/// # Errors
/// No two completions of different prompts.
pub fn self_similarity_all(completions: &[Completion<'_>]) -> Result<Spread, EvalError> {
    let prepared = Prepared::new(completions);
    let scores: Vec<f64> = prepared.pairs().map(|(i, j)| prepared.both_ways(i, j)).collect();
    similarity_spread(&scores)
}

/// Completions as numbers, encoded once for all pairs.
struct Prepared<'a> {
    words: Vocabulary,
    prompts: Vec<&'a str>,
    texts: Vec<Vec<u32>>,
}

impl<'a> Prepared<'a> {
    fn new(completions: &[Completion<'a>]) -> Self {
        let mut words = Vocabulary::default();
        let texts = completions.iter().map(|completion| words.encode(completion.text)).collect();
        let prompts = completions.iter().map(|completion| completion.prompt).collect();
        Self { words, prompts, texts }
    }

    /// Unordered pairs of different prompts, in order.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let n = self.prompts.len();
        (0..n)
            .flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
            .filter(|&(i, j)| self.prompts[i] != self.prompts[j])
    }

    /// How many [`Prepared::pairs`] there are: all pairs less those within a prompt.
    fn n_pairs(&self) -> usize {
        let mut sorted = self.prompts.clone();
        sorted.sort_unstable();
        let pairs = |n: usize| n * n.saturating_sub(1) / 2;
        let within: usize = sorted.chunk_by(|a, b| a == b).map(|same| pairs(same.len())).sum();
        pairs(sorted.len()) - within
    }

    fn one_way(&self, reference: usize, hypothesis: usize) -> f64 {
        self.words.meteor(&self.texts[reference], &self.texts[hypothesis])
    }

    fn both_ways(&self, i: usize, j: usize) -> f64 {
        self.words.meteor_symmetric(&self.texts[i], &self.texts[j])
    }
}

/// Draws `asked` different pairs, or all of them in random order where there are no more.
fn draw(prepared: &Prepared<'_>, pairs: Pairs, asked: usize, rng: &mut impl Rng) -> Vec<(usize, usize)> {
    let n = prepared.prompts.len();
    let ordered = matches!(pairs, Pairs::Ordered(_));
    let there = prepared.n_pairs().saturating_mul(if ordered { 2 } else { 1 });
    // Drawing and discarding is quick while most draws are new; beyond that the pairs are listed and shuffled.
    if asked.saturating_mul(2) <= there {
        let mut seen = HashSet::new();
        let mut drawn = Vec::with_capacity(asked);
        while drawn.len() < asked {
            let (i, j) = (rng.random_range(0..n), rng.random_range(0..n));
            let pair = if ordered { (i, j) } else { (i.min(j), i.max(j)) };
            if prepared.prompts[i] != prepared.prompts[j] && seen.insert(pair) {
                drawn.push(pair);
            }
        }
        return drawn;
    }
    let mut all: Vec<(usize, usize)> = prepared.pairs().collect();
    if ordered {
        all.extend(prepared.pairs().map(|(i, j)| (j, i)));
    }
    for k in 0..asked.min(all.len()) {
        let other = rng.random_range(k..all.len());
        all.swap(k, other);
    }
    all.truncate(asked);
    all
}

fn similarity_spread(scores: &[f64]) -> Result<Spread, EvalError> {
    if scores.is_empty() {
        let what = "self-similarity, pairs of completions to different prompts";
        return Err(EvalError::TooFew { what, expected: 1, found: 0 });
    }
    spread(scores)
}

fn check_n(n: usize) -> Result<(), EvalError> {
    if n == 0 {
        return Err(EvalError::Range { what: "n of the runs of words", expected: "at least 1", found: 0.0 });
    }
    Ok(())
}
