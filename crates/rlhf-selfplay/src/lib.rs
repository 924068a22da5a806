//! Regularised self-play for language models: exact preference games, and what one optimiser step of RSPO
//! and its relatives computes.
//!
//! ```text
//! answers of π_t → judged (P(y ≻ y′)) → examples (win rates, log π_t, log μ) → gradients → step → π_{t+1}
//! ```
//!
//! [`game`] has the same on a softmax table, where everything is exact; it needs no model.

pub mod error;
pub mod game;
pub mod gradients;
pub mod judged;
pub mod method;
