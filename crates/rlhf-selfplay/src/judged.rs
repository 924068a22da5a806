//! Answers that have been judged, and the examples that a step learns from.
//!
//! ```text
//! answers, preferences ─ Judged ─ examples ─┐
//! data, samples ─────────────── data_pair ──┼─ refer ─ gradients
//! answers, opponents ────────────── against ┘
//! ```

use rlhf_core::host::pairwise::{BestWorst, Preferences, Scoring, pairs};
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Cut, logps};
use rlhf_policy::decoder::Decoder;

use crate::error::StepError;
use crate::method::{Anchor, Rows};

/// The range of a preference, in words.
const PROBABILITY: &str = "a number from 0 to 1";

/// K answers of one prompt and what the oracle said of every two.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The prompt's own number, for messages.
    pub prompt: usize,
    /// Prompt and answer, which is scored, of each.
    pub sequences: Vec<Sequence>,
    /// P(i ≻ j).
    pub preferences: Preferences,
}

impl Judged {
    /// `answers` are P(i ≻ j) of [`pairs`]`(K)` in that order.
    ///
    /// # Errors
    /// Fewer than two answers to the prompt; another number of preferences than K (K − 1) / 2; one that is
    /// no probability.
    pub fn new(prompt: usize, sequences: Vec<Sequence>, answers: &[f64]) -> Result<Self, StepError> {
        let k = sequences.len();
        if k < 2 {
            let expected = "at least 2, to be compared".to_owned();
            return Err(StepError::Answers { prompt, what: "answers", expected, found: k });
        }
        let n = k * (k - 1) / 2;
        if answers.len() != n {
            let expected = format!("{n}, one for every two of {k} answers");
            return Err(StepError::Answers { prompt, what: "preferences", expected, found: answers.len() });
        }
        let mut rows = vec![vec![0.5; k]; k];
        for ((i, j), p) in pairs(k).zip(answers) {
            check_prob(prompt, [i, j], *p)?;
            rows[i][j] = *p;
            rows[j][i] = 1.0 - p;
        }
        let preferences = Preferences::new(rows).map_err(|source| StepError::Table { prompt, source })?;
        Ok(Self { prompt, sequences, preferences })
    }

    /// P(y ≻ π_t) of each answer, its comparison with itself included.
    pub fn win_rates(&self, how: Scoring) -> Vec<f64> {
        self.preferences.scored(how).win_rates()
    }

    /// The answers of the highest and the lowest win rate, never the same one.
    pub fn best_worst(&self, how: Scoring) -> BestWorst {
        self.preferences.scored(how).best_and_worst()
    }
}

fn check_prob(prompt: usize, [first, second]: [usize; 2], found: f64) -> Result<(), StepError> {
    if (0.0..=1.0).contains(&found) {
        return Ok(());
    }
    Err(StepError::Preference { prompt, first, second, expected: PROBABILITY, found })
}

/// One answer of an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Prompt and answer, which is scored.
    pub sequence: Sequence,
    /// P(y ≻ π_t); of Nash-MD's examples the mean of P(y ≻ y′) over the opponents y′.
    pub win_rate: f64,
    /// log π_t of each scored token, once [`refer`] has asked.
    pub previous: Option<Vec<f64>>,
    /// log μ of each scored token, once [`refer`] has asked.
    pub original: Option<Vec<f64>>,
}

impl Response {
    /// An answer that no frozen model has been asked about.
    pub fn new(sequence: Sequence, win_rate: f64) -> Self {
        Self { sequence, win_rate, previous: None, original: None }
    }

    /// Log-probabilities of the scored tokens under a frozen model.
    pub fn logps(&self, anchor: Anchor) -> Option<&[f64]> {
        match anchor {
            Anchor::Previous => self.previous.as_deref(),
            Anchor::Original => self.original.as_deref(),
        }
    }

    fn logps_mut(&mut self, anchor: Anchor) -> &mut Option<Vec<f64>> {
        match anchor {
            Anchor::Previous => &mut self.previous,
            Anchor::Original => &mut self.original,
        }
    }
}

/// What an example shows of its prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// Two answers.
    Pair {
        /// The better one, or that of the data.
        chosen: Response,
        /// The other one.
        rejected: Response,
        /// P(chosen ≻ rejected).
        prob: f64,
    },
    /// One answer.
    Single(Response),
}

/// What a step learns from, one of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The prompt's own number, for messages.
    pub prompt: usize,
    /// What it shows.
    pub shown: Shown,
}

impl Example {
    /// Its answers: chosen and rejected, or the only one.
    pub fn responses(&self) -> Vec<&Response> {
        match &self.shown {
            Shown::Pair { chosen, rejected, .. } => vec![chosen, rejected],
            Shown::Single(response) => vec![response],
        }
    }

