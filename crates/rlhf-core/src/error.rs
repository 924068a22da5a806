//! A number outside its range.

/// A number that a ranged type refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct NumError {
    /// The type's name.
    pub what: &'static str,
    /// Its range, in words.
    pub expected: &'static str,
    /// The number given.
    pub found: f64,
}
