//! Word problems whose numbers are masked: a question in, an equation out, the number that it gives checked.
//!
//! A prompt is `mary wants number0 cups of flour . she already put in number1 cups . … ? =>`, a completion the
//! equation in prefix order, ` - number0 number1`. The rule executes it over the problem's numbers and compares
//! the result with the stated answer, so a prompt needs no equation, and the answer cannot be copied: no number
//! stands in the prompt.
//!
//! Equal masked questions are one problem. Of the problems, some evaluate, some come with their equation
//! (fine-tuning), and of the rest the answers alone are used. A problem whose own equation does not give the
//! stated answer is left out and counted.
//!
//! Source of the data: MAWPS (Koncel-Kedziorski et al. 2016, aclanthology.org/N16-1136) as the SVAMP repository
//! has it (Patel et al. 2021, arXiv:2103.07191): columns `Question`, `Numbers`, `Equation`, `Answer`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rlhf_core::rng::stream;
use rlhf_reward::verify::{Number, Tolerance};
use serde::Serialize;

use crate::data::{self, Misfit, OnBadRecord};
use crate::error::Error;
use crate::task::verify::{Verdict, Verify, no_key};
use crate::task::{Example, Gold, Sizes, TaskData, first, shuffle};

/// The columns that are read.
const COLUMNS: [&str; 4] = ["Question", "Numbers", "Equation", "Answer"];

/// The files.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Problems.
    pub path: &'a Path,
    /// More of them.
    pub second: Option<&'a Path>,
    /// What a record at fault does.
    pub on_bad_record: OnBadRecord,
}

/// A problem as a file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The masked question in lower case.
    pub question: String,
    /// The numbers that `number0`, `number1`, … stand for.
    pub numbers: Vec<f64>,
    /// The equation in prefix order.
    pub equation: String,
    /// The answer as it is stated.
    pub answer: String,
}

/// What a problem's answer is checked with.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Key {
    numbers: Vec<f64>,
    answer: String,
}

/// The rule: numbers and answers by prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checker {
    keys: BTreeMap<String, Key>,
}

impl Checker {
    fn new<'a>(problems: impl Iterator<Item = &'a Problem>) -> Self {
        let key = |p: &Problem| (p.prompt(), Key { numbers: p.numbers.clone(), answer: p.answer.clone() });
        Self { keys: problems.map(key).collect() }
    }

    /// See [`Verify::verdict`]. Parts: `answered` (an equation that gives a number), `right`.
    pub(super) fn verdict(&self, prompt: &str, completion: &str) -> Result<Verdict, Error> {
        let key = self
            .keys
            .get(prompt)
            .ok_or_else(|| no_key("word_problems", "a problem with a known answer", prompt))?;
        let result = execute(completion, &key.numbers);
        let right = result.is_ok_and(|result| gives(&key.answer, result));
        Ok(Verdict::of_answer(result.is_ok(), right))
    }
}

/// Whether a result is the stated answer: a whole one exactly, another to half a unit of its last place.
pub fn gives(answer: &str, result: f64) -> bool {
    Number::parse(answer).is_some_and(|answer| answer.equals(&Number::exact(result), Tolerance::Stated))
}

/// Why an equation gives no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A word that is no operator, no number and no `numberK` of the problem.
    Word,
    /// Operators and operands that do not fit together.
    Shape,
    /// A division by zero, or a result beyond all bounds.
    NotFinite,
}

/// The number that an equation in prefix order gives: `+ - * /`, `number0`, `number1`, … and constants such as
/// `0.5`, with spaces between.
///
/// ```
/// use rlhf::task::word_problems::{Fault, execute};
/// assert_eq!(execute("/ - number0 number1 2.0", &[8.0, 2.0]), Ok(3.0));
/// assert_eq!(execute("- number0", &[8.0]), Err(Fault::Shape));
/// ```
///
/// # Errors
/// See [`Fault`].
pub fn execute(equation: &str, numbers: &[f64]) -> Result<f64, Fault> {
    let mut stack: Vec<f64> = Vec::new();
    // From the end, an operator finds its operands done.
    for word in equation.split_whitespace().rev() {
        let value = match word {
            "+" | "-" | "*" | "/" => {
                let (Some(a), Some(b)) = (stack.pop(), stack.pop()) else { return Err(Fault::Shape) };
                match word {
                    "+" => a + b,
                    "-" => a - b,
                    "*" => a * b,
                    _ => a / b,
                }
            }
            _ => operand(word, numbers).ok_or(Fault::Word)?,
        };
        stack.push(value);
    }
    match stack.as_slice() {
        [value] if value.is_finite() => Ok(*value),
        [_] => Err(Fault::NotFinite),
        _ => Err(Fault::Shape),
    }
}