    fn responses_mut(&mut self) -> Vec<&mut Response> {
        match &mut self.shown {
            Shown::Pair { chosen, rejected, .. } => vec![chosen, rejected],
            Shown::Single(response) => vec![response],
        }
    }
}

/// The examples of one iteration, prompt after prompt: the best and the worst answer of each, or all K.
/// Win rates and P(chosen ≻ rejected) are those of the table that `how` makes of the preferences.
pub fn examples(judged: &[Judged], rows: Rows, how: Scoring) -> Vec<Example> {
    judged.iter().flat_map(|judged| of_prompt(judged, rows, how)).collect()
}

fn of_prompt(judged: &Judged, rows: Rows, how: Scoring) -> Vec<Example> {
    let table = judged.preferences.scored(how);
    let rates = table.win_rates();
    let response = |i: usize| Response::new(judged.sequences[i].clone(), rates[i]);
    let example = |shown| Example { prompt: judged.prompt, shown };
    match rows {
        Rows::All => (0..rates.len()).map(|i| example(Shown::Single(response(i)))).collect(),
        Rows::BestWorst => {
            let BestWorst { best, worst } = table.best_and_worst();
            let (chosen, rejected) = (response(best), response(worst));
            vec![example(Shown::Pair { chosen, rejected, prob: table.prob(best, worst) })]
        }
    }
}

/// The data's answer against the policy's own, for SPIN: no oracle is asked, the data always wins.
pub fn data_pair(prompt: usize, data: Sequence, sample: Sequence) -> Example {
    let (chosen, rejected) = (Response::new(data, 1.0), Response::new(sample, 0.0));
    Example { prompt, shown: Shown::Pair { chosen, rejected, prob: 1.0 } }
}

/// Answers of the policy against those of an opponent, for Nash-MD: `answers[i][j]` is P(answer i ≻
/// opponent's answer j), and an answer's win rate is its mean.
///
/// # Errors
/// No opponent; another number of lists than answers, or of preferences in a list than in the first; a
/// preference that is no probability.
pub fn against(
    prompt: usize,
    sequences: Vec<Sequence>,
    answers: &[Vec<f64>],
) -> Result<Vec<Example>, StepError> {
    let n_opponents = answers.first().map_or(0, Vec::len);
    let wrong = |what, expected: String, found| Err(StepError::Answers { prompt, what, expected, found });
    if answers.len() != sequences.len() {
        return wrong("lists of preferences", format!("{}, one an answer", sequences.len()), answers.len());
    }
    if n_opponents == 0 {
        return wrong("opponent's answers", "at least 1".to_owned(), 0);
    }
    let mut examples = Vec::with_capacity(sequences.len());
    for (i, (sequence, probs)) in sequences.into_iter().zip(answers).enumerate() {
        if probs.len() != n_opponents {
            return wrong(
                "preferences of an answer",
                format!("{n_opponents}, as the first has"),
                probs.len(),
            );
        }
        probs.iter().enumerate().try_for_each(|(j, p)| check_prob(prompt, [i, j], *p))?;
        let win_rate = probs.iter().sum::<f64>() / n_opponents as f64;
        examples.push(Example { prompt, shown: Shown::Single(Response::new(sequence, win_rate)) });
    }
    Ok(examples)
}

/// Asks a frozen model about every answer and keeps its log-probabilities, once for an iteration. `model`
/// lives on the plain device; `cut` counts answers here.
///
/// # Errors
/// A log-probability that is −∞ or NaN.
///
/// # Panics
/// On a micro-batch that scores no token.
#[track_caller]
pub fn refer(examples: &mut [Example], anchor: Anchor, model: &Decoder, cut: &Cut) -> Result<(), StepError> {
    let sequences: Vec<&Sequence> =
        examples.iter().flat_map(Example::responses).map(|r| &r.sequence).collect();
    let mut said = logps(model, &sequences, 1.0, cut).into_iter();
    for example in examples {
        let prompt = example.prompt;
        for (answer, response) in example.responses_mut().into_iter().enumerate() {
            let tokens = said.next().expect("one list an answer");
            if let Some(token) = tokens.iter().position(|logp| !logp.is_finite()) {
                return Err(StepError::Logp { anchor, prompt, answer, token, found: tokens[token] });
            }
            *response.logps_mut(anchor) = Some(tokens);
        }
    }
    Ok(())
}

/// Takes what is known of one model for the other's: in the first iteration the policy that drew the
/// answers is the original.
pub fn refer_as(examples: &mut [Example], anchor: Anchor, from: Anchor) {
    for response in examples.iter_mut().flat_map(Example::responses_mut) {
        *response.logps_mut(anchor) = response.logps(from).map(<[f64]>::to_vec);
    }
}

#[cfg(test)]
mod tests;
