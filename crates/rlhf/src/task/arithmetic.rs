//! Sums and differences with a known result, made by this code from a seed: the quickest test that
//! learning from a verifiable reward works, and a synthetic one.
//!
//! A prompt is `3 8 + 4 5 =`, its completion ` 8 3`: digits stand apart, so that each is one token
//! whatever the vocabulary. Results are never negative. Of the examples a share has a slip
//! ([`Difficulty::fault_share`]): a carry or borrow is forgotten, as people do, or, where there is
//! none, the last digit is one off. So a fine-tuned policy that has learned to add still errs, and the
//! reward has something to teach.
//!
//! No problem is in two splits; `38 + 45` and `45 + 38` are one problem.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use rand::{Rng, RngExt};
use rlhf_core::number::Prob;
use rlhf_core::rng::stream;
use serde::Serialize;

use crate::error::Error;
use crate::task::verify::{Verdict, Verify, no_key};
use crate::task::{Example, Gold, Sizes, TaskData};

/// Results of more digits would not be exact as numbers of a report.
const MAX_DIGITS: usize = 9;
/// Of the fine-tuning examples, one in so many more is made for the perplexity.
const HELD_OUT: usize = 10;
/// Of all problems, one in so many may be left unused, so that the search for new ones stays short.
const SPARE: u128 = 4;

/// How hard the problems are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difficulty {
    /// Most digits of an operand, up to 9.
    pub n_digits: NonZeroUsize,
    /// Share of the examples with a slip.
    pub fault_share: Prob,
}

/// `a + b` or `a − b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    a: u64,
    sign: char,
    b: u64,
}

impl Problem {
    fn random(below: u64, rng: &mut impl Rng) -> Self {
        let (x, y) = (rng.random_range(0..below), rng.random_range(0..below));
        if rng.random_bool(0.5) {
            Self { a: x, sign: '+', b: y }
        } else {
            Self { a: x.max(y), sign: '-', b: x.min(y) }
        }
    }

    fn prompt(self) -> String {
        format!("{} {} {} =", spaced(self.a), self.sign, spaced(self.b))
    }

    /// Reads what [`Problem::prompt`] writes.
    fn parse(prompt: &str) -> Option<Self> {
        let text: String = prompt.trim().strip_suffix('=')?.split(' ').collect();
        let (sign, (a, b)) = ['+', '-'].into_iter().find_map(|sign| Some((sign, text.split_once(sign)?)))?;
        let number = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_digit()) && (1..=MAX_DIGITS).contains(&text.len());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (a, b) = (number(a)?, number(b)?);
        (sign == '+' || a >= b).then_some(Self { a, sign, b })
    }

    /// The same for `a + b` and `b + a`.
    fn key(self) -> Self {
        if self.sign == '+' { Self { a: self.a.min(self.b), b: self.a.max(self.b), ..self } } else { self }
    }

    fn result(self) -> u64 {
        if self.sign == '+' { self.a + self.b } else { self.a - self.b }
    }

    /// The result as somebody writes it down who forgets a carry or borrow.
    fn slip(self, rng: &mut impl Rng) -> u64 {
        let carries = self.carries();
        if carries.is_empty() {
            let result = self.result();
            return if result.is_multiple_of(10) { result + 1 } else { result - 1 };
        }
        let lost = carries[rng.random_range(0..carries.len())];
        if self.sign == '+' { self.result() - lost } else { self.result() + lost }
    }

    /// What each carry or borrow is worth: 10 for one out of the last place.
    fn carries(self) -> Vec<u64> {
        let (mut a, mut b, mut worth, mut carry) = (self.a, self.b, 10, 0);
        let mut carries = Vec::new();
        while a > 0 || b > 0 || carry > 0 {
            let (x, y) = (a % 10, b % 10);
            let over = if self.sign == '+' { x + y + carry > 9 } else { x < y + carry };
            carry = u64::from(over);
            if over {
                carries.push(worth);
            }
            (a, b, worth) = (a / 10, b / 10, worth * 10);
        }
        carries
    }
}

/// The digits of a number with a space between.
fn spaced(n: u64) -> String {
    n.to_string().chars().map(String::from).collect::<Vec<String>>().join(" ")
}

/// Reads the problem from the prompt and compares the digits: no leading zero, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checker;

impl Checker {
    /// See [`Verify::verdict`]. Parts: `answered` (digits and nothing else), `right`.
    pub(super) fn verdict(self, prompt: &str, completion: &str) -> Result<Verdict, Error> {
        let problem = Problem::parse(prompt)
            .ok_or_else(|| no_key("arithmetic", "a problem such as `3 8 + 4 5 =`", prompt))?;
        let answer: String = completion.split_whitespace().collect();
        let answered = !answer.is_empty() && answer.bytes().all(|b| b.is_ascii_digit());
        Ok(Verdict::of_answer(answered, answer == problem.result().to_string()))
    }
}

