//! What a square table of preferences says about the answers to one prompt: win rates, PairRM's
//! scores, the best and the worst.
//!
//! ```text
//! P(yᵢ ≻ π) ≈ (1/K) Σⱼ Pᵢⱼ                                    win rate; j = i counts, with Pᵢᵢ = ½
//! sᵢ = (1/K) Σⱼ (Mᵢⱼ − Mⱼᵢ) = (2/K) Σⱼ logit Pᵢⱼ              P̂ᵢⱼ = σ(sᵢ − sⱼ)
//! Pᵢⱼ = σ((Mᵢⱼ − Mⱼᵢ) / 2)
//! ```
//!
//! Where: K answers were drawn from the policy π; Pᵢⱼ is the probability that answer i is preferred to
//! answer j; Mᵢⱼ is a pairwise model's logit that i beats j when i stands on the left.
//! Paper: Tang et al., *Game-Theoretic Regularized Self-Play Alignment of Large Language Models*,
//! arXiv:2503.00030, and Wu et al., *Self-Play Preference Optimization*, arXiv:2405.00675, by their
//! released code; Jiang et al., *LLM-Blender*, arXiv:2306.02561, for PairRM.
//! Departures: the second form of s takes probabilities, for oracles that give no logits; it holds them
//! [`CERTAIN`] away from 0 and 1, where the logit is infinite.
//!
//! P̂ is ranked by one number an answer: it cannot hold a cycle, whatever P says. [`Scoring`] chooses.

use serde::{Deserialize, Serialize};

use super::stable::sigmoid;
use crate::number::Prob;

/// How far `P + Pᵀ` may be from 1: what rounding leaves of probabilities computed in `f32`.
pub const SYMMETRY: f64 = 1e-6;

/// How far a probability is held from 0 and 1 before its logit is taken: near the last step of `f32`
/// below 1. The logit is then at most 16.1.
pub const CERTAIN: f64 = 1e-7;

/// A table that says nothing about a set of answers. Places count from 0.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PairwiseError {
    /// One answer, or none: there is nothing to compare.
    #[error("{what}: expected at least 2 answers, found {found}")]
    TooFew {
        /// The argument.
        what: &'static str,
        /// Answers given.
        found: usize,
    },
    /// A table that is not as wide as it is high.
    #[error("{what}: row {row}: expected {expected} entries, one an answer, found {found}")]
    NotSquare {
        /// The argument.
        what: &'static str,
        /// The row.
        row: usize,
        /// Answers.
        expected: usize,
        /// Entries of the row.
        found: usize,
    },
    /// An entry outside its range.
    #[error("{what}: entry ({row}, {column}): expected {expected}, found {found}")]
    Entry {
        /// The argument.
        what: &'static str,
        /// The answer it is about.
        row: usize,
        /// The answer it is compared to.
        column: usize,
        /// Its range, in words.
        expected: &'static str,
        /// The entry.
        found: f64,
    },
    /// Two entries that contradict each other.
    #[error(
        "preferences: entries ({row}, {column}) and ({column}, {row}): expected a sum of 1, found {found}"
    )]
    Sum {
        /// One answer.
        row: usize,
        /// The other; the same on the diagonal.
        column: usize,
        /// The sum of both entries.
        found: f64,
    },
    /// A score that is NaN or infinite.
    #[error("scores: entry {index}: expected a finite number, found {found}")]
    Score {
        /// The answer.
        index: usize,
        /// Its score.
        found: f64,
    },
}

/// Which probabilities the win rates are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// P̂ of PairRM's scores, as the authors' code: ranked inside a prompt, without cycles.
    PairRm,
    /// P itself, cycles included.
    Raw,
}

/// Preferences between K ≥ 2 answers: entry (i, j) is P(i ≻ j), in [0, 1], and P + Pᵀ is 1 within
/// [`SYMMETRY`]. Written as rows; what is read is checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<f64>>", into = "Vec<Vec<f64>>")]
pub struct Preferences {
    rows: Vec<Vec<f64>>,
}

