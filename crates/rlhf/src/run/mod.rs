//! A run is a folder: its config, its steps, its checkpoints and its result, safe against being killed.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use rlhf::run::{Run, Section, StepRecord};
//!
//! # let dir = tempfile::tempdir()?;
//! # let out = dir.path().join("run");
//! let mut run = Run::create(&out, "seed = 1\n")?;
//! run.log(&StepRecord::new(1, "sft").value("loss", 0.7))?;
//! run.checkpoint(1, &[Section { name: "state", bytes: b"after step 1" }])?;
//! run.log(&StepRecord::new(2, "sft").value("loss", 0.6))?;
//! drop(run); // killed here
//!
//! let resumed = Run::resume(&out, "seed = 1\n")?;
//! assert_eq!(resumed.checkpoint.ok_or("no checkpoint")?.section("state")?, b"after step 1");
//! let mut run = resumed.run; // step 2 is gone from steps.jsonl
//! run.log(&StepRecord::new(2, "sft").value("loss", 0.6))?;
//! run.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! What makes a resumed run end in the bytes of one that was never killed: a checkpoint says how long the
//! logs were when it was written, and a resume cuts them back to that. The rest is the pipeline's: its state
//! between two steps must be a function of the config and of the sections it saves.

mod folder;
mod log;

pub mod atomic;
pub mod checkpoint;
pub mod compare;
pub mod interrupt;
pub mod progress;
pub mod steps;
pub mod tensorboard;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use checkpoint::{Checkpoint, CheckpointStore, Damage, Section};
pub use folder::{RunFolder, RunPaths};
pub use interrupt::interrupted;
pub use log::Mark;
pub use progress::Progress;
pub use steps::{StepRecord, StepsWriter, read_records};

use crate::error::Error;
use tensorboard::{EVENTS_FILE, EventsWriter};

/// Checkpoints kept unless [`Run::keep`] says otherwise: one, and one before it in case it is damaged.
pub const KEPT_CHECKPOINTS: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");

/// The section in which a run keeps the marks of its own files.
const MARKS: &str = "rlhf/marks";

#[derive(Debug, Serialize, Deserialize)]
struct Marks {
    steps: Mark,
    events: Mark,
}

/// A run that is being written.
#[derive(Debug)]
pub struct Run {
    folder: RunFolder,
    checkpoints: CheckpointStore,
    steps: StepsWriter,
    events: EventsWriter,
    now: fn() -> f64,
}

/// A run that goes on.
#[derive(Debug)]
pub struct Resumed {
    /// The run, its logs cut back to the checkpoint.
    pub run: Run,
    /// Where to go on from; `None` when the run stopped before its first checkpoint: from the beginning.
    pub checkpoint: Option<Checkpoint>,
    /// What the user should know: damaged checkpoints that were passed over, a log that was written anew.
    pub warnings: Vec<String>,
}

impl Run {
    /// Begins a run in the new or empty folder `out`; `config_text` becomes its `config.toml`.
    ///
    /// # Errors
    ///
    /// As [`RunFolder::create`].
    pub fn create(out: impl Into<PathBuf>, config_text: &str) -> Result<Self, Error> {
        Self::begin(RunFolder::create(out, config_text)?, seconds_since_1970)
    }

    /// Goes on with the run in the folder `out`, from its newest intact checkpoint. Damaged ones are renamed
    /// to `….damaged`.
    ///
    /// # Errors
    ///
    /// As [`RunFolder::open`], and [`Error::Failed`] when there are checkpoints and none can be used.
    pub fn resume(out: impl Into<PathBuf>, config_text: &str) -> Result<Resumed, Error> {
        Self::resume_at(out.into(), config_text, seconds_since_1970)
    }

    fn begin(folder: RunFolder, now: fn() -> f64) -> Result<Self, Error> {
        let paths = folder.paths();
        Ok(Self {
            checkpoints: CheckpointStore::new(paths.checkpoints(), KEPT_CHECKPOINTS),
            steps: StepsWriter::create(&paths.steps())?,
            events: EventsWriter::create(&paths.tensorboard().join(EVENTS_FILE), now())?,
            folder,
            now,
        })
    }

