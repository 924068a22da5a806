//! SuperHF from references and comparisons to an aligned policy, with its baselines and a report.
//!
//! ```text
//! references → SFT policy p₀
//! comparisons → proxy reward, judge reward (disjoint data)
//! for each β, N, seed:  rounds of  sample → trim → score → keep K → fine-tune with a KL prior
//! ```
//!
//! Specification: Mukobi et al., *SuperHF*, arXiv:2310.16763. One optimiser step a minibatch, one
//! step of the schedule a round; p₀ and the rewards never change.

mod cell;
mod evaluate;
mod lengths;
mod prepare;
mod rewards;
mod summary;
mod trends;

pub use cell::Cell;
pub use evaluate::{Evaluation, Figures};
pub use prepare::{Setting, existing, task_data};
pub(in crate::pipeline) use rewards::pair_step;
pub use summary::{Baseline, RewardFigures};

use burn::module::Module;
use rlhf_policy::decoder::Decoder;

use super::Outcome;
use super::session::Session;
use crate::config::SuperhfPipeline;
use crate::error::Error;

/// Runs the pipeline to its report.
///
/// # Errors
/// Whatever stops it; the run folder then holds what `--resume` needs.
pub fn run(config: &SuperhfPipeline, mut session: Session) -> Result<Outcome, Error> {
    // prompts
    let mut setting = Setting::prepare(config, &session)?;
    for note in &setting.data.notes {
        session.progress.say(&format!("data: {note}"));
    }
    // supervised fine-tuning
    let start = prepare::sft(config, &setting, &mut session)?;
    setting.prior = start.valid_copy();
    // rewards
    rewards::train(config, &mut setting, &start, &mut session)?;
    // baselines at inference
    evaluate::baselines(config, &mut setting, &mut session)?;
    // rollouts, rewards, selection, steps: one cell for each β, N and seed
    for cell in Cell::all(config) {
        cell::run(config, &cell, &mut setting, &start, &mut session)?;
    }
    // checkpoint and report
    summary::write(config, &setting, session)
}

/// A policy as the phases hand it on: with autodiff for training.
#[derive(Debug, Clone)]
pub struct Start {
    /// On the autodiff device.
    pub policy: Decoder,
}

impl Start {
    /// The same weights on the plain device.
    pub fn valid_copy(&self) -> Decoder {
        self.policy.valid()
    }
}
