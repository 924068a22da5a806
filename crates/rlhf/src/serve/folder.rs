//! `rlhf init` and `rlhf convert`: model folders made and written anew.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::hf::{self, Saving};
use rlhf_policy::lora::{LoraConfig, Merged, Task};
use rlhf_policy::weights::parameters;

use crate::error::Error;
use crate::pipeline::models;

/// Files that go with a model unchanged.
const BESIDE: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// Makes a scratch-initialised model folder from a `config.json`: a classifier where `architectures`
/// names one, else a language model.
///
/// # Errors
/// A config that cannot be used, a model larger than memory, a folder that holds something already.
pub fn init(config: &Path, seed: u64, dir: &Path, device: &Device) -> Result<PathBuf, Error> {
    let config = DecoderConfig::load_file(config)?;
    check_new(dir)?;
    check_room(&config)?;
    let kind = config.kind();
    let all = match kind {
        ModelKind::Causal => parameters(&models::scratch_decoder(&config, seed, device)?),
        ModelKind::Classifier { labels } => {
            parameters(&models::scratch_classifier(&config, labels, seed, device)?)
        }
    };
    hf::save(dir, &config, kind, &all)?;
    Ok(dir.to_owned())
}

/// Reads the model folder `from` and writes it to `dir` as `how` says, its tokenizer with it. An
/// adapter is folded into its base.
///
/// # Errors
/// A model folder that cannot be used, a folder that holds something already, a number beyond the
/// range of the type.
pub fn convert(from: &Path, dir: &Path, how: &Saving, device: &Device) -> Result<PathBuf, Error> {
    check_new(dir)?;
    let is_classifier = if LoraConfig::is_in(from) {
        LoraConfig::load(from)?.task_type == Some(Task::Classifier)
    } else {
        DecoderConfig::load(from)?.kind() != ModelKind::Causal
    };
    let (config, kind, all) = if is_classifier {
        let Merged { model, config } = models::open_classifier(from, device)?;
        (config, ModelKind::Classifier { labels: model.labels() }, parameters(&model))
    } else {
        let Merged { model, config } = models::open_decoder(from, device)?;
        (config, ModelKind::Causal, parameters(&model))
    };
    hf::save_as(dir, &config, kind, &all, how)?;
    for name in BESIDE {
        let (source, target) = (models::folder_of(from, name)?.join(name), dir.join(name));
        if source.exists() {
            let bytes = fs::read(&source).map_err(|e| Error::io("reading", &source, e))?;
            crate::run::atomic::write(&target, &bytes)?;
        }
    }
    Ok(dir.to_owned())
}

fn check_new(dir: &Path) -> Result<(), Error> {
    if dir.exists() && fs::read_dir(dir).map_err(|e| Error::io("reading", dir, e))?.next().is_some() {
        let found = format!("{}, which holds files", dir.display());
        return Err(Error::config("command line", "--out", "a new or empty folder", found));
    }
    Ok(())
}

/// Whether the weights and their copy on the way to the disk fit into what memory is left, where the
/// system tells.
fn check_room(config: &DecoderConfig) -> Result<(), Error> {
    let needed = config.architecture().n_parameters().and_then(|n| n.checked_mul(8));
    match (needed, available()) {
        (Some(needed), Some(available)) if needed <= available => Ok(()),
        (_, None) => Ok(()),
        (needed, Some(available)) => {
            let found = needed.map_or_else(|| "more".to_owned(), |n| format!("{} MiB", n >> 20));
            let expected = format!("a model whose weights fit twice into {} MiB of memory", available >> 20);
            Err(Error::config("config.json", "(sizes)", expected, found))
        }
    }
}

/// Bytes of memory that are free or can be freed.
fn available() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}
