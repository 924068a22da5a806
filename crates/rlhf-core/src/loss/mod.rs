//! Losses: one file each, with its equation, its scalar definition and its tensor function.

pub mod bradley_terry;
pub mod cross_entropy;
pub mod dft;
pub mod regression;
pub mod superhf;