/// The task of a seed.
///
/// # Errors
/// [`Error::Config`]: a size that is 0, more than 9 digits, more problems than three quarters of those
/// that there are.
pub fn arithmetic(seed: u64, sizes: &Sizes, difficulty: &Difficulty) -> Result<TaskData, Error> {
    check(sizes, difficulty)?;
    let below = 10u64.pow(u32::try_from(difficulty.n_digits.get()).unwrap_or(u32::MAX));
    let mut maker = Maker { seed, below, used: HashSet::new() };
    let mut task = TaskData::new("arithmetic", Gold::Verifier);
    task.eval_prompts = maker.prompts("arithmetic/eval", sizes.n_eval_prompts);
    task.train_prompts = maker.prompts("arithmetic/prompts", sizes.n_prompts);
    let share = difficulty.fault_share.get();
    task.sft = maker.examples("arithmetic/sft", sizes.n_sft, share);
    task.sft_heldout = maker.examples("arithmetic/sft-heldout", sizes.n_sft.div_ceil(HELD_OUT), share);
    task.verify = Some(Verify::Arithmetic(Checker));
    task.notes = vec![format!(
        "synthetic sums and differences of up to {} digits: {} examples, {:.0} % of them with a slip, {} prompts to train, {} to evaluate; no problem is in two of them",
        difficulty.n_digits,
        task.sft.len(),
        100.0 * share,
        task.train_prompts.len(),
        task.eval_prompts.len()
    )];
    Ok(task)
}

fn check(sizes: &Sizes, difficulty: &Difficulty) -> Result<(), Error> {
    let fault = |field: &str, expected: String, found: usize| {
        Err(Error::config("task arithmetic", field, expected, found.to_string()))
    };
    let n_digits = difficulty.n_digits.get();
    if n_digits > MAX_DIGITS {
        return fault("verifier.n_digits", format!("1 to {MAX_DIGITS}"), n_digits);
    }
    let fields = [
        ("task.n_sft", sizes.n_sft),
        ("task.n_prompts", sizes.n_prompts),
        ("task.n_eval_prompts", sizes.n_eval_prompts),
    ];
    for (field, size) in fields {
        if size == 0 {
            return fault(field, "at least 1".to_owned(), 0);
        }
    }
    let used = sizes.n_sft + sizes.n_sft.div_ceil(HELD_OUT) + sizes.n_prompts + sizes.n_eval_prompts;
    let operands = 10u128.pow(u32::try_from(n_digits).unwrap_or(u32::MAX));
    // As many pairs in order for sums as for differences.
    let all = operands * (operands + 1);
    let most = all - all / SPARE;
    if used as u128 > most {
        let expected = format!(
            "more digits, or task.n_sft, a {HELD_OUT}th of it more, task.n_prompts and task.n_eval_prompts of at most \
             {most} together"
        );
        return fault("verifier.n_digits", expected, used);
    }
    Ok(())
}

/// Makes splits that share nothing.
struct Maker {
    seed: u64,
    below: u64,
    used: HashSet<Problem>,
}

impl Maker {
    fn problem(&mut self, rng: &mut impl Rng) -> Problem {
        loop {
            let problem = Problem::random(self.below, rng);
            if self.used.insert(problem.key()) {
                return problem;
            }
        }
    }

    fn prompts(&mut self, purpose: &str, n: usize) -> Vec<String> {
        (0..n as u64).map(|i| self.problem(&mut stream(self.seed, purpose, i, 0)).prompt()).collect()
    }

