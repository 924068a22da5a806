//! The variants of a sweep.

use crate::error::Error;

/// Whether variants of these names can be told apart, in phases' names too.
///
/// # Errors
/// [`Error::Config`] that names the variant; none at all.
pub(super) fn check_names(names: &[&str]) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::config("config", "variants", "at least one", "none"));
    }
    for (i, name) in names.iter().enumerate() {
        let wrong =
            |expected, found| Err(Error::config("config", format!("variants[{i}].name"), expected, found));
        if names[..i].contains(name) {
            return wrong("a name of its own", format!("{name:?} again"));
        }
        if name.is_empty() || name.contains('/') {
            return wrong("a name, without `/`", format!("{name:?}"));
        }
    }
    Ok(())
}
