//! Self-play from references and comparisons to an aligned policy: RSPO, SPPO, Nash-MD and their relatives.
//!
//! ```text
//! references → SFT policy μ = π₀
//! comparisons → preference oracle that trains, preference oracle that judges (disjoint data)
//! for each variant, seed:  iterations of  sample K → compare → win rates → examples → an epoch against π_t, μ
//! ```
//!
//! Specification: Tang et al., *Game-Theoretic Regularized Self-Play Alignment of Large Language Models*,
//! arXiv:2503.00030, and the authors' scripts. μ and the oracles never change; each iteration has its own
//! optimiser and its own course of the learning rate, as each is a run of its own there.

mod cell;
mod measure;
mod oracles;
mod rollouts;
mod summary;
mod trends;

pub use measure::{Evaluation, Figures};
pub use oracles::{PreferenceFigures, Role};

use super::Outcome;
use super::ground::{self, Answer, Ground};
use super::preference::Judge;
use super::session::Session;
use super::sweep::Cell;
use crate::config::RspoPipeline;
use crate::error::Error;

/// The fixed surroundings of the loop.
#[derive(Debug)]
pub struct Setting {
    /// Texts, tokenizer, μ.
    pub ground: Ground,
    /// The oracle that trains.
    pub proxy: Judge,
    /// The oracle that judges.
    pub judge: Judge,
    /// The start policy's answers to the evaluation prompts under the seed that was evaluated last.
    baseline: Option<(u64, Vec<Answer>)>,
}

/// Runs the pipeline to its report.
///
/// # Errors
/// Whatever stops it; the run folder then holds what `--resume` needs.
pub fn run(config: &RspoPipeline, mut session: Session) -> Result<Outcome, Error> {
    // prompts, supervised fine-tuning
    let (ground, start) = ground::prepared(&config.common(), &mut session)?;
    // preferences
    let proxy = oracles::prepared(config, &ground, &start, &mut session, Role::Proxy)?;
    let judge = oracles::prepared(config, &ground, &start, &mut session, Role::Judge)?;
    let mut setting = Setting { ground, proxy, judge, baseline: None };
    // rollouts, comparisons, steps: one cell for each variant and seed
    for cell in sweep(config) {
        cell::run(config, &cell, &mut setting, &start, &mut session)?;
    }
    // checkpoint and report
    summary::write(config, &setting, session)
}

/// Every variant with every seed; the first cell's policy is saved.
fn sweep(config: &RspoPipeline) -> Vec<Cell> {
    let names: Vec<&str> = config.variants.iter().map(|v| v.name.as_str()).collect();
    Cell::all("rspo", &names, config.evaluation.seeds.get())
}
