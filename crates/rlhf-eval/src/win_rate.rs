//! Win rates: AlpacaEval's preferences and what they come to, and mean win rates with their intervals.
//!
//! ```text
//! preference = 2 − p(m) / (p(m) + p(M)) = 1 + σ(log p(M) − log p(m))          1: baseline wins, 2: model wins
//! y = preference − 1          win rate = ȳ          standard error = s / √n, s with divisor n − 1
//! ```
//!
//! Where: `m` and `M` are the names that the judge is shown for the first and the second text; y is the
//! probability that the model's text is preferred to the baseline's.
//! Paper: Dubois et al., *Length-Controlled AlpacaEval*, arXiv:2404.04475, by the released code (alpaca_eval 0.6.6,
//! `completion_parsers.py` and `metrics/`).
//! Departures: win rates are shares, in [0, 1]: times 100 they are AlpacaEval's. What the judge did not answer is
//! counted and left out, as there; a number that is no preference is an error, where it is dropped there.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::stats::{Interval, student_t_quantile};

/// A token that the judge might have answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerLogp<'a> {
    /// The token's text; it is compared as it stands.
    pub token: &'a str,
    /// Its log-probability in nats, at most 0; −∞ for an impossible token.
    pub logp: f64,
}

/// In which order the judge was shown the two texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// The baseline's text as `m`, the model's as `M`.
    BaselineFirst,
    /// The model's text as `m`, the baseline's as `M`: the answer is turned round.
    ModelFirst,
}

/// AlpacaEval's preference, from 1 (the baseline wins) to 2 (the model wins), of the likeliest tokens at the
/// judge's answer. A token that is not listed counts as impossible; where neither `m` nor `M` is, the judge gave
/// no answer and there is none here.
///
/// ```
/// use rlhf_eval::win_rate::{AnswerLogp, Shown, alpaca_preference};
/// let top = [AnswerLogp { token: "M", logp: -0.017_597_131 }, AnswerLogp { token: "m", logp: -4.048_847 }];
/// let found = alpaca_preference(&top, Shown::BaselineFirst)?.unwrap();
/// assert!((found - 1.982_557_51).abs() < 1e-8);
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// A log-probability above 0, or NaN.
pub fn alpaca_preference(top: &[AnswerLogp<'_>], shown: Shown) -> Result<Option<f64>, EvalError> {
    if let Some(index) = top.iter().position(|answer| answer.logp.is_nan() || answer.logp > 0.0) {
        let (what, expected) = ("the judge's log-probabilities", "a number of at most 0");
        return Err(EvalError::Value { what, index, expected, found: top[index].logp });
    }
    let of = |token: &str| {
        let last = top.iter().rev().find(|answer| answer.token == token);
        last.map_or(f64::NEG_INFINITY, |answer| answer.logp)
    };
    let (first, second) = (of("m"), of("M"));
    if first == f64::NEG_INFINITY && second == f64::NEG_INFINITY {
        return Ok(None);
    }
    let preference = 1.0 + 1.0 / (1.0 + (first - second).exp());
    Ok(Some(match shown {
        Shown::BaselineFirst => preference,
        Shown::ModelFirst => 3.0 - preference,
    }))
}

/// The probability that the model's text is preferred, from AlpacaEval's preference: 1 gives 0, 1.5 gives ½,
/// 2 gives 1. A 0 is a draw, as old files write it.
///
/// # Errors
/// A number that is neither 0 nor from 1 to 2.
pub fn from_alpaca(preference: f64) -> Result<f64, EvalError> {
    if (1.0..=2.0).contains(&preference) {
        return Ok(preference - 1.0);
    }
    if preference == 0.0 {
        return Ok(0.5);
    }
    let (what, expected) = ("AlpacaEval preference", "0 or a number from 1 to 2");
    Err(EvalError::Range { what, expected, found: preference })
}

/// How a model does against its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WinRate {
    /// Mean probability that the model's text is preferred, in [0, 1].
    pub win_rate: f64,
    /// Of that mean: sample standard deviation over √n.
    pub standard_error: f64,
    /// Share of texts that win, a draw counted as half of one.
    pub discrete_win_rate: f64,
    /// Preferences above ½.
    pub wins: usize,
    /// Preferences below ½.
    pub losses: usize,
    /// Preferences of ½.
    pub draws: usize,
    /// Texts that the judge gave no answer for; they count nowhere else.
    pub unanswered: usize,
}

