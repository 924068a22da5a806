//! Shape checks at the door of each loss: Burn broadcasts a length of one in silence.

/// Panics unless `found` is `expected`.
///
/// # Panics
/// Names the loss, the argument and both shapes.
#[track_caller]
pub fn same<const D: usize>(loss: &str, argument: &str, found: [usize; D], expected: [usize; D]) {
    assert!(found == expected, "{loss}: {argument}: expected shape {expected:?}, found {found:?}");
}

/// Panics on an axis of length zero.
///
/// # Panics
/// Names the loss and the argument.
#[track_caller]
pub fn filled<const D: usize>(loss: &str, argument: &str, found: [usize; D]) {
    assert!(!found.contains(&0), "{loss}: {argument}: expected no empty axis, found shape {found:?}");
}