fn operand(word: &str, numbers: &[f64]) -> Option<f64> {
    match word.strip_prefix("number") {
        Some(index) => numbers.get(index.parse::<usize>().ok()?).copied(),
        // No sign, no exponent, no `inf`.
        None => word.parse().ok().filter(|_| word.bytes().all(|b| b.is_ascii_digit() || b == b'.')),
    }
}

impl Problem {
    /// What is asked.
    pub fn prompt(&self) -> String {
        format!("{} =>", self.question)
    }

    fn example(&self) -> Example {
        Example { prompt: self.prompt(), completion: format!(" {}", self.equation) }
    }
}

/// The problems of a file, none left out.
///
/// # Errors
/// Those of the reader: numbers, equation or answer that cannot be read.
pub fn problems(path: &Path, on_bad: OnBadRecord) -> Result<data::Loaded<Problem>, Error> {
    data::table(path, &COLUMNS, problem)?.load(on_bad)
}

fn problem(cells: &[&str]) -> Result<Problem, Misfit> {
    let misfit = |column: usize, expected: &str| {
        Err(Misfit { column, expected: expected.to_owned(), found: format!("{:?}", cells[column]) })
    };
    let words = |text: &str| text.split_whitespace().collect::<Vec<&str>>().join(" ");
    let question = words(&cells[0].to_lowercase());
    if question.is_empty() {
        return misfit(0, "a question that is not blank");
    }
    let numbers = cells[1].split_whitespace().map(|w| w.parse().ok().filter(|x: &f64| x.is_finite()));
    let Some(numbers) = numbers.collect::<Option<Vec<f64>>>() else {
        return misfit(1, "numbers with spaces between");
    };
    let equation = words(cells[2]);
    match execute(&equation, &numbers) {
        Err(Fault::Word) => return misfit(2, "operators, constants and masked numbers of the problem"),
        Err(Fault::Shape) => return misfit(2, "an equation in prefix order"),
        Ok(_) | Err(Fault::NotFinite) => {}
    }
    if Number::parse(cells[3]).is_none() {
        return misfit(3, "a number");
    }
    Ok(Problem { question, numbers, equation, answer: cells[3].trim().to_owned() })
}

