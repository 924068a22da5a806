//! Words, contracts, host arithmetic and losses for aligning language models.
//!
//! Axes are written the same everywhere: B batch, T time, V vocabulary, G group, M scored tokens.
//! Log-probabilities are in nats. Losses return one number an example or a token; the caller
//! reduces, because in this field the normaliser is part of the algorithm. Each loss file opens
//! with its equation and holds a scalar `f64` twin, which is the definition, beside the tensor code
//! (feature `burn`, on by default).
//!
//! ```
//! use rlhf_core::loss::bradley_terry::bradley_terry_scalar;
//!
//! // A gap of 1: log(1 + e^-1).
//! let loss = bradley_terry_scalar(Default::default(), [2.0, 1.0f64], 0.0);
//! assert!((loss - 0.31326168751822286).abs() < 1e-15);
//! ```

pub mod contract;
#[cfg(feature = "burn")]
pub mod elementwise;
pub mod error;
pub mod fused;
pub mod host;
pub mod logp;
pub mod loss;
pub mod mask;
pub mod number;
pub mod pair;
pub mod preset;
pub mod real;
pub mod rng;
#[cfg(feature = "burn")]
pub mod shape;
pub mod token;