impl Preferences {
    /// The table of these rows, kept to the last bit.
    ///
    /// ```
    /// use rlhf_core::host::pairwise::Preferences;
    ///
    /// let error = Preferences::new(vec![vec![0.5, 0.7], vec![0.4, 0.5]]).unwrap_err();
    /// assert!(error.to_string().starts_with("preferences: entries (0, 1) and (1, 0): expected a sum of 1"));
    /// ```
    ///
    /// # Errors
    /// Fewer than two answers, a table that is not square, an entry that is no probability, two opposite
    /// entries whose sum is not 1, a diagonal that is not ½.
    pub fn new(rows: Vec<Vec<f64>>) -> Result<Self, PairwiseError> {
        square("preferences", &rows)?;
        check(&rows, "preferences", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
        for (row, entries) in rows.iter().enumerate() {
            for (column, p) in entries.iter().enumerate().skip(row) {
                let found = p + rows[column][row];
                if (found - 1.0).abs() > SYMMETRY {
                    return Err(PairwiseError::Sum { row, column, found });
                }
            }
        }
        Ok(Self { rows })
    }

    /// The table of K answers whose pairs were asked for in one order each: `probs` holds P(i ≻ j) of
    /// [`pairs`]`(k)`, in order. The opposite entries are 1 − P, the diagonal is ½.
    ///
    /// # Errors
    /// Fewer than two answers.
    ///
    /// # Panics
    /// On another number of probabilities than `k (k − 1) / 2`.
    #[track_caller]
    pub fn from_pairs(k: usize, probs: &[Prob]) -> Result<Self, PairwiseError> {
        enough("preferences", k)?;
        let expected = k * (k - 1) / 2;
        assert_eq!(probs.len(), expected, "preferences of {k} answers: expected {expected} pairs");
        let mut rows = vec![vec![0.5; k]; k];
        for ((i, j), p) in pairs(k).zip(probs) {
            rows[i][j] = p.get();
            rows[j][i] = 1.0 - p.get();
        }
        Ok(Self { rows })
    }

    /// `Pᵢⱼ = σ((Mᵢⱼ − Mⱼᵢ) / 2)` of a pairwise model's logits: both orders averaged, cycles kept.
    ///
    /// # Errors
    /// Fewer than two answers, a table that is not square, a logit that is not finite.
    pub fn from_logits(logits: &[Vec<f64>]) -> Result<Self, PairwiseError> {
        check_logits(logits)?;
        Ok(Self::from_differences(logits.len(), |i, j| 0.5 * (logits[i][j] - logits[j][i])))
    }

    /// `P̂ᵢⱼ = σ(sᵢ − sⱼ)`: Bradley–Terry preferences of one score an answer.
    ///
    /// # Errors
    /// Fewer than two scores, or one that is not finite.
    pub fn from_scores(scores: &[f64]) -> Result<Self, PairwiseError> {
        check_scores(scores)?;
        Ok(Self::from_differences(scores.len(), |i, j| scores[i] - scores[j]))
    }

    fn from_differences(k: usize, logit: impl Fn(usize, usize) -> f64) -> Self {
        let row = |i: usize| (0..k).map(|j| sigmoid(logit(i, j))).collect();
        Self { rows: (0..k).map(row).collect() }
    }

    /// K, the number of answers.
    pub fn k(&self) -> usize {
        self.rows.len()
    }

    /// P(i ≻ j).
    ///
    /// # Panics
    /// On an answer that is not there.
    #[track_caller]
    pub fn prob(&self, i: usize, j: usize) -> f64 {
        self.rows[i][j]
    }

    /// The rows, each K entries long.
    pub fn rows(&self) -> &[Vec<f64>] {
        &self.rows
    }

    /// `(1/K) Σⱼ Pᵢⱼ` of each answer, the comparison with itself included: P(yᵢ ≻ π) estimated from
    /// the answers at hand. Their mean is ½.
    ///
    /// ```
    /// use rlhf_core::host::pairwise::Preferences;
    ///
    /// let p = Preferences::new(vec![vec![0.5, 0.7], vec![0.3, 0.5]])?;
    /// let rates = p.win_rates();
    /// assert!((rates[0] - 0.6).abs() < 1e-15 && (rates[1] - 0.4).abs() < 1e-15);
    /// # Ok::<(), rlhf_core::host::pairwise::PairwiseError>(())
    /// ```
    pub fn win_rates(&self) -> Vec<f64> {
        let k = self.k() as f64;
        self.rows.iter().map(|row| row.iter().sum::<f64>() / k).collect()
    }

    /// `sᵢ = (2/K) Σⱼ logit Pᵢⱼ`: PairRM's scores, from probabilities alone. Each probability is held
    /// [`CERTAIN`] away from 0 and 1. Equal to [`pair_rm_scores`] of the logits that P came from.
    pub fn pair_rm_scores(&self) -> Vec<f64> {
        let logit = |p: &f64| {
            let p = p.clamp(CERTAIN, 1.0 - CERTAIN);
            (p / (1.0 - p)).ln()
        };
        let k = self.k() as f64;
        self.rows.iter().map(|row| 2.0 / k * row.iter().map(logit).sum::<f64>()).collect()
    }

    /// The table that win rates are taken from: P, or P̂ of [`Preferences::pair_rm_scores`].
    #[must_use]
    pub fn scored(&self, scoring: Scoring) -> Self {
        match scoring {
            Scoring::Raw => self.clone(),
            Scoring::PairRm => {
                let scores = self.pair_rm_scores();
                Self::from_differences(self.k(), |i, j| scores[i] - scores[j])
            }
        }
    }

    /// The answers of the highest and the lowest win rate, as [`best_and_worst`] chooses them.
    pub fn best_and_worst(&self) -> BestWorst {
        extremes(&self.win_rates())
    }
}

impl TryFrom<Vec<Vec<f64>>> for Preferences {
    type Error = PairwiseError;