/// The win rate of at least two answered preferences: probabilities that the model's text is preferred to the
/// baseline's, none where the judge did not answer.
///
/// ```
/// use rlhf_eval::win_rate::win_rate;
/// let found = win_rate(&[Some(0.9), None, Some(0.5), Some(0.1)])?;
/// assert!((found.win_rate - 0.5).abs() < 1e-15 && (found.discrete_win_rate - 0.5).abs() < 1e-15);
/// assert_eq!((found.wins, found.losses, found.draws, found.unanswered), (1, 1, 1, 1));
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// Fewer than two answers, or a number outside [0, 1].
pub fn win_rate(preferences: &[Option<f64>]) -> Result<WinRate, EvalError> {
    check_preferences("win rate", preferences)?;
    let answered: Vec<f64> = preferences.iter().flatten().copied().collect();
    if answered.len() < 2 {
        return Err(EvalError::TooFew { what: "win rate, answers", expected: 2, found: answered.len() });
    }
    let n = answered.len() as f64;
    let mean = answered.iter().sum::<f64>() / n;
    let squares: f64 = answered.iter().map(|y| (y - mean).powi(2)).sum();
    let wins = answered.iter().filter(|y| **y > 0.5).count();
    let losses = answered.iter().filter(|y| **y < 0.5).count();
    let draws = answered.len() - wins - losses;
    Ok(WinRate {
        win_rate: mean,
        standard_error: (squares / (n - 1.0) / n).sqrt(),
        discrete_win_rate: (wins as f64 + 0.5 * draws as f64) / n,
        wins,
        losses,
        draws,
        unanswered: preferences.len() - answered.len(),
    })
}

/// A mean win rate over several comparisons of each prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusteredWinRate {
    /// Mean over all comparisons and its interval, cut to [0, 1].
    pub interval: Interval,
    /// Of the mean, comparisons of one prompt taken as dependent.
    pub standard_error: f64,
    /// Prompts.
    pub prompts: usize,
    /// Comparisons.
    pub comparisons: usize,
}

/// Mean win rate of paired probabilities with Student's t interval at `level`, clustered by prompt: entry g holds
/// P(a ≻ b) for each pair of texts that answer prompt g.
///
/// ```text
/// p̄ ± t √( G/(G−1) Σ_g ( Σ_{i∈g} (pᵢ − p̄) )² ) / N
/// ```
///
/// Where: G prompts have N comparisons, t is the quantile `(1 + level) / 2` with G − 1 degrees of freedom.
/// Paper: Liang and Zeger, *Longitudinal Data Analysis Using Generalized Linear Models*, Biometrika 73, 1986, for
/// the variance of a mean; comparisons of one prompt say much the same, and counted as independent they would
/// promise too narrow an interval. With equally many comparisons a prompt it is the interval of the prompts' means.
///
/// Where every comparison is won the interval has no width: for outcomes that are certain use
/// [`wilson`](crate::stats::wilson).
///
/// # Errors
/// Fewer than two prompts, one without a comparison, a number outside [0, 1] (its index counts all comparisons,
/// prompt after prompt), or a level outside (0, 1).
pub fn win_rate_by_prompt<P: AsRef<[f64]>>(prompts: &[P], level: f64) -> Result<ClusteredWinRate, EvalError> {
    let prompts: Vec<&[f64]> = prompts.iter().map(P::as_ref).collect();
    if prompts.len() < 2 {
        return Err(EvalError::TooFew { what: "win rate, prompts", expected: 2, found: prompts.len() });
    }
    if let Some(index) = prompts.iter().position(|probs| probs.is_empty()) {
        let (what, expected) = ("win rate, comparisons of a prompt", "at least one");
        return Err(EvalError::Value { what, index, expected, found: 0.0 });
    }
    let all: Vec<f64> = prompts.concat();
    check_probabilities("win rate", &all)?;
    if !(level > 0.0 && level < 1.0) {
        let (what, expected) = ("confidence level", "a number between 0 and 1, both excluded");
        return Err(EvalError::Range { what, expected, found: level });
    }
    let (g, n) = (prompts.len() as f64, all.len() as f64);
    let mean = all.iter().sum::<f64>() / n;
    let squares: f64 = prompts.iter().map(|p| p.iter().map(|p| p - mean).sum::<f64>().powi(2)).sum();
    let standard_error = (g / (g - 1.0) * squares).sqrt() / n;
    let half = student_t_quantile(f64::midpoint(1.0, level), g - 1.0)? * standard_error;
    let interval = Interval { estimate: mean, low: (mean - half).max(0.0), high: (mean + half).min(1.0) };
    Ok(ClusteredWinRate { interval, standard_error, prompts: prompts.len(), comparisons: all.len() })
}

/// Refuses a preference that is no probability.
pub(crate) fn check_preferences(what: &'static str, preferences: &[Option<f64>]) -> Result<(), EvalError> {
    let wrong = |p: &Option<f64>| p.is_some_and(|p| !(0.0..=1.0).contains(&p));
    match preferences.iter().position(wrong) {
        Some(index) => Err(out_of_range(what, index, preferences[index].unwrap_or(f64::NAN))),
        None => Ok(()),
    }
}

/// Refuses a number that is no probability.
pub(crate) fn check_probabilities(what: &'static str, probs: &[f64]) -> Result<(), EvalError> {
    match probs.iter().position(|p| !(0.0..=1.0).contains(p)) {
        Some(index) => Err(out_of_range(what, index, probs[index])),
        None => Ok(()),
    }
}

fn out_of_range(what: &'static str, index: usize, found: f64) -> EvalError {
    EvalError::Value { what, index, expected: "a number from 0 to 1", found }
}
