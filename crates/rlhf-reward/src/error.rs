//! What can go wrong with a reward model.

/// Errors of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Fewer examples than a fit or a split needs.
    #[error("{what}: expected at least {expected} examples, found {found}")]
    TooFew {
        /// The fit or the split.
        what: &'static str,
        /// Fewest that do.
        expected: usize,
        /// Those given.
        found: usize,
    },
    /// A target or a reward that is NaN or infinite.
    #[error("{what} {index}: expected a finite number, found {found}")]
    NotFinite {
        /// The number's role.
        what: &'static str,
        /// Place of the example, from 0.
        index: usize,
        /// NaN or infinity.
        found: f64,
    },
    /// A prompt whose answer is not known.
    #[error("{what}: expected a known answer to the prompt {prompt:?}, found none")]
    NoAnswer {
        /// The verifier.
        what: &'static str,
        /// The prompt.
        prompt: String,
    },
    /// A known answer that a verifier cannot use.
    #[error("{what}: answer to the prompt {prompt:?}: expected a number, found {found}")]
    Answer {
        /// The verifier.
        what: &'static str,
        /// The prompt.
        prompt: String,
        /// The answer as it was given.
        found: String,
    },
    /// A part of a weighted reward that failed.
    #[error("reward {name:?}: {message}")]
    Part {
        /// The part's name.
        name: String,
        /// Its own words.
        message: String,
    },
    /// A record of a table of judged pairs.
    #[error("record {line}: {field}: expected {expected}, found {found}")]
    Record {
        /// Its line, or its place, from 1.
        line: usize,
        /// The field at fault.
        field: &'static str,
        /// What is accepted.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A joint row of two answers that is too short.
    #[error("joint row: expected room for at least {expected} tokens, found {found}")]
    Room {
        /// Fewest that do.
        expected: usize,
        /// Those given.
        found: usize,
    },
}
