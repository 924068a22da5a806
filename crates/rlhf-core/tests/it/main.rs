//! Laws that every loss keeps.

#[cfg(feature = "burn")]
mod laws;