    fn examples(&mut self, purpose: &str, n: usize, fault_share: f64) -> Vec<Example> {
        let example = |i| {
            let mut rng = stream(self.seed, purpose, i, 0);
            let problem = self.problem(&mut rng);
            let slips = rng.random_bool(fault_share);
            let result = if slips { problem.slip(&mut rng) } else { problem.result() };
            Example { prompt: problem.prompt(), completion: format!(" {}", spaced(result)) }
        };
        (0..n as u64).map(example).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { n_sft: 2000, n_preferences: 1, n_prompts: 500, n_eval_prompts: 100 };

    fn two_digits(fault_share: f64) -> Difficulty {
        Difficulty {
            n_digits: NonZeroUsize::new(2).expect("not 0"),
            fault_share: Prob::new(fault_share).expect("a share"),
        }
    }

    fn problem(prompt: &str) -> Problem {
        Problem::parse(prompt).unwrap_or_else(|| panic!("{prompt:?} is a problem"))
    }

    #[test]
    fn splits_are_disjoint_in_problems() {
        let task = arithmetic(3, &SIZES, &two_digits(0.3)).expect("10,100 problems");
        let examples = task.sft.iter().chain(&task.sft_heldout).map(|e| &e.prompt);
        let all: Vec<Problem> =
            examples.chain(&task.train_prompts).chain(&task.eval_prompts).map(|p| problem(p).key()).collect();
        assert_eq!(all.len(), 2000 + 200 + 500 + 100);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert_eq!(arithmetic(3, &SIZES, &two_digits(0.3)).expect("as before"), task);
        assert_ne!(arithmetic(4, &SIZES, &two_digits(0.3)).expect("another").sft, task.sft);
    }

    #[test]
    fn the_share_of_slips_is_the_one_asked_for() {
        let wrong = |share: f64| {
            let task = arithmetic(0, &SIZES, &two_digits(share)).expect("good sizes");
            let verify = task.verify.expect("a rule");
            let right = |e: &Example| verify.verdict(&e.prompt, &e.completion).expect("its prompt").correct;
            task.sft.iter().filter(|e| !right(e)).count()
        };
        assert_eq!((wrong(0.0), wrong(1.0)), (0, 2000));
        // 2000 draws at 0.3: 600, standard deviation 20.5.
        assert!((530..=670).contains(&wrong(0.3)), "{}", wrong(0.3));
    }

    #[test]
    fn slips_forget_a_carry_or_a_borrow() {
        let slips = |prompt: &str| -> HashSet<u64> {
            (0..40).map(|i| problem(prompt).slip(&mut stream(0, "slip", i, 0))).collect()
        };
        assert_eq!(slips("3 8 + 4 5 ="), HashSet::from([73]));
        assert_eq!(slips("9 8 + 4 5 ="), HashSet::from([133, 43]));
        assert_eq!(slips("5 2 - 1 7 ="), HashSet::from([45]));
        assert_eq!(slips("1 0 0 - 1 ="), HashSet::from([109, 199]));
        assert_eq!(slips("1 2 + 1 2 ="), HashSet::from([23]));
        assert_eq!(slips("3 0 - 1 0 ="), HashSet::from([21]));
    }

    #[test]
    fn only_the_digits_of_the_result_are_right() {
        let verdict = |completion| {
            let v = Checker.verdict("5 2 - 1 7 =", completion).expect("a problem");
            (v.reward, v.correct, v.parts[0].value)
        };
        assert_eq!(verdict(" 3 5"), (1.0, true, 1.0));
        assert_eq!(verdict(" 35\n"), (1.0, true, 1.0));
        assert_eq!(verdict(" 3 6"), (0.0, false, 1.0));
        assert_eq!(verdict(" 0 3 5"), (0.0, false, 1.0));
        assert_eq!(verdict(" 3 5 ="), (0.0, false, 0.0));
        assert_eq!(verdict(""), (0.0, false, 0.0));
        for prompt in ["", "3 + =", "3 + 4", "3 - 4 =", "3 * 4 =", "a + 4 =", "1234567890 + 1 ="] {
            let error = Checker.verdict(prompt, "7").expect_err("no problem").to_string();
            assert!(error.ends_with(&format!("found {prompt:?}")), "{error}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_met_are_named() {
        let message = |sizes: &Sizes, n| {
            let difficulty = Difficulty { n_digits: NonZeroUsize::new(n).expect("not 0"), ..two_digits(0.0) };
            arithmetic(0, sizes, &difficulty).expect_err("not to be met").to_string()
        };
        // 55 sums and 55 differences of one digit, three quarters of them.
        let expected = "task arithmetic: verifier.n_digits: expected more digits, or task.n_sft, a 10th of it more, task.n_prompts and task.n_eval_prompts of at most 83 together, found 2800";
        assert_eq!(message(&SIZES, 1), expected);
        assert!(message(&SIZES, 10).contains("verifier.n_digits: expected 1 to 9, found 10"));
        assert!(message(&Sizes { n_prompts: 0, ..SIZES }, 2).contains("task.n_prompts: expected at least 1"));
        let few = Sizes { n_sft: 50, n_preferences: 1, n_prompts: 18, n_eval_prompts: 10 };
        assert!(arithmetic(0, &few, &Difficulty { n_digits: NonZeroUsize::MIN, ..two_digits(0.0) }).is_ok());
    }
}