/// The task of the files.
///
/// # Errors
/// Those of the reader; [`Error::Config`] for sizes of 0 and for fewer problems than the sizes leave a prompt of.
pub fn load(seed: u64, sizes: &Sizes, source: &Source<'_>) -> Result<TaskData, Error> {
    let mut task = TaskData::new("word_problems", Gold::Verifier);
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    for path in [Some(source.path), source.second].into_iter().flatten() {
        let loaded = problems(path, source.on_bad_record)?;
        let (n, before, mut n_wrong) = (loaded.records.len(), all.len(), 0);
        for problem in loaded.records {
            let result = execute(&problem.equation, &problem.numbers);
            if !result.is_ok_and(|result| gives(&problem.answer, result)) {
                n_wrong += 1;
            } else if seen.insert(problem.question.clone()) {
                all.push(problem);
            }
        }
        let n_new = all.len() - before;
        task.notes.push(format!(
            "{}: {n} records, {} bad ones passed over, {n_wrong} whose equation does not give the answer and {} equal questions left out; {n_new} left",
            path.display(),
            loaded.skipped,
            n - n_wrong - n_new
        ));
    }
    let (n_eval, n_sft) = (sizes.n_eval_prompts, sizes.n_sft);
    if n_eval == 0 || n_sft == 0 || all.len() <= n_eval + n_sft {
        let expected = "at least 1 each of task.n_eval_prompts and task.n_sft, and fewer than there are problems together";
        let found = format!("{n_eval} + {n_sft} of {}", all.len());
        return Err(Error::config("task word_problems", "task.n_sft", expected, found));
    }
    shuffle(&mut all, &mut stream(seed, "word_problems/split", 0, 0));
    let rest = first(sizes.n_prompts, all.split_off(n_eval + n_sft));
    let (eval, labelled) = all.split_at(n_eval);
    task.eval_prompts = eval.iter().map(Problem::prompt).collect();
    task.sft_heldout = eval.iter().map(Problem::example).collect();
    task.sft = labelled.iter().map(Problem::example).collect();
    task.train_prompts = rest.iter().map(Problem::prompt).collect();
    task.verify = Some(Verify::WordProblems(Checker::new(all.iter().chain(&rest))));
    task.notes.push(format!(
        "{n_sft} problems with their equations, {} of which the answers alone are used, {n_eval} to evaluate",
        rest.len()
    ));
    Ok(task)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SIZES: Sizes = Sizes { n_sft: 3, n_preferences: 1, n_prompts: 0, n_eval_prompts: 2 };

    /// Ten problems: "i number0" with the answer 6.
    fn table() -> String {
        let row = |i: usize| format!("Have {i} and number0 number1 ?,8.0 2.0,- number0 number1,6,x\n");
        "Question,Numbers,Equation,Answer,other\n".to_owned() + &(0..10).map(row).collect::<String>()
    }

    fn load_from(one: &str, two: Option<&str>, sizes: &Sizes) -> Result<TaskData, Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = ["one.csv", "two.csv"].map(|name| folder.path().join(name));
        for (path, table) in paths.iter().zip([Some(one), two]) {
            fs::write(path, table.unwrap_or_default()).expect("writable");
        }
        let second = two.map(|_| paths[1].as_path());
        load(1, sizes, &Source { path: &paths[0], second, on_bad_record: OnBadRecord::Fail })
    }

    #[test]
    fn equations_are_executed() {
        let run = |equation| execute(equation, &[12.0, 5.0]);
        assert_eq!(run("/ - number0 2.0 number1"), Ok(2.0));
        assert_eq!(run(" - number1 number0\n"), Ok(-7.0));
        assert_eq!(run("* 0.5 number0"), Ok(6.0));
        assert_eq!(run("number1"), Ok(5.0));
        for (equation, fault) in [
            ("", Fault::Shape),
            ("- number0", Fault::Shape),
            ("number0 number1", Fault::Shape),
            ("+ number0 number1 number1", Fault::Shape),
            ("+ number0 number2", Fault::Word),
            ("+ number0 -3", Fault::Word),
            ("+ number inf", Fault::Word),
            ("+ number0 1e3", Fault::Word),
            ("^ number0 number1", Fault::Word),
            ("/ number0 - number1 number1", Fault::NotFinite),
        ] {
            assert_eq!(run(equation), Err(fault), "{equation:?}");
        }
    }

    #[test]
    fn whole_answers_are_exact_and_others_as_stated() {
        assert!(gives("6", 6.0) && gives("6.0", 6.0) && gives("0.25", 0.249) && gives("3.33333", 10.0 / 3.0));
        assert!(!gives("41.0", 41.026) && !gives("0.25", 0.244) && !gives("six", 6.0));
    }

    #[test]
    fn splits_are_disjoint_and_every_prompt_has_its_key() {
        let more = "Question,Numbers,Equation,Answer\nhave 0 and number0 number1 ?,1 1,+ number0 number1,2\n\
                    Odd number0 ?,5,number0,4\n";
        let task = load_from(&table(), Some(more), &SIZES).expect("good files");
        assert_eq!((task.sft.len(), task.train_prompts.len(), task.eval_prompts.len()), (3, 5, 2));
        let labelled = task.sft.iter().map(|e| &e.prompt);
        let all: Vec<&String> = labelled.chain(&task.train_prompts).chain(&task.eval_prompts).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 10);
        let verify = task.verify.as_ref().expect("a rule");
        for prompt in all {
            let reward = |text| verify.verdict(prompt, text).expect("a key").reward;
            let right = [" - number0 number1", " + number0 number1", "6"].map(|text| reward(text) > 0.5);
            assert_eq!(right, [true, false, true]);
        }
        let error = verify.verdict("hello", "").expect_err("no key").to_string();
        assert_eq!(
            error,
            r#"task word_problems: prompt: expected a problem with a known answer, found "hello""#
        );
        let note = &task.notes[1];
        assert!(note.contains("2 records, 0 bad ones passed over, 1 whose equation"), "{note}");
        assert!(note.ends_with("and 1 equal questions left out; 0 left"), "{note}");
    }

    #[test]
    fn bad_records_are_named() {
        let message = |row: &str| {
            let text = format!("Question,Numbers,Equation,Answer\n{row}\n");
            load_from(&text, None, &SIZES).expect_err("bad input").to_string()
        };
        for (row, expected) in [
            (" ,1,number0,1", "one.csv:2: Question: expected a question that is not blank, found \" \""),
            ("a,1 b,number0,1", "one.csv:2: Numbers: expected numbers with spaces between, found \"1 b\""),
            ("a,1,number1,1", "one.csv:2: Equation: expected operators, constants and masked numbers"),
            ("a,1,+ number0,1", "one.csv:2: Equation: expected an equation in prefix order"),
            ("a,1,number0,one", "one.csv:2: Answer: expected a number, found \"one\""),
        ] {
            assert!(message(row).contains(expected), "{row:?}: {}", message(row));
        }
        let error = load_from(&table(), None, &Sizes { n_sft: 8, ..SIZES }).expect_err("too few").to_string();
        assert!(error.ends_with("found 2 + 8 of 10"), "{error}");
        let error = load_from(&table(), None, &Sizes { n_eval_prompts: 0, ..SIZES }).expect_err("none");
        assert!(error.to_string().contains("at least 1 each"), "{error}");
    }
}
