//! The crate's tests across modules: pairwise training, the bag of words, folds.

mod bag;
mod pairwise;
