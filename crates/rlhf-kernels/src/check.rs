//! Shapes at the door of each function.

/// `found` must be `expected`.
#[track_caller]
pub(crate) fn same<const D: usize>(function: &str, argument: &str, found: [usize; D], expected: [usize; D]) {
    assert!(found == expected, "{function}: {argument}: expected shape {expected:?}, found {found:?}");
}

/// The last axis of `shape`, which must not be empty.
#[track_caller]
pub(crate) fn last<const D: usize>(function: &str, argument: &str, shape: [usize; D]) -> usize {
    let last = shape.last().copied().unwrap_or(0);
    assert!(
        last > 0,
        "{function}: {argument}: expected a last axis that is not empty, found shape {shape:?}"
    );
    last
}
