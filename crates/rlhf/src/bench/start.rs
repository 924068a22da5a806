//! From the start of a process to its first generated token.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::hf;
use rlhf_policy::tokenizer::{Specials, Tokenizer};
use rlhf_policy::weights::parameters;

use crate::error::Error;

/// A model folder and the program that reads it.
pub(super) struct Start {
    folder: tempfile::TempDir,
}

impl Start {
    /// Saves `policy` with a byte tokenizer.
    pub(super) fn new(config: &DecoderConfig, policy: &Decoder) -> Result<Self, Error> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("making", "a temporary folder", e))?;
        hf::save(folder.path(), config, ModelKind::Causal, &parameters(policy))?;
        let texts = ["a prompt of a few words"];
        Tokenizer::train(texts.iter(), 300, &Specials::gpt2())?.save(folder.path())?;
        Ok(Self { folder })
    }

    /// Seconds until `rlhf generate` has written one token.
    pub(super) fn once(&self) -> Result<f64, Error> {
        let program = std::env::current_exe().map_err(|e| Error::io("finding", "this program", e))?;
        let started = Instant::now();
        let status = command(&program, self.folder.path()).status();
        let status = status.map_err(|e| Error::io("starting", &program, e))?;
        let seconds = started.elapsed().as_secs_f64();
        if status.success() { Ok(seconds) } else { Err(Error::Failed(format!("rlhf generate: {status}"))) }
    }
}

fn command(program: &Path, model: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["generate", "--prompt", "a prompt of a few words", "--max-new-tokens", "1"]);
    command.arg("--model").arg(model).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
