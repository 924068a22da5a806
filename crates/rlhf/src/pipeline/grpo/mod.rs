//! Reinforcement on verifiable rewards: GRPO, and Nested-ReFT, whose rollouts come from a part of the policy's
//! own blocks.
//!
//! ```text
//! references → SFT policy, with stochastic depth where blocks will be left out
//! for each variant, seed:  batches of  leave blocks out → sample G → verify → advantages
//!                                      → whole policy's log-probabilities → weights → updates of all blocks
//! evaluation: the whole policy
//! ```
//!
//! Specification: Shao et al., *DeepSeekMath*, arXiv:2402.03300, section 4.1, for GRPO, by TRL's names and
//! defaults; Heuillet et al., *Nested-ReFT*, arXiv:2508.10123, for the nested policy. Two ratios are kept apart:
//! ρ, of the policy before the update to what drew the tokens, weights the loss; r, of the policy as it moves to
//! the policy before the update, is clipped.

mod blocks;
mod cell;
mod measure;
mod rollouts;
mod speed;
mod summary;
mod times;
mod trends;

pub use measure::{Evaluation, Figures};

use rlhf_nested::schedule::ScheduleConfig;

use super::Outcome;
use super::ground::{self, Ground};
use super::session::Session;
use super::sweep::Cell;
use crate::config::{GrpoPipeline, GrpoVariant};
use crate::error::Error;
use crate::task::Verify;

/// The fixed surroundings of the loop.
#[derive(Debug)]
pub struct Setting {
    /// Texts, tokenizer, the start policy.
    pub ground: Ground,
    /// The reward.
    pub verify: Verify,
}

impl Setting {
    /// Blocks of the policy.
    pub fn n_blocks(&self) -> usize {
        self.ground.decoder.architecture().layers.len()
    }
}

/// Runs the pipeline to its report.
///
/// # Errors
/// Whatever stops it; the run folder then holds what `--resume` needs.
pub fn run(config: &GrpoPipeline, mut session: Session) -> Result<Outcome, Error> {
    let common = config.common();
    // prompts, and all that can be wrong with a variant or an answer key, before anything is trained
    let ground = Ground::prepare(&common, &session)?;
    let verify = verifier(config, &ground)?;
    config.check_variants(ground.decoder.architecture().layers.len())?;
    let left_out = left_out(config, ground.decoder.architecture().layers.len());
    left_out.iter().for_each(|line| session.progress.say(&format!("rollouts: {line}")));
    // supervised fine-tuning
    let (ground, start) = ground::trained(ground, &common, &mut session)?;
    let setting = Setting { ground, verify };
    // rollouts, rewards, updates: one cell for each variant and seed
    for cell in sweep(config) {
        cell::run(config, &cell, &setting, &start, &mut session)?;
    }
    // checkpoint and report
    summary::write(config, &setting, session)
}

/// What the first batch of each variant with a schedule leaves out: k is rounded down, so that it may be less than was asked for.
fn left_out(config: &GrpoPipeline, n_blocks: usize) -> Vec<String> {
    let line = |v: &GrpoVariant| {
        let share = v.schedule.realised_ratio(n_blocks, 0);
        let k = (share * n_blocks as f64).round();
        format!("{}: {k} of {n_blocks} blocks left out of the first batch, x = {share:.3}", v.name)
    };
    let nested = config.variants.iter().filter(|v| v.schedule != ScheduleConfig::None {});
    nested.map(line).collect()
}

/// The task's verifier, which must know every prompt.
fn verifier(config: &GrpoPipeline, ground: &Ground) -> Result<Verify, Error> {
    let Some(verify) = ground.data.verify.clone() else {
        let expected = "a task whose answers can be verified: arithmetic, descriptions or word_problems";
        return Err(Error::config("config", "task.name", expected, ground.data.name.as_str()));
    };
    for prompt in ground.data.train_prompts.iter().chain(&ground.data.eval_prompts) {
        let reward = verify.verdict(prompt, "")?.reward;
        if !reward.is_finite() {
            let found = format!("{reward} of an empty completion of {prompt:?}");
            return Err(Error::Failed(format!("verifier: expected a finite reward, found {found}")));
        }
    }
    if config.grpo.prompts_per_batch.get() > ground.data.train_prompts.len() {
        let expected = format!("at most {}, the task's prompts", ground.data.train_prompts.len());
        let found = config.grpo.prompts_per_batch.to_string();
        return Err(Error::config("config", "grpo.prompts_per_batch", expected, found));
    }
    Ok(verify)
}

/// Every variant with every seed; the first cell's policy is saved.
fn sweep(config: &GrpoPipeline) -> Vec<Cell> {
    let names: Vec<&str> = config.variants.iter().map(|v| v.name.as_str()).collect();
    Cell::all("grpo", &names, config.evaluation.seeds.get())
}
