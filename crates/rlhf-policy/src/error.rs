//! What can go wrong with a model folder, a tokenizer or a prompt.

use std::path::{Path, PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of a model's config.
    #[error("config.json: {field}: expected {expected}, found {found}")]
    Config {
        /// The key.
        field: String,
        /// What is accepted.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A parameter that is missing, of another shape, or unknown.
    #[error("tensor {name}: expected {expected}, found {found}")]
    Tensor {
        /// Checkpoint name.
        name: String,
        /// Shape or state that is needed.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A file that cannot be read, written or understood.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done and what came of it.
        what: String,
    },
    /// A prompt that cannot be continued.
    #[error("prompt {index}: expected 1 to {limit} tokens, found {length}")]
    Prompt {
        /// Place in the list of prompts, from 0.
        index: usize,
        /// Its tokens.
        length: usize,
        /// Most tokens that leave room for the completion.
        limit: usize,
    },
    /// Something asked of a model that it cannot do.
    #[error("{what}: expected {expected}, found {found}")]
    Request {
        /// What was asked.
        what: String,
        /// What the model can do.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// Logits or another number of the model that is NaN or infinite.
    #[error("{what}: expected finite numbers, found {value}")]
    NotFinite {
        /// Which number.
        what: String,
        /// NaN or infinity.
        value: f64,
    },
}

impl Error {
    /// A config error.
    pub fn config(
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Config { field: field.into(), expected: expected.into(), found: found.to_string() }
    }

    /// The same error, as one of the file at `path` where it is one of a config's field.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Config { field, expected, found } => {
                Self::file(path, format!("{field}: expected {expected}, found {found}"))
            }
            other => other,
        }
    }

    /// A file error.
    pub fn file(path: impl AsRef<Path>, what: impl std::fmt::Display) -> Self {
        Self::File { path: path.as_ref().to_owned(), what: what.to_string() }
    }
}
