//! Verifiers: rules that check a completion, without a model and without a learned number.
//!
//! Each is a [`RewardModel`] that reads text alone. What needs a known answer looks it up by the
//! prompt ([`Answers`]); a prompt without one is an error that names it, never a zero. Rewards are 1
//! for right and 0 for wrong; [`Weighted`] adds several up, a user's own among them.
//!
//! ```
//! use rlhf_core::contract::{Candidate, RewardModel};
//! use rlhf_reward::verify::{Answers, Extract, NumericAnswer, Tolerance};
//!
//! let answers = Answers::from([("6 times 12?".to_owned(), "72".to_owned())]);
//! let mut verifier = NumericAnswer::new(&answers, Extract::Any, Tolerance::Exact).expect("a number");
//! let item = |completion| Candidate { prompt: "6 times 12?", completion, prompt_ids: &[], completion_ids: &[] };
//! let scores = verifier.score(&[item("6 * 12 = 72\n#### 72"), item("I think \\boxed{71}.")]);
//! assert_eq!(scores, Ok(vec![1.0, 0.0]));
//! ```

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rlhf_core::contract::{Candidate, RewardModel};
use serde::{Deserialize, Serialize};

use crate::error::Error;

pub mod number;
#[cfg(test)]
mod tests;
mod weighted;

pub use number::{Extract, Number, Tolerance, extract};
pub use weighted::Weighted;

/// Prompt → its known answer.
pub type Answers = BTreeMap<String, String>;

/// The answer's number is the known one.
#[derive(Debug, Clone, PartialEq)]
pub struct NumericAnswer {
    answers: BTreeMap<String, Number>,
    extract: Extract,
    tolerance: Tolerance,
}

impl NumericAnswer {
    /// A verifier of `answers`, each of which is a number as people write it, or a whole solution
    /// that ends in one (GSM8K's `… #### 72`). `extract` says how a completion gives its answer.
    ///
    /// # Errors
    /// [`Error::Answer`] for a known answer without a number, [`Error::NotFinite`] for a negative or
    /// infinite relative tolerance.
    pub fn new(answers: &Answers, extract: Extract, tolerance: Tolerance) -> Result<Self, Error> {
        if let Tolerance::Relative(found) = tolerance
            && !(found.is_finite() && found >= 0.0)
        {
            return Err(Error::NotFinite { what: "relative tolerance", index: 0, found });
        }
        let number = |(prompt, answer): (&String, &String)| {
            let number = Number::parse(answer).or_else(|| number::extract(answer, Extract::Any));
            let what = "numeric answer";
            let fault = || Error::Answer { what, prompt: prompt.clone(), found: format!("{answer:?}") };
            Ok((prompt.clone(), number.ok_or_else(fault)?))
        };
        let answers = answers.iter().map(number).collect::<Result<_, Error>>()?;
        Ok(Self { answers, extract, tolerance })
    }
}

impl RewardModel for NumericAnswer {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let right = |item: &Candidate<'_>| {
            let answer = known(&self.answers, item.prompt, "numeric answer")?;
            let found = number::extract(item.completion, self.extract);
            Ok(mark(found.is_some_and(|found| answer.equals(&found, self.tolerance))))
        };
        items.iter().map(right).collect()
    }
}

/// What two texts may differ in and still be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// White space: its amount and kind, and what stands at the ends.
    Space,
    /// White space, case, punctuation and the articles *a*, *an*, *the*.
    ///
    /// Source: the official evaluation of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250).
    Words,
}

impl Normalise {
    /// The text without what may differ.
    ///
    /// ```
    /// use rlhf_reward::verify::Normalise;
    /// assert_eq!(Normalise::Words.apply(" The  Eiffel Tower."), "eiffel tower");
    /// assert_eq!(Normalise::Space.apply(" The  Eiffel Tower."), "The Eiffel Tower.");
    /// ```
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::Space => text.split_whitespace().collect::<Vec<&str>>().join(" "),
            Self::Words => {
                let text: String = text.to_lowercase().chars().filter(|c| !is_punctuation(*c)).collect();
                let words = text.split_whitespace().filter(|w| !["a", "an", "the"].contains(w));
                words.collect::<Vec<&str>>().join(" ")
            }
        }
    }
}

