//! Questions with numbers for answers, from the user's own file: what a verifiable reward is mostly used for.
//!
//! A record has a `question` and an `answer`, as GSM8K's have: a worked solution with `#### 72` at its end. Any
//! form that [`rlhf_reward::verify::extract`] finds will do, a bare number too. The rule takes the number of a
//! policy's completion in the same way, marked before boxed before last, and asks for the stated one: a whole
//! number exactly, another to half a unit of its last place.
//!
//! Of the distinct prompts some evaluate, some come with their solutions (fine-tuning), and of the rest the
//! answers alone are used.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rlhf_core::rng::stream;
use rlhf_reward::verify::{Extract, Number, Tolerance, extract};
use serde::Serialize;

use crate::data::{self, Misfit, OnBadRecord};
use crate::error::Error;
use crate::task::verify::{Verdict, Verify, no_key};
use crate::task::{Example, Gold, Sizes, TaskData, first, shuffle};

/// The rule: the stated answers by prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checker {
    answers: BTreeMap<String, Number>,
}

impl Checker {
    fn new<'a>(examples: impl Iterator<Item = &'a Example>) -> Self {
        // Each record was read only if it has a number.
        let number = |e: &Example| Some((e.prompt.clone(), extract(&e.completion, Extract::Any)?));
        Self { answers: examples.filter_map(number).collect() }
    }

    /// See [`Verify::verdict`]. Parts: `answered` (the number is marked or boxed), `right`.
    pub(super) fn verdict(&self, prompt: &str, completion: &str) -> Result<Verdict, Error> {
        let answer = self
            .answers
            .get(prompt)
            .ok_or_else(|| no_key("answers", "a prompt with a known answer", prompt))?;
        let formal = [Extract::Marked, Extract::Boxed].iter().any(|how| extract(completion, *how).is_some());
        let found = extract(completion, Extract::Any);
        Ok(Verdict::of_answer(formal, found.is_some_and(|found| answer.equals(&found, Tolerance::Stated))))
    }
}

/// The task of a file.
///
/// # Errors
/// Those of the reader, an answer without a number among them; [`Error::Config`] for sizes of 0
/// and for fewer prompts than the sizes leave one of.
pub fn load(seed: u64, sizes: &Sizes, path: &Path, on_bad: OnBadRecord) -> Result<TaskData, Error> {
    let mut task = TaskData::new("answers", Gold::Verifier);
    let mut all = distinct(path, on_bad, &mut task.notes)?;
    let (n_eval, n_sft) = (sizes.n_eval_prompts, sizes.n_sft);
    if n_eval == 0 || n_sft == 0 || all.len() <= n_eval + n_sft {
        let expected = "at least 1 each of task.n_eval_prompts and task.n_sft, and fewer than there are prompts together";
        let found = format!("{n_eval} + {n_sft} of {}", all.len());
        return Err(Error::config("task answers", "task.n_sft", expected, found));
    }
    shuffle(&mut all, &mut stream(seed, "answers/split", 0, 0));
    let rest = first(sizes.n_prompts, all.split_off(n_eval + n_sft));
    task.verify = Some(Verify::Answers(Checker::new(all.iter().chain(&rest))));
    task.sft = all.split_off(n_eval);
    task.eval_prompts = all.iter().map(|e| e.prompt.clone()).collect();
    task.sft_heldout = all;
    task.train_prompts = rest.into_iter().map(|e| e.prompt).collect();
    task.notes.push(format!(
        "{n_sft} prompts with their solutions, {} of which the answers alone are used, {n_eval} to evaluate",
        task.train_prompts.len()
    ));
    Ok(task)
}

/// The records of a file, each prompt once.
fn distinct(path: &Path, on_bad: OnBadRecord, notes: &mut Vec<String>) -> Result<Vec<Example>, Error> {
    let loaded = data::table(path, &["question", "answer"], example)?.load(on_bad)?;
    let (n, mut seen) = (loaded.records.len(), HashSet::new());
    let all: Vec<Example> = loaded.records.into_iter().filter(|e| seen.insert(e.prompt.clone())).collect();
    notes.push(format!(
        "{}: {n} records, {} bad ones passed over, {} equal prompts left out",
        path.display(),
        loaded.skipped,
        n - all.len()
    ));
    Ok(all)
}