    fn resume_at(out: PathBuf, config_text: &str, now: fn() -> f64) -> Result<Resumed, Error> {
        let folder = RunFolder::open(out, config_text)?;
        let paths = folder.paths().clone();
        let checkpoints = CheckpointStore::new(paths.checkpoints(), KEPT_CHECKPOINTS);
        let latest = checkpoints.latest_where(|c| log::check(&paths.steps(), &marks(c)?.steps))?;
        checkpoints.set_aside(&latest.damaged)?;
        let mut warnings: Vec<_> = latest.damaged.iter().map(ToString::to_string).collect();
        let Some(mut checkpoint) = latest.checkpoint else {
            return Ok(Resumed { run: Self::begin(folder, now)?, checkpoint: None, warnings });
        };
        let marks = marks(&checkpoint).map_err(Error::Failed)?;
        checkpoint.sections.remove(MARKS);
        let steps = StepsWriter::reopen(&paths.steps(), &marks.steps)?;
        let events_path = paths.tensorboard().join(EVENTS_FILE);
        let events = match log::check(&events_path, &marks.events) {
            Ok(()) => EventsWriter::reopen(&events_path, &marks.events)?,
            Err(what) => {
                warnings.push(format!("{what}: written anew from steps.jsonl"));
                rewrite_events(&events_path, &paths.steps(), now)?
            }
        };
        let run = Self { folder, checkpoints, steps, events, now };
        Ok(Resumed { run, checkpoint: Some(checkpoint), warnings })
    }

    /// Keeps the last `n` checkpoints from now on.
    pub fn keep(&mut self, n: NonZeroUsize) {
        self.checkpoints = CheckpointStore::new(self.paths().checkpoints(), n);
    }

    /// Where the files of the run lie.
    pub fn paths(&self) -> &RunPaths {
        self.folder.paths()
    }

    /// Adds a line to `steps.jsonl` and the same numbers to the TensorBoard events.
    ///
    /// # Panics
    ///
    /// As [`StepsWriter::append`].
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] for NaN and infinity, with nothing written; [`Error::Io`].
    #[track_caller]
    pub fn log(&mut self, record: &StepRecord) -> Result<(), Error> {
        self.steps.append(record)?;
        self.events.append(record, (self.now)())
    }

    /// Saves the state after `step`: what `sections` hold, and how long the logs are.
    ///
    /// # Panics
    ///
    /// When two sections have one name, or one has the run's own, `rlhf/marks`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the checkpoints that were there are then still there.
    #[track_caller]
    pub fn checkpoint(&mut self, step: u64, sections: &[Section<'_>]) -> Result<(), Error> {
        let marks = Marks { steps: self.steps.sync()?, events: self.events.sync()? };
        let marks =
            serde_json::to_vec(&marks).map_err(|e| Error::Failed(format!("marks of the logs: {e}")))?;
        let mut all = vec![Section { name: MARKS, bytes: &marks }];
        all.extend_from_slice(sections);
        self.checkpoints.save(step, &all).map(drop)
    }

    /// The error to return when a signal asked the run to stop and the state after `step` is saved.
    pub fn stopped_at(&self, step: u64) -> Error {
        Error::Interrupted { step, folder: self.paths().root().to_owned() }
    }

    /// Waits until the logs are on the disk; the last thing a pipeline does.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(), Error> {
        self.steps.sync()?;
        self.events.sync()?;
        Ok(())
    }
}

fn marks(checkpoint: &Checkpoint) -> Result<Marks, String> {
    let bytes = checkpoint.section(MARKS).map_err(|e| e.to_string())?;
    serde_json::from_slice(bytes).map_err(|e| format!("section {MARKS:?}: {e}"))
}

/// Events say nothing that the steps do not, so their loss is no reason to lose the run.
fn rewrite_events(path: &Path, steps: &Path, now: fn() -> f64) -> Result<EventsWriter, Error> {
    let mut events = EventsWriter::create(path, now())?;
    for record in read_records(steps)? {
        events.append(&record, now())?;
    }
    Ok(events)
}

fn seconds_since_1970() -> f64 {
    // A clock before 1970 is a wrong clock; TensorBoard then shows wrong times, and nothing else depends on it.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests;
