//! Tasks: everything that a pipeline learns from and is judged by, as text.
//!
//! Each task makes the same plain struct, [`TaskData`]. A text is `prompt + completion`, joined as
//! they are: prompts end without white space and completions begin with one space. The splits are
//! disjoint in prompts, and the two reward models' texts are disjoint too, so that what trains a
//! policy never judges it.

use rand::{Rng, RngExt};
use serde::Serialize;

pub mod answers;
pub mod arithmetic;
pub mod descriptions;
pub mod files;
pub mod ratings;
pub mod restaurants;
#[cfg(test)]
mod shared_tests;
mod verify;
pub mod word_problems;

pub use verify::{Part, Verdict, Verify};

/// How much of each kind a task gives, at most. From a file, 0 means all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Examples for supervised fine-tuning.
    pub n_sft: usize,
    /// Pairs for each of the two reward models.
    pub n_preferences: usize,
    /// Prompts that the policy trains on.
    pub n_prompts: usize,
    /// Prompts that it is evaluated on.
    pub n_eval_prompts: usize,
}

/// A prompt and what should follow it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Example {
    /// What is asked; may be empty.
    pub prompt: String,
    /// The answer to learn.
    pub completion: String,
}

/// Two answers to one prompt, in the order a rater gave them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Pair {
    /// What is asked; may be empty.
    pub prompt: String,
    /// The better answer.
    pub chosen: String,
    /// The worse one.
    pub rejected: String,
}

/// A text with its mean rating.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rated {
    /// The whole text.
    pub text: String,
    /// Mean of the ratings, on the task's scale.
    pub mean: f64,
    /// How many ratings the mean has.
    pub n_ratings: usize,
}

/// Where the truth about a completion comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gold {
    /// The exact rule of [`restaurants::GoldReward`].
    Restaurants,
    /// No rule is known: the judge, a reward model of other data and another kind, stands for it.
    Judge,
    /// The rule that also trains: [`TaskData::verify`].
    Verifier,
}

impl Gold {
    /// The exact rule, where there is one.
    pub fn rule(self) -> Option<restaurants::GoldReward> {
        match self {
            Self::Restaurants => Some(restaurants::GoldReward),
            Self::Judge | Self::Verifier => None,
        }
    }
}

/// All that a pipeline needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskData {
    /// The task's name, as in a config.
    pub name: String,
    /// Where the truth comes from.
    pub gold: Gold,
    /// Supervised fine-tuning.
    pub sft: Vec<Example>,
    /// Text of the same kind that no model trains on: perplexity.
    pub sft_heldout: Vec<Example>,
    /// Pairs for the reward model that trains the policy.
    pub train_preferences: Vec<Pair>,
    /// Pairs for the reward model that judges it: other prompts, other texts, other raters.
    pub judge_preferences: Vec<Pair>,
    /// Pairs that neither saw, in their true order or that of all raters: accuracy of both.
    pub heldout_preferences: Vec<Pair>,
    /// Rated texts for a regression in place of `train_preferences`; empty where there are none.
    pub train_rated: Vec<Rated>,
    /// The same for the judge.
    pub judge_rated: Vec<Rated>,
    /// Rated texts that neither saw: correlation of both with the mean of all raters.
    pub heldout_rated: Vec<Rated>,
    /// Prompts that the policy trains on.
    pub train_prompts: Vec<String>,
    /// Prompts that it is evaluated on; none is in `train_prompts`.
    pub eval_prompts: Vec<String>,
    /// Human answers to each of `eval_prompts`, for BLEU; empty where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eval_references: Vec<Vec<String>>,
    /// The rule that checks a completion, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// What was counted and left out, and what the gold reward is: for the report.
    pub notes: Vec<String>,
}

impl TaskData {
    /// A task without data, to be filled.
    fn new(name: &str, gold: Gold) -> Self {
        Self {
            name: name.to_owned(),
            gold,
            sft: Vec::new(),
            sft_heldout: Vec::new(),
            train_preferences: Vec::new(),
            judge_preferences: Vec::new(),
            heldout_preferences: Vec::new(),
            train_rated: Vec::new(),
            judge_rated: Vec::new(),
            heldout_rated: Vec::new(),
            train_prompts: Vec::new(),
            eval_prompts: Vec::new(),
            eval_references: Vec::new(),
            verify: None,
            notes: Vec::new(),
        }
    }

    /// Every text that a tokenizer may be trained on: what the policy may see before evaluation.
    /// Prompt and completion are joined.
    pub fn tokenizer_texts(&self) -> Vec<String> {
        let sft = self.sft.iter().map(|e| format!("{}{}", e.prompt, e.completion));
        sft.chain(self.train_prompts.iter().cloned()).collect()
    }
}

/// The first `n` of what there is; all of it for 0.
fn first<T>(n: usize, mut items: Vec<T>) -> Vec<T> {
    if n > 0 {
        items.truncate(n);
    }
    items
}

/// Fisher and Yates: each order is equally likely.
fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.random_range(0..=last));
    }
}
