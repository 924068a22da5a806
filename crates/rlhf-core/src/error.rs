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

impl NumError {
    /// The same refusal under the name of the argument or field that held the number.
    #[must_use]
    pub fn named(self, what: &'static str) -> Self {
        Self { what, ..self }
    }
}
