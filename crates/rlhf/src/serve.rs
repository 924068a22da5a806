//! The commands that ask a model folder: logits, completions, scores; and those that make one: `init`,
//! `convert`.

use std::fs;
use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::generate::{Decoding, Finish, Generation, StopStrings, generate};
use rlhf_policy::tokenizer::Tokenizer;
use serde_json::json;

use crate::error::Error;
use crate::pipeline::models::Language;

mod folder;
mod logits;
mod prompts;
mod score;

pub use folder::{convert, init};
pub use logits::logits;
pub use prompts::{PromptKind, Prompts, chats};
pub use score::score;

/// Rows of one forward pass.
const ROWS: usize = 64;

/// A file's text; bytes that are no UTF-8 are named with their line.
fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|e| Error::io("reading", path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
        let byte = e.as_bytes().get(at).copied().unwrap_or_default();
        Error::record(path, line, "(text)", "UTF-8", format!("the byte 0x{byte:02x}"))
    })
}

fn not_finite(model: &Path, what: &str, place: &str, value: f64) -> Error {
    Error::Failed(format!("{}: {what} of {place}: expected finite numbers, found {value}", model.display()))
}

/// Whether the model has every token and a place for each.
fn check_ids(input: &Path, row: usize, ids: &[u32], config: &DecoderConfig) -> Result<(), Error> {
    if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab_size()) {
        let expected = format!("token ids below {}", config.vocab_size());
        return Err(Error::record(input, row, "input_ids", expected, id.to_string()));
    }
    if ids.len() > config.max_position_embeddings() {
        let expected = format!("at most {} tokens", config.max_position_embeddings());
        return Err(Error::record(input, row, "input_ids", expected, ids.len().to_string()));
    }
    Ok(())
}

fn emit(out: &mut dyn Write, value: &serde_json::Value) -> Result<(), Error> {
    writeln!(out, "{value}").map_err(|e| Error::io("writing to", "standard output", e))
}

/// How `rlhf generate` samples.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// Temperature, top-p, top-k; temperature 0 is greedy.
    pub sampling: Sampling,
    /// Of the random streams.
    pub seed: u64,
    /// Completions a prompt.
    pub num_return_sequences: usize,
    /// Texts that end a completion where it first contains one; they stay in it.
    pub stop: Vec<String>,
}

/// Writes one JSON line a completion: `prompt`, `completion`, `token_ids`, `logprobs` (under the
/// sampling distribution, nats). A completion ends with a token of `eos_token_id` in
/// `generation_config.json`, or else in `config.json`, or else with the tokenizer's end token; how it is sampled
/// the options alone say. A sample depends on the seed, its prompt's tokens and its number among that prompt's
/// samples, not on the prompt's place among others.
///
/// # Errors
/// A model folder that cannot be used, a prompt that is empty or leaves no room, a conversation that the
/// chat template refuses.
pub fn completions(
    model: &Path,
    prompts: &Prompts,
    options: &GenerateOptions,
    device: &Device,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let Language { config, tokenizer, policy } = Language::load(model, device)?;
    let rows = prompts.rows(model, options, &config, &tokenizer)?;
    let ids: Vec<Vec<u32>> = rows.iter().map(|row| row.ids.clone()).collect();
    let how = Generation {
        sampling: options.sampling,
        num_generations: options.num_return_sequences,
        eos_token_ids: end_tokens(&config, &tokenizer),
        stop: stop_strings(&options.stop, &tokenizer),
        pad_token_id: tokenizer.pad(),
        max_rows: ROWS,
        ..Generation::plain(
            Decoding::for_device(device),
            config.max_position_embeddings(),
            options.max_new_tokens,
        )
    };
    let streams = prompts::streams(&rows);
    let per_prompt = options.num_return_sequences as u64;
    let random = |p: usize, s: usize| {
        let (prompt, again) = streams[p];
        stream(options.seed, "generate", prompt, again * per_prompt + s as u64)
    };
    for rollout in generate(&policy, &ids, &how, &random, device)? {
        let ended = rollout.finish == Finish::Eos;
        let text = &rollout.tokens[..rollout.tokens.len() - usize::from(ended)];
        let line = json!({
            "prompt": rows[rollout.prompt].text,
            "completion": tokenizer.decode(text),
            "token_ids": rollout.tokens,
            "logprobs": rollout.behavior_logp,
        });
        emit(out, &line)?;
    }
    Ok(())
}

fn stop_strings(texts: &[String], tokenizer: &Tokenizer) -> Option<StopStrings> {
    let tokenizer = tokenizer.clone();
    (!texts.is_empty()).then(|| StopStrings::new(texts.to_vec(), move |ids| tokenizer.decode(ids)))
}

/// The tokens that end a completion.
fn end_tokens(config: &DecoderConfig, tokenizer: &Tokenizer) -> Vec<u32> {
    let ids = config.eos_token_ids();
    if ids.is_empty() { vec![tokenizer.eos()] } else { ids }
}