/// ASCII's and the dashes and quotation marks of print.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || ('\u{2010}'..='\u{201f}').contains(&c)
}

/// The completion is the known answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactMatch {
    answers: Answers,
    normalise: Normalise,
}

impl ExactMatch {
    /// A verifier of `answers`.
    pub fn new(answers: &Answers, normalise: Normalise) -> Self {
        let answers = answers.iter().map(|(prompt, text)| (prompt.clone(), normalise.apply(text))).collect();
        Self { answers, normalise }
    }
}

impl RewardModel for ExactMatch {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let right = |item: &Candidate<'_>| {
            let answer = known(&self.answers, item.prompt, "exact match")?;
            Ok(mark(self.normalise.apply(item.completion) == *answer))
        };
        items.iter().map(right).collect()
    }
}

/// The completion has a form, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A number can be extracted so.
    Answer(Extract),
    /// The trimmed completion is this pattern, in which `*` stands for any text, the empty one too.
    /// Between the stars are literals, and each occurs as often as the pattern has it: a completion
    /// with two answers is no `*<answer>*</answer>`. Without a star, the completion is the pattern.
    Pattern(String),
}

impl Format {
    /// Whether a completion has the form.
    ///
    /// ```
    /// use rlhf_reward::verify::Format;
    /// let form = Format::Pattern("<think>*</think>*<answer>*</answer>".to_owned());
    /// assert!(form.matches("<think>2 and 2</think>\n<answer>4</answer>\n"));
    /// assert!(!form.matches("<think>2 and 2</think> 4"));
    /// ```
    pub fn matches(&self, completion: &str) -> bool {
        match self {
            Self::Answer(extract) => number::extract(completion, *extract).is_some(),
            Self::Pattern(pattern) => glob(pattern, completion.trim()),
        }
    }
}

impl RewardModel for Format {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        Ok(items.iter().map(|item| mark(self.matches(item.completion))).collect())
    }
}

/// See [`Format::Pattern`]. The first literal is where the text begins, the last where it ends, and
/// the others follow each other: taking each at its first place misses no match.
fn glob(pattern: &str, text: &str) -> bool {
    let literals: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = literals.as_slice() else { return text == pattern };
    let Some(mut rest) = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    for literal in middle {
        match rest.split_once(literal) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    let as_often = |l: &&str| l.is_empty() || text.matches(*l).count() == pattern.matches(*l).count();
    literals.iter().all(as_often)
}

/// What a length is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// The policy's tokens.
    Tokens,
    /// Runs between white space.
    Words,
    /// Characters of the trimmed text.
    Characters,
}

/// The completion's length is within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LengthBounds {
    /// What is counted.
    pub unit: LengthUnit,
    /// From and to, both allowed. Nothing is within a range whose start is above its end.
    pub bounds: RangeInclusive<usize>,
}

impl RewardModel for LengthBounds {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let length = |item: &Candidate<'_>| match self.unit {
            LengthUnit::Tokens => item.completion_ids.len(),
            LengthUnit::Words => item.completion.split_whitespace().count(),
            LengthUnit::Characters => item.completion.trim().chars().count(),
        };
        Ok(items.iter().map(|item| mark(self.bounds.contains(&length(item)))).collect())
    }
}

/// The known answer of a prompt.
fn known<'a, T>(answers: &'a BTreeMap<String, T>, prompt: &str, what: &'static str) -> Result<&'a T, Error> {
    answers.get(prompt).ok_or_else(|| Error::NoAnswer { what, prompt: prompt.to_owned() })
}

fn mark(right: bool) -> f64 {
    if right { 1.0 } else { 0.0 }
}
