//! What no single crate can test: the README's program.

/// The README's Rust blocks compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
