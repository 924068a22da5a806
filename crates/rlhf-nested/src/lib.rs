//! Rollouts of a part of the policy: layer schedules, nested behaviour policies, off-policy corrections.
//!
//! Nested-ReFT (Heuillet et al., arXiv:2508.10123) draws the completions of reinforced fine-tuning from
//! some of the policy's own blocks, chosen anew for every batch, and trains all of them. A batch goes
//! through four plain steps: [`Blocks::of`](behavior::Blocks::of) a schedule, the
//! [`rollouts`](behavior::rollouts) of those blocks,
//! [`NestedBatch::score`](behavior::NestedBatch::score) by the whole policy, and
//! [`correct`](step::correct), which gives [`grpo_gradients`](rlhf_policy::group::grpo_gradients) its
//! weights. Log-probabilities are in nats; ρ = π / b is the ratio of the whole policy to the blocks that
//! drew a token, r = π_θ / π that of the policy after updates to the one before.
//!
//! ```
//! use rlhf_nested::behavior::Blocks;
//! use rlhf_nested::schedule::ScheduleConfig;
//! use rlhf_core::number::Prob;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // ⌊0.3 · 8⌋ = 2 of the blocks 1 to 6, the same for the same seed and batch.
//! let config = ScheduleConfig::Uniform { ratio: Prob::new(0.3)?, border: 1 };
//! let schedule = config.build(8, 7)?;
//! let blocks = Blocks::of(schedule.as_ref(), 0, 8)?;
//! assert_eq!((blocks.skipped.len(), blocks.kept.len()), (2, 6));
//! assert!(blocks.kept.contains(&0) && blocks.kept.contains(&7));
//! # Ok(())
//! # }
//! ```

pub mod behavior;
pub mod error;
pub mod schedule;
pub mod step;
