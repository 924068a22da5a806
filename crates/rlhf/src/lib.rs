//! Alignment of language models in Rust: configs, run folders, pipelines and the binary `rlhf`.
//!
//! The crates of the workspace are re-exported here, so that one dependency gives them all:
//!
//! ```
//! use rlhf::core::host::select::top_k;
//! assert_eq!(top_k(&[1.0, 3.0, 3.0, 2.0], 2), [1, 2]);
//! ```

pub use rlhf_core as core;
pub use rlhf_eval as eval;
pub use rlhf_nested as nested;
pub use rlhf_policy as policy;
pub use rlhf_reward as reward;
pub use rlhf_selfplay as selfplay;

pub mod bandit;
pub mod bench;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod game;
pub mod golden;
pub mod hub;
mod input;
pub mod pipeline;
pub mod plan;
pub mod run;
pub mod serve;
pub mod task;
