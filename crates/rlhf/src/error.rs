//! What ends a run, whose mistake it is, and the exit code that says so.

use std::io;
use std::path::{Path, PathBuf};

/// Everything a pipeline or a command can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A config, a flag or a path that the user gave and that cannot be used.
    #[error("{place}: {field}: expected {expected}, found {found}")]
    Config {
        /// File, or `command line`.
        place: String,
        /// Key, flag or argument.
        field: String,
        /// What is accepted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A record of a data file.
    #[error("{}:{line}: {field}: expected {expected}, found {found}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Line or row, from 1; 0 when the file as a whole is meant.
        line: usize,
        /// Column or key.
        field: String,
        /// What is accepted.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The disk, a stream, a process.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as in `writing`.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// A number that is not finite: the run stops at the step and keeps its last checkpoint.
    #[error("step {step}: {term}: expected a finite number, found {value}")]
    NotFinite {
        /// The step.
        step: u64,
        /// Which term of the loss, reward or metric.
        term: String,
        /// NaN or infinity.
        value: f64,
    },
    /// Stopped by Ctrl-C or SIGTERM after the state was saved.
    #[error("interrupted at step {step}; state saved in {}: continue with --resume", folder.display())]
    Interrupted {
        /// The last finished step.
        step: u64,
        /// The run folder.
        folder: PathBuf,
    },
    /// Anything else that was checked and does not hold; the text says what was expected and found.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A config error.
    pub fn config(
        place: impl Into<String>,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Config {
            place: place.into(),
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// A data error.
    pub fn record(
        path: impl AsRef<Path>,
        line: usize,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Record {
            path: path.as_ref().to_owned(),
            line,
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// An error of the operating system.
    pub fn io(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { doing, path: path.as_ref().to_owned(), source }
    }

    /// 2 for a usage or config error, 130 after an interrupt, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } => 2,
            Self::Interrupted { .. } => 130,
            _ => 1,
        }
    }
}

impl From<rlhf_selfplay::error::StepError> for Error {
    fn from(e: rlhf_selfplay::error::StepError) -> Self {
        Self::Failed(e.to_string())
    }
}

impl From<rlhf_policy::error::Error> for Error {
    fn from(e: rlhf_policy::error::Error) -> Self {
        Self::Failed(e.to_string())
    }
}
