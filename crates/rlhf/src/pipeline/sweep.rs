//! A sweep: every variant of a config with every seed.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Instant;

use serde::Serialize;

use super::session::Session;
use crate::error::Error;

/// One variant with one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// What its phases' names begin with.
    pub pipeline: &'static str,
    /// Index of the variant in the config.
    pub variant: usize,
    /// Its name.
    pub name: String,
    /// Which repetition.
    pub seed: u64,
}

impl Cell {
    /// Every cell of variants of these names, seed by seed.
    pub fn all(pipeline: &'static str, names: &[&str], seeds: usize) -> Vec<Self> {
        let of = |seed| {
            let names = names.iter().enumerate();
            names.map(move |(variant, name)| Self { pipeline, variant, name: (*name).to_owned(), seed })
        };
        (0..seeds as u64).flat_map(of).collect()
    }

    /// The cell's name in `steps.jsonl`.
    pub fn phase(&self) -> String {
        format!("{}/{}/seed={}", self.pipeline, self.name, self.seed)
    }

    /// Where the cell's evaluations are kept.
    pub fn key(&self) -> String {
        format!("cell/{}", self.phase())
    }

    /// Whether its policy is the one that is saved.
    pub fn is_main(&self) -> bool {
        self.seed == 0 && self.variant == 0
    }
}

/// The numbers of a record by name; what it leaves open is left out.
///
/// # Errors
/// A record that JSON cannot hold.
pub(super) fn numbers(record: &impl Serialize) -> Result<BTreeMap<String, f64>, Error> {
    let failed = |e: serde_json::Error| Error::Failed(format!("step: {e}"));
    let value = serde_json::to_value(record).map_err(failed)?;
    let object = value.as_object().cloned().unwrap_or_default();
    // JSON has no NaN: a number that is missing here was none, and the log refuses it.
    Ok(object.into_iter().map(|(k, v)| (k, v.as_f64().unwrap_or(f64::NAN))).collect())
}

/// Whether an evaluation is due after `done` of `last` units of work: every so many, and at the end.
pub(super) fn is_due(done: u64, every: NonZeroUsize, last: u64) -> bool {
    done.is_multiple_of(every.get() as u64) || done == last
}

/// A line of `steps.jsonl` with an evaluation's figures under `eval/`, after so many units of work.
///
/// # Errors
/// A figure that is not finite; the disk.
pub(super) fn log_evaluation(
    session: &mut Session,
    phase: &str,
    figures: &BTreeMap<String, f64>,
    (unit, done): (&str, u64),
    started: Instant,
) -> Result<(), Error> {
    let values = figures.iter().map(|(k, v)| (format!("eval/{k}"), *v));
    let values = values.chain([(unit.to_owned(), done as f64)]).collect();
    let times = BTreeMap::from([("evaluation".to_owned(), started.elapsed().as_secs_f64())]);
    session.log(phase, values, times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_come_seed_by_seed_and_the_first_is_saved() {
        let all = Cell::all("rspo", &["a", "b"], 2);
        let phases: Vec<String> = all.iter().map(Cell::phase).collect();
        assert_eq!(phases, ["rspo/a/seed=0", "rspo/b/seed=0", "rspo/a/seed=1", "rspo/b/seed=1"]);
        assert_eq!(all.iter().map(Cell::is_main).collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(all[3].key(), "cell/rspo/b/seed=1");
    }

    #[test]
    fn an_evaluation_is_due_now_and_then_and_at_the_end() {
        let every = NonZeroUsize::new(3).expect("not 0");
        let due: Vec<u64> = (1..=7).filter(|done| is_due(*done, every, 7)).collect();
        assert_eq!(due, [3, 6, 7]);
    }

    #[test]
    fn what_is_no_number_is_left_for_the_log_to_refuse() {
        let found = numbers(&BTreeMap::from([("a", 1.5), ("b", f64::NAN)])).expect("a map");
        assert!((found["a"] - 1.5).abs() < 1e-15 && found["b"].is_nan());
    }
}
