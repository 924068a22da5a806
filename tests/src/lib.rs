//! What no single crate can test: the programs in the README and the guides.

/// The README's Rust blocks compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;

/// So do those of the guide to models.
#[cfg(doctest)]
#[doc = include_str!("../../docs/models.md")]
#[derive(Debug)]
pub struct Models;
