//! Host arithmetic: numbers and slices in `f64`, no Burn.

pub mod adamw;
pub mod advantage;
pub mod best_of_n;
pub mod collate;
pub mod gae;
pub mod interval;
pub mod kl;
pub mod objectives;
pub mod off_policy;
pub mod overlong;
pub mod packing;
pub mod pairwise;
pub mod preference;
pub mod ragged;
pub mod reinforce;
pub mod sampling;
pub mod schedule;
pub mod select;
pub mod stable;
pub mod token_mask;
pub mod whiten;
