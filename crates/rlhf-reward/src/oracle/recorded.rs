//! A table of judged pairs.

use std::collections::HashMap;
use std::io::BufRead;

use rlhf_core::contract::{Comparison, PreferenceOracle};
use rlhf_core::number::Prob;
use serde::{Deserialize, Serialize};

use super::PairFault;
use crate::error::Error;

/// How far two records of one pair may lie apart: the rounding of `1 − p`.
const SAME: f64 = 1e-9;

/// One judged pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// What both answer.
    pub prompt: String,
    /// The first answer.
    pub a: String,
    /// The second answer.
    pub b: String,
    /// P(a ≻ b).
    pub preference: Prob,
}

/// Preferences that were recorded, by the texts of prompt and answers. Asked in either order; an answer
/// against itself has ½ without a record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recorded {
    /// P(a ≻ b), a before b in the order of their bytes.
    table: HashMap<[String; 3], f64>,
}

impl Recorded {
    /// The table of `records`. One pair may stand in it more than once, in either order, if all records
    /// say the same.
    ///
    /// # Errors
    /// [`Error::Record`] with the record's place from 1: two records of one pair that contradict each other, an
    /// answer that is not even with itself.
    pub fn new(records: impl IntoIterator<Item = Judgement>) -> Result<Self, Error> {
        let mut recorded = Self::default();
        for (i, record) in records.into_iter().enumerate() {
            recorded.insert(i + 1, record)?;
        }
        Ok(recorded)
    }

    /// Reads `{"prompt": …, "a": …, "b": …, "preference": …}`, one object a line; blank lines are passed
    /// over.
    ///
    /// # Errors
    /// [`Error::Record`] with the line, from 1: one that cannot be read or is no such object, and those of
    /// [`Recorded::new`].
    pub fn from_jsonl(lines: impl BufRead) -> Result<Self, Error> {
        let mut recorded = Self::default();
        for (i, line) in lines.lines().enumerate() {
            let fault = |found: String| {
                let expected = "an object of prompt, a, b and preference".to_owned();
                Error::Record { line: i + 1, field: "(line)", expected, found }
            };
            let line = line.map_err(|e| fault(e.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            recorded.insert(i + 1, serde_json::from_str(&line).map_err(|e| fault(e.to_string()))?)?;
        }
        Ok(recorded)
    }

    /// Pairs that were judged.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn insert(&mut self, line: usize, record: Judgement) -> Result<(), Error> {
        let Judgement { prompt, a, b, preference } = record;
        let contradiction = |expected: String, found: f64| {
            let found = format!("{found} (prompt {prompt:?}, a {a:?}, b {b:?})");
            Err(Error::Record { line, field: "preference", expected, found })
        };
        let p = preference.get();
        if a == b && (p - 0.5).abs() > SAME {
            return contradiction("0.5 for an answer against itself".to_owned(), p);
        }
        let (key, stored) = turned(&prompt, &a, &b, p);
        match self.table.get(&key) {
            Some(before) if (before - stored).abs() > SAME => {
                let said = if a <= b { *before } else { 1.0 - before };
                contradiction(format!("{said}, as an earlier record of this pair says"), p)
            }
            Some(_) => Ok(()),
            None => {
                self.table.insert(key, stored);
                Ok(())
            }
        }
    }

    fn look_up(&self, pair: &Comparison<'_>) -> Result<Prob, PairFault> {
        let (prompt, a, b) = (pair.a.prompt, pair.a.completion, pair.b.completion);
        let (key, _) = turned(prompt, a, b, 0.5);
        let found = match self.table.get(&key) {
            Some(p) if a <= b => *p,
            Some(p) => 1.0 - p,
            None if a == b => 0.5,
            None => return Err(PairFault::new(pair, "a recorded pair", "none")),
        };
        Prob::new(found).map_err(|e| PairFault::new(pair, "a number from 0 to 1", e.to_string()))
    }
}

/// The pair with the smaller answer first, and its preference.
fn turned(prompt: &str, a: &str, b: &str, p: f64) -> ([String; 3], f64) {
    let (first, second, p) = if a <= b { (a, b, p) } else { (b, a, 1.0 - p) };
    ([prompt, first, second].map(str::to_owned), p)
}

impl PreferenceOracle for Recorded {
    type Error = PairFault;

    fn prefer(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<Prob>, PairFault> {
        pairs.iter().map(|pair| self.look_up(pair)).collect()
    }
}