    fn try_from(rows: Vec<Vec<f64>>) -> Result<Self, PairwiseError> {
        Self::new(rows)
    }
}

impl From<Preferences> for Vec<Vec<f64>> {
    fn from(preferences: Preferences) -> Self {
        preferences.rows
    }
}

/// Two answers, by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BestWorst {
    /// The first of those that score highest.
    pub best: usize,
    /// The first of the others that score lowest; never the same as `best`.
    pub worst: usize,
}

/// The best and the worst of at least two scores. Of equal ones the first counts; where all are equal
/// these are answers 0 and 1, so that a pair is always two answers.
///
/// ```
/// use rlhf_core::host::pairwise::best_and_worst;
///
/// let pair = best_and_worst(&[0.2, 0.9, 0.9, 0.2])?;
/// assert_eq!((pair.best, pair.worst), (1, 0));
/// # Ok::<(), rlhf_core::host::pairwise::PairwiseError>(())
/// ```
///
/// # Errors
/// Fewer than two scores, or one that is not finite.
pub fn best_and_worst(scores: &[f64]) -> Result<BestWorst, PairwiseError> {
    check_scores(scores)?;
    Ok(extremes(scores))
}

/// Of at least two numbers, none NaN.
fn extremes(scores: &[f64]) -> BestWorst {
    let best = (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
    let first = usize::from(best == 0);
    let lower = |worst: usize, i: usize| if i != best && scores[i] < scores[worst] { i } else { worst };
    BestWorst { best, worst: (0..scores.len()).fold(first, lower) }
}

/// `sᵢ = (1/K) Σⱼ (Mᵢⱼ − Mⱼᵢ)` of a pairwise model's logits, both orders averaged.
///
/// # Errors
/// Fewer than two answers, a table that is not square, a logit that is not finite.
pub fn pair_rm_scores(logits: &[Vec<f64>]) -> Result<Vec<f64>, PairwiseError> {
    check_logits(logits)?;
    let k = logits.len();
    let difference = |i: usize| (0..k).map(|j| logits[i][j] - logits[j][i]).sum::<f64>() / k as f64;
    Ok((0..k).map(difference).collect())
}

/// Every two of `k` answers once: (0, 1), (0, 2), …, (1, 2), …
pub fn pairs(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k).flat_map(move |i| (i + 1..k).map(move |j| (i, j)))
}

fn enough(what: &'static str, found: usize) -> Result<(), PairwiseError> {
    if found < 2 { Err(PairwiseError::TooFew { what, found }) } else { Ok(()) }
}

fn square(what: &'static str, rows: &[Vec<f64>]) -> Result<(), PairwiseError> {
    let expected = rows.len();
    enough(what, expected)?;
    match rows.iter().position(|row| row.len() != expected) {
        Some(row) => Err(PairwiseError::NotSquare { what, row, expected, found: rows[row].len() }),
        None => Ok(()),
    }
}

fn check(
    rows: &[Vec<f64>],
    what: &'static str,
    expected: &'static str,
    valid: impl Fn(f64) -> bool,
) -> Result<(), PairwiseError> {
    for (row, entries) in rows.iter().enumerate() {
        if let Some(column) = entries.iter().position(|x| !valid(*x)) {
            return Err(PairwiseError::Entry { what, row, column, expected, found: entries[column] });
        }
    }
    Ok(())
}

fn check_logits(logits: &[Vec<f64>]) -> Result<(), PairwiseError> {
    square("logits", logits)?;
    check(logits, "logits", "a finite number", f64::is_finite)
}

fn check_scores(scores: &[f64]) -> Result<(), PairwiseError> {
    enough("scores", scores.len())?;
    match scores.iter().position(|s| !s.is_finite()) {
        Some(index) => Err(PairwiseError::Score { index, found: scores[index] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
