//! What is wrong with a game, and where.

/// A number of a game, a policy or a method that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: expected {expected}, found {found}")]
pub struct GameError {
    /// The entry, as in `P[0][2]` or `mu[1]`, or the step.
    pub place: String,
    /// What is accepted.
    pub expected: String,
    /// What was given.
    pub found: String,
}

impl GameError {
    pub(super) fn new(
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { place: place.into(), expected: expected.into(), found: found.into() }
    }
}
