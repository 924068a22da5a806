//! The pipelines: each one visible loop over the crates' functions.

pub mod fit;
pub mod ground;
pub mod grpo;
pub mod models;
mod page;
pub mod preference;
pub mod reward;
pub mod rspo;
pub mod session;
pub mod superhf;
pub mod sweep;
mod verdict;

use std::path::Path;

use crate::config::{Effective, Pipeline};
use crate::error::Error;
use session::Session;

/// What a pipeline ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Lines for the terminal: a table of the result.
    pub summary: Vec<String>,
}

/// Whether a run folder is begun or continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The folder must be new or empty.
    Fresh,
    /// The folder holds a run with the same config.
    Resume,
}

/// Runs a pipeline into the folder `out`.
///
/// # Errors
/// Whatever stops it; the folder then holds what a resume needs.
pub fn run(effective: &Effective, out: &Path, start: Start) -> Result<Outcome, Error> {
    match &effective.pipeline {
        Pipeline::Superhf(config) => {
            let mut session = Session::open(out, &effective.text, start, &config.device, config.threads)?;
            session.keep(config.checkpoint.keep);
            superhf::run(config, session)
        }
        Pipeline::Grpo(config) => {
            let mut session = Session::open(out, &effective.text, start, &config.device, config.threads)?;
            session.keep(config.checkpoint.keep);
            grpo::run(config, session)
        }
        Pipeline::Rspo(config) => {
            let mut session = Session::open(out, &effective.text, start, &config.device, config.threads)?;
            session.keep(config.checkpoint.keep);
            rspo::run(config, session)
        }
        Pipeline::Reward(config) => {
            let mut session = Session::open(out, &effective.text, start, &config.device, config.threads)?;
            session.keep(config.checkpoint.keep);
            reward::run(config, session)
        }
    }
}
