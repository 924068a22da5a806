//! The crate's tests across modules: pairwise training of three kinds, the bag of words, folds.

mod bag;
mod general;
mod pairwise;
