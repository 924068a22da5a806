//! Where the time of a rollout batch goes, as `steps.jsonl` has it.
//!
//! ```text
//! end to end = completion tokens / (rollout + verify + score + update)
//! ```
//!
//! Evaluation and the whole policy's own answers, which are there to be looked at, do not count.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::pipeline::session::Session;
use crate::run::{StepRecord, read_records};

/// Parts of a batch that a run without diagnostics has too.
const PARTS: [&str; 4] = ["rollout", "verify", "score", "update"];

/// The time of one cell's batches.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Times {
    /// Seconds of each of [`PARTS`].
    seconds: [f64; 4],
    /// Completion tokens.
    tokens: f64,
    n_batches: f64,
}

impl Times {
    fn add(&mut self, record: &StepRecord) {
        let of = |name: &str| record.times.get(name).copied();
        for (sum, name) in self.seconds.iter_mut().zip(PARTS) {
            *sum += of(name).unwrap_or(0.0);
        }
        // The first update of a batch carries the rollout's figures.
        if let (Some(seconds), Some(rate)) = (of("rollout"), of("rollout_tokens_per_second")) {
            self.tokens += seconds * rate;
            self.n_batches += 1.0;
        }
    }

    /// Seconds a batch: rollout, verifier, the whole policy's log-probabilities, updates.
    pub(super) fn a_batch(&self) -> [f64; 4] {
        self.seconds.map(|s| s / self.n_batches)
    }

    /// Completion tokens a second of generation.
    pub(super) fn generated(&self) -> f64 {
        self.tokens / self.seconds[0]
    }

    /// Completion tokens a second of everything that learning from them takes.
    pub(super) fn end_to_end(&self) -> f64 {
        self.tokens / self.seconds.iter().sum::<f64>()
    }
}

/// The times by phase, those with a batch.
///
/// # Errors
/// A `steps.jsonl` that cannot be read.
pub(super) fn by_phase(session: &Session) -> Result<BTreeMap<String, Times>, Error> {
    let mut all: BTreeMap<String, Times> = BTreeMap::new();
    for record in read_records(&session.paths().steps())? {
        all.entry(record.phase.clone()).or_default().add(&record);
    }
    all.retain(|_, times| times.n_batches > 0.0);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_two_updates_counts_once() {
        let first = StepRecord::new(1, "a").time("rollout", 2.0).time("rollout_tokens_per_second", 30.0);
        let first = first.time("verify", 0.5).time("score", 1.0).time("target", 9.0).time("update", 1.0);
        let mut times = Times::default();
        times.add(&first);
        times.add(&StepRecord::new(2, "a").time("update", 1.5));
        assert_eq!(times.a_batch().map(f64::to_bits), [2.0, 0.5, 1.0, 2.5].map(f64::to_bits));
        assert_eq!(times.generated().to_bits(), 30.0_f64.to_bits());
        assert_eq!(times.end_to_end().to_bits(), 10.0_f64.to_bits());
    }
}
