//! What can go wrong before the first rollout, and in one.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A schedule that the model's blocks cannot follow.
    #[error("schedule: {field}: expected {expected}, found {found}")]
    Schedule {
        /// The key.
        field: &'static str,
        /// What the number of blocks allows.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// Sampling and correction that do not go together.
    #[error("{what}: expected {expected}, found {found}")]
    Behavior {
        /// The key.
        what: &'static str,
        /// What the other allows.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// The model, in a rollout.
    #[error(transparent)]
    Policy(#[from] rlhf_policy::error::Error),
}

impl Error {
    pub(crate) fn schedule(
        field: &'static str,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Schedule { field, expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn behavior(
        what: &'static str,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Behavior { what, expected: expected.into(), found: found.to_string() }
    }
}
