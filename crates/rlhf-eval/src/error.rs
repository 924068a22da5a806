//! What can go wrong, and whose mistake it is.

/// Data that a statistic is not defined for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Fewer values than the statistic needs.
    #[error("{what}: expected at least {expected} values, found {found}")]
    TooFew {
        /// The statistic or the argument.
        what: &'static str,
        /// Fewest values it is defined for.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A value that is NaN or infinite.
    #[error("{what}: expected finite values, found {found} at index {index}")]
    NotFinite {
        /// The statistic or the argument.
        what: &'static str,
        /// Place of the value, from 0.
        index: usize,
        /// The value.
        found: f64,
    },
    /// Two arguments that belong together differ in length.
    #[error("{what}: expected two slices of one length, found {left} and {right}")]
    Lengths {
        /// The statistic.
        what: &'static str,
        /// Length of the first argument.
        left: usize,
        /// Length of the second argument.
        right: usize,
    },
    /// All values are equal, so there is nothing to correlate.
    #[error("{what}: expected values that differ, found {found} everywhere")]
    Constant {
        /// The statistic and the argument.
        what: &'static str,
        /// The one value.
        found: f64,
    },
    /// A value of a slice that is outside its range.
    #[error("{what}: expected {expected}, found {found} at index {index}")]
    Value {
        /// The statistic or the argument.
        what: &'static str,
        /// Place of the value, from 0.
        index: usize,
        /// Its range, in words.
        expected: &'static str,
        /// The value.
        found: f64,
    },
    /// A number outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    Range {
        /// The argument.
        what: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The number given.
        found: f64,
    },
}

/// A report that cannot be drawn, written or read. Every place is named by title: report, section, block, row.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// No report was given.
    #[error("report page: expected at least one report, found none")]
    Empty,
    /// A row that is longer or shorter than its header.
    #[error("{place}: expected {expected} cells as in the header, found {found}")]
    Ragged {
        /// Where the row stands.
        place: String,
        /// Cells of the header.
        expected: usize,
        /// Cells of the row.
        found: usize,
    },
    /// A value that cannot be shown: NaN, infinite, an interval the wrong way round, a missing name.
    #[error("{place}: expected {expected}, found {found}")]
    Value {
        /// Where the value stands.
        place: String,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The drawing library failed.
    #[error("plot {plot:?}: {reason}")]
    Draw {
        /// Title of the plot.
        plot: String,
        /// What the drawing library says.
        reason: String,
    },
    /// The page template failed.
    #[error("report page: {reason}")]
    Page {
        /// What the template engine says.
        reason: String,
    },
    /// A report file that is not one.
    #[error("report.json: {reason}")]
    Json {
        /// What was expected and found, with line and column.
        reason: String,
    },
}
