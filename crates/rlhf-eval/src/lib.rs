//! Evaluation of aligned language models: text metrics, statistics with their intervals, and report pages.
//! Plain numbers and text in, plain structs out; it builds without Burn.
//!
//! ```
//! use rlhf_eval::stats::{LEVEL_95, pairwise_accuracy, wilson};
//! use rlhf_eval::text::{Completion, self_similarity_all};
//!
//! // A reward model puts three of four held-out pairs in order; the tie counts as wrong.
//! let accuracy = pairwise_accuracy(&[1.2, 0.4, 0.9, 0.1], &[0.3, 0.1, 0.9, -0.5])?;
//! let interval = wilson(accuracy, LEVEL_95)?;
//! assert_eq!((accuracy.hits, accuracy.total), (3, 4));
//! assert!((interval.low - 0.300_6).abs() < 1e-4 && (interval.high - 0.954_4).abs() < 1e-4);
//!
//! // A policy that answers every prompt with the same four words has collapsed: 1 - 0.5/4³.
//! let collapsed = ["Where?", "When?"].map(|prompt| Completion { prompt, text: "I do not know." });
//! assert!((self_similarity_all(&collapsed)?.mean - 0.992_187_5).abs() < 1e-12);
//! # Ok::<(), rlhf_eval::error::EvalError>(())
//! ```
//!
//! What needs random choice takes the caller's [`rand::Rng`]; nothing here reads a clock, a file or the
//! environment.

pub mod error;

pub mod stats;

pub mod text;

pub mod bleu;

pub mod length_controlled;

pub mod meteor;

pub mod stem;

pub mod win_rate;

pub mod report;
