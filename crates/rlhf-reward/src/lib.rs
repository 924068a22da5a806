//! Reward models and their training, for aligning language models.
//!
//! ```
//! use rlhf_reward::bag::{BagConfig, BagOfWords};
//!
//! let rated = [("a lovely film", 2.0), ("a lovely tale", 1.5), ("a dull film", -2.0), ("a dull tale", -1.5)];
//! let model = BagOfWords::fit_ratings(&rated, BagConfig::default()).expect("four texts");
//! assert!(model.reward("lovely") > model.reward("dull"));
//! ```

pub mod bag;
pub mod cross_encoder;
pub mod error;
pub mod features;
pub mod folds;
pub mod gpm;
pub mod linear;
pub mod oracle;
pub mod pairwise;
pub mod shape;
pub mod verify;
