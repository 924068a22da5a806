//! What the rule of a verifiable task says of a completion.

use rlhf_core::contract::{Candidate, RewardModel};
use serde::Serialize;

use crate::error::Error;
use crate::task::{answers, arithmetic, descriptions, word_problems};

/// One thing that a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Part {
    /// Its name, as in a log.
    pub name: &'static str,
    /// How far it holds, from 0 to 1.
    pub value: f64,
}

/// What a rule says of one completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What training sees.
    pub reward: f64,
    /// Whether nothing is wrong with the completion.
    pub correct: bool,
    /// What the reward is made of: the same names in the same order for every completion of a task.
    pub parts: Vec<Part>,
}

/// The rule of a task whose answers can be checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// A number at the end of a solution.
    Answers(answers::Checker),
    /// The result of a sum or difference.
    Arithmetic(arithmetic::Checker),
    /// What a description tells of a restaurant.
    Descriptions(descriptions::Checker),
    /// The number that an equation gives.
    WordProblems(word_problems::Checker),
}

impl Verify {
    /// Checks a completion.
    ///
    /// # Errors
    /// [`Error::Failed`] that names a prompt which is none of the task's.
    pub fn verdict(&self, prompt: &str, completion: &str) -> Result<Verdict, Error> {
        match self {
            Self::Answers(checker) => checker.verdict(prompt, completion),
            Self::Arithmetic(checker) => checker.verdict(prompt, completion),
            Self::Descriptions(checker) => checker.verdict(prompt, completion),
            Self::WordProblems(checker) => checker.verdict(prompt, completion),
        }
    }

    /// The reward of a completion with nothing wrong.
    pub fn max_reward(&self) -> f64 {
        match self {
            Self::Answers(_) | Self::Arithmetic(_) | Self::WordProblems(_) => 1.0,
            Self::Descriptions(_) => 1.0 + descriptions::PERFECT,
        }
    }
}

impl RewardModel for Verify {
    type Error = Error;

    fn score(&mut self, items: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        items.iter().map(|item| Ok(self.verdict(item.prompt, item.completion)?.reward)).collect()
    }
}

impl Verdict {
    /// Right or wrong, and whether the completion has the form of an answer.
    pub(super) fn of_answer(answered: bool, correct: bool) -> Self {
        let one = |holds| if holds { 1.0 } else { 0.0 };
        let parts = vec![
            Part { name: "answered", value: one(answered) },
            Part { name: "right", value: one(correct) },
        ];
        Self { reward: one(correct), correct, parts }
    }
}

/// A prompt that the rule cannot read or has no answer to.
pub(super) fn no_key(task: &str, expected: &str, prompt: &str) -> Error {
    Error::Failed(format!("task {task}: prompt: expected {expected}, found {prompt:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_verdicts_rewards_and_a_strange_prompt_is_named() {
        let mut verify = Verify::Arithmetic(arithmetic::Checker);
        let item =
            |prompt, completion| Candidate { prompt, completion, prompt_ids: &[], completion_ids: &[] };
        let items = [item("3 8 + 4 5 =", " 8 3"), item("3 8 + 4 5 =", " 7 3")];
        assert_eq!(verify.score(&items).expect("its prompts"), [1.0, 0.0]);
        let error = verify.score(&[items[0], item("hello", "")]).expect_err("no problem").to_string();
        assert_eq!(
            error,
            r#"task arithmetic: prompt: expected a problem such as `3 8 + 4 5 =`, found "hello""#
        );
    }
}
