//! Host arithmetic: numbers and slices in `f64`, no Burn.

pub mod adamw;
pub mod best_of_n;
pub mod kl;
pub mod sampling;
pub mod schedule;
pub mod select;
pub mod stable;
