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
mod rewards;
mod summary;
mod trends;

pub use cell::Cell;
pub use evaluate::{Evaluation, Figures};
pub use summary::{Baseline, RewardFigures};

use super::Outcome;
use super::ground::{self, Ground};
use super::models::Scorer;
use super::session::Session;
use crate::config::SuperhfPipeline;
use crate::error::Error;

/// Runs the pipeline to its report.
///
/// # Errors
/// Whatever stops it; the run folder then holds what `--resume` needs.
pub fn run(config: &SuperhfPipeline, mut session: Session) -> Result<Outcome, Error> {
    // prompts
    let (ground, start) = ground::prepared(&config.common(), &mut session)?;
    // rewards
    let gold = ground.data.gold.rule().map(Scorer::Gold);
    let mut setting = Setting { ground, proxy: None, judge: None, gold };
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

/// The fixed surroundings of the loop.
#[derive(Debug)]
pub struct Setting {
    /// Texts, tokenizer, p₀.
    pub ground: Ground,
    /// The reward that trains.
    pub proxy: Option<Scorer>,
    /// The reward that judges.
    pub judge: Option<Scorer>,
    /// The truth, where it is a rule.
    pub gold: Option<Scorer>,
}
