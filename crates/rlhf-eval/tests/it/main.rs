//! Tests of what the crate offers, from outside.

mod report;
mod stats;
mod text;