fn example(cells: &[&str]) -> Result<Example, Misfit> {
    let misfit = |column: usize, expected: &str| {
        Err(Misfit { column, expected: expected.to_owned(), found: format!("{:?}", cells[column]) })
    };
    let (prompt, completion) = (cells[0].trim(), cells[1].trim());
    if prompt.is_empty() {
        return misfit(0, "a question that is not blank");
    }
    if extract(completion, Extract::Any).is_none() {
        return misfit(1, "a text with a number, the answer");
    }
    Ok(Example { prompt: prompt.to_owned(), completion: format!(" {completion}") })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SIZES: Sizes = Sizes { n_sft: 4, n_preferences: 1, n_prompts: 3, n_eval_prompts: 2 };

    fn load_from(text: &str, on_bad: OnBadRecord) -> Result<TaskData, Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("questions.jsonl");
        fs::write(&path, text).expect("writable");
        load(5, &SIZES, &path, on_bad)
    }

    /// Twelve questions, "i and i?", two of them twice.
    fn lines() -> String {
        let line = |i: usize| {
            let i = i % 12;
            format!("{{\"question\":\"{i} and {i}? \",\"answer\":\"So\\n#### {}\"}}\n", 2 * i)
        };
        (0..14).map(line).collect()
    }

    #[test]
    fn splits_are_disjoint_and_answers_are_checked_as_numbers() {
        let task = load_from(&lines(), OnBadRecord::Fail).expect("good records");
        assert_eq!((task.sft.len(), task.train_prompts.len(), task.eval_prompts.len()), (4, 3, 2));
        let labelled = task.sft.iter().map(|e| &e.prompt);
        let all: Vec<&String> = labelled.chain(&task.train_prompts).chain(&task.eval_prompts).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 9);
        assert!(task.notes[0].ends_with("14 records, 0 bad ones passed over, 2 equal prompts left out"));
        let verify = task.verify.as_ref().expect("a rule");
        for prompt in all {
            let n: u32 = prompt.split(' ').next().and_then(|w| w.parse().ok()).expect("a number");
            let verdict = |text: String| {
                let v = verify.verdict(prompt, &text).expect("a key");
                (v.reward, v.parts[0].value)
            };
            assert_eq!(verdict(format!(" as \\boxed{{{}.0}}", 2 * n)), (1.0, 1.0));
            assert_eq!(verdict(format!(" 1 plus 1, so {}.", 2 * n)), (1.0, 0.0));
            assert_eq!(verdict(format!(" {}\n#### {}", 2 * n, 2 * n + 1)), (0.0, 1.0));
        }
        let error = verify.verdict("hello", "").expect_err("no key").to_string();
        assert_eq!(error, r#"task answers: prompt: expected a prompt with a known answer, found "hello""#);
    }

    #[test]
    fn a_number_is_an_answer_too() {
        let line = |i: usize| format!("{{\"question\":\"{i}?\",\"answer\":{}}}\n", 0.5 * i as f64);
        let text: String = (0..9).map(line).collect();
        let task = load_from(&text, OnBadRecord::Fail).expect("good records");
        let verify = task.verify.as_ref().expect("a rule");
        assert_eq!(verify.verdict("3?", "so 1.5").expect("a key").reward.to_bits(), 1.0_f64.to_bits());
        assert!(verify.verdict("3?", "so 1").expect("a key").reward.abs() < 1e-12);
    }

    #[test]
    fn bad_records_are_named_or_counted() {
        let bad = lines() + "{\"question\":\"how many?\",\"answer\":\"many\"}\n";
        let error = load_from(&bad, OnBadRecord::Fail).expect_err("no number").to_string();
        assert!(
            error.ends_with(
                r#"questions.jsonl:15: answer: expected a text with a number, the answer, found "many""#
            ),
            "{error}"
        );
        let task = load_from(&bad, OnBadRecord::Skip).expect("the others are good");
        assert!(task.notes[0].contains("14 records, 1 bad ones passed over"), "{}", task.notes[0]);
        let few: String = lines().lines().take(6).map(|l| format!("{l}\n")).collect();
        let error = load_from(&few, OnBadRecord::Fail).expect_err("too few").to_string();
        assert!(error.ends_with("found 2 + 4 of 6"), "{error}");
    }
}
