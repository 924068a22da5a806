//! The commands that ask a model folder: logits, completions, scores; and `init`, which makes one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rlhf_core::contract::PolicyModel as _;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::generate::{Finish, Generation, generate};
use rlhf_policy::hf;
use rlhf_policy::lora::Merged;
use rlhf_policy::tokenizer::Tokenizer;
use rlhf_policy::weights::parameters;
use serde::Deserialize;
use serde_json::json;

use crate::error::Error;
use crate::pipeline::models::{self, Language, Reads, SavedBag};

/// Rows of one forward pass.
const ROWS: usize = 64;

/// `{"input_ids":[[…]],"attention_mask":[[…]]}`; without a mask every token is real.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogitsInput {
    input_ids: Vec<Vec<u32>>,
    #[serde(default)]
    attention_mask: Option<Vec<Vec<u8>>>,
}

/// Writes `{"logits":[[[…]]]}`; positions that the mask leaves out are rows of zeros. Padding may
/// stand on either side of a row.
///
/// # Errors
/// A model folder or an input that cannot be used, logits that are not finite.
pub fn logits(model: &Path, input: &Path, device: &Device, out: &mut dyn Write) -> Result<(), Error> {
    let Merged { model: policy, config } = models::open_decoder(model, device)?;
    let text = fs::read_to_string(input).map_err(|e| Error::io("reading", input, e))?;
    let given: LogitsInput = serde_json::from_str(&text).map_err(|e| {
        let expected = "{\"input_ids\":[[…]],\"attention_mask\":[[…]]}";
        Error::record(input, e.line(), "(file)", expected, e.to_string())
    })?;
    if let Some(mask) = given.attention_mask.as_ref().filter(|m| m.len() != given.input_ids.len()) {
        let expected = format!("{} rows, as input_ids", given.input_ids.len());
        return Err(Error::record(input, 0, "attention_mask", expected, mask.len().to_string()));
    }
    let mut all = Vec::with_capacity(given.input_ids.len());
    for (i, row) in given.input_ids.iter().enumerate() {
        let mask = given.attention_mask.as_ref().and_then(|m| m.get(i));
        if let Some(mask) = mask.filter(|m| m.len() != row.len()) {
            let found = format!("{} in row {}", mask.len(), i + 1);
            return Err(Error::record(input, 0, "attention_mask", format!("{} entries", row.len()), found));
        }
        let real: Vec<usize> = (0..row.len()).filter(|t| mask.is_none_or(|m| m[*t] != 0)).collect();
        let ids: Vec<u32> = real.iter().map(|t| row[*t]).collect();
        check_ids(input, i + 1, &ids, &config)?;
        let mut rows = vec![vec![0.0f32; config.vocab_size()]; row.len()];
        if !ids.is_empty() {
            for (t, values) in real.iter().zip(row_logits(&policy, &ids, device)) {
                // JSON has no NaN: it would become a null, and the defect the reader's.
                if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                    let place = format!("row {}, position {}", i + 1, t + 1);
                    return Err(not_finite(model, "logits", &place, f64::from(*value)));
                }
                rows[*t] = values;
            }
        }
        all.push(rows);
    }
    emit(out, &json!({ "logits": all }))
}

fn not_finite(model: &Path, what: &str, place: &str, value: f64) -> Error {
    Error::Failed(format!("{}: {what} of {place}: expected finite numbers, found {value}", model.display()))
}

fn row_logits(policy: &rlhf_policy::decoder::Decoder, ids: &[u32], device: &Device) -> Vec<Vec<f32>> {
    let tokens: Vec<i64> = ids.iter().map(|t| i64::from(*t)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, ids.len()]), device);
    let logits = policy.logits(tokens);
    let v = logits.dims()[2];
    let flat: Vec<f32> = logits.into_data().convert::<f32>().iter::<f32>().collect();
    flat.chunks(v).map(<[f32]>::to_vec).collect()
}

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
}

/// Writes one JSON line a completion: `prompt`, `completion`, `token_ids`, `logprobs` (under the
/// sampling distribution, nats).
///
/// # Errors
/// A model folder that cannot be used, a prompt that leaves no room.
pub fn completions(
    model: &Path,
    prompts: &[String],
    options: &GenerateOptions,
    device: &Device,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let Language { config, tokenizer, policy } = Language::load(model, device)?;
    let ids = prompt_rows(prompts, options, &config, &tokenizer)?;
    let how = Generation {
        sampling: options.sampling,
        max_completion_length: options.max_new_tokens,
        num_generations: options.num_return_sequences,
        eos_token_ids: vec![tokenizer.eos()],
        pad_token_id: tokenizer.pad(),
        context_length: config.max_position_embeddings(),
        max_rows: ROWS,
    };
    let random = |p: usize, s: usize| stream(options.seed, "generate", p as u64, s as u64);
    for rollout in generate(&policy, &ids, &how, &random, device)? {
        let ended = rollout.finish == Finish::Eos;
        let text = &rollout.tokens[..rollout.tokens.len() - usize::from(ended)];
        let line = json!({
            "prompt": prompts[rollout.prompt],
            "completion": tokenizer.decode(text),
            "token_ids": rollout.tokens,
            "logprobs": rollout.behavior_logp,
        });
        emit(out, &line)?;
    }
    Ok(())
}

/// The prompts' tokens, after the token that starts a text; an empty prompt starts from the end token.
fn prompt_rows(
    prompts: &[String],
    options: &GenerateOptions,
    config: &DecoderConfig,
    tokenizer: &Tokenizer,
) -> Result<Vec<Vec<u32>>, Error> {
    let (new, context) = (options.max_new_tokens, config.max_position_embeddings());
    if new == 0 || new >= context {
        let expected = format!("1 to {} tokens (the model's context is {context})", context - 1);
        return Err(Error::config("command line", "--max-new-tokens", expected, new.to_string()));
    }
    if options.num_return_sequences == 0 {
        return Err(Error::config("command line", "--num-return-sequences", "at least 1", "0"));
    }
    let rows = prompts.iter().enumerate().map(|(i, prompt)| {
        let mut ids: Vec<u32> = tokenizer.start().into_iter().chain(tokenizer.encode(prompt)).collect();
        if ids.is_empty() {
            ids.push(tokenizer.eos());
        }
        if ids.len() > context - new {
            return Err(Error::Failed(format!(
                "prompt {}: expected at most {} tokens (the context of {context} less --max-new-tokens), found {}",
                i + 1,
                context - new,
                ids.len()
            )));
        }
        Ok(ids)
    });
    rows.collect()
}

/// The forms of a line of `rlhf score`.
const SCORE_FORMS: &str = "{\"text\"}, {\"input_ids\"} or {\"prompt\",\"completion\"}";

/// One record of `rlhf score`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreInput {
    text: Option<String>,
    input_ids: Option<Vec<u32>>,
    prompt: Option<String>,
    completion: Option<String>,
}

/// Writes `{"reward": r}` for each line `{"text"}`, `{"input_ids"}` or `{"prompt","completion"}`.
/// Texts are scored as they stand, without an end token added.
///
/// # Errors
/// A model folder or a line that cannot be used, a reward that is not finite.
pub fn score(model: &Path, input: &Path, device: &Device, out: &mut dyn Write) -> Result<(), Error> {
    let given = score_inputs(input)?;
    let rewards = match SavedBag::load(model)? {
        Some(saved) => bag_rewards(&saved, input, &given)?,
        None => classifier_rewards(model, input, &given, device)?,
    };
    for (reward, (line, _)) in rewards.into_iter().zip(given) {
        if !reward.is_finite() {
            return Err(not_finite(model, "reward", &format!("{}:{line}", input.display()), reward));
        }
        emit(out, &json!({ "reward": reward }))?;
    }
    Ok(())
}

/// What a line of `rlhf score` asks.
enum ToScore {
    Text(String),
    Ids(Vec<u32>),
    Pair { prompt: String, completion: String },
}

/// The lines of the file, each with its number; a file without one is refused.
fn score_inputs(input: &Path) -> Result<Vec<(usize, ToScore)>, Error> {
    let file = fs::File::open(input).map_err(|e| Error::io("opening", input, e))?;
    let mut all = Vec::new();
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| Error::io("reading", input, e))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |found: String| Error::record(input, n + 1, "(line)", SCORE_FORMS, found);
        let given: ScoreInput = serde_json::from_str(&line).map_err(|e| wrong(e.to_string()))?;
        let to_score = match given {
            ScoreInput { input_ids: Some(ids), text: None, prompt: None, completion: None } => {
                ToScore::Ids(ids)
            }
            ScoreInput { text: Some(text), input_ids: None, prompt: None, completion: None } => {
                ToScore::Text(text)
            }
            ScoreInput {
                prompt: Some(prompt),
                completion: Some(completion),
                text: None,
                input_ids: None,
            } => ToScore::Pair { prompt, completion },
            _ => return Err(wrong(line)),
        };
        all.push((n + 1, to_score));
    }
    if all.is_empty() {
        return Err(Error::record(input, 0, "file", "at least one line", "none"));
    }
    Ok(all)
}

/// A bag of words reads a text, or of a prompt and completion what it was fitted on.
fn bag_rewards(saved: &SavedBag, input: &Path, given: &[(usize, ToScore)]) -> Result<Vec<f64>, Error> {
    let reward = |(line, to_score): &(usize, ToScore)| match (to_score, saved.reads) {
        (ToScore::Text(text), _) => Ok(saved.bag.reward(text)),
        (ToScore::Pair { completion, .. }, Reads::Completion) => Ok(saved.bag.reward(completion)),
        (ToScore::Pair { prompt, completion }, Reads::Text) => {
            Ok(saved.bag.reward(&format!("{prompt}{completion}")))
        }
        (ToScore::Ids(_), _) => {
            let expected = "text, which a bag of words reads";
            Err(Error::record(input, *line, "input_ids", expected, "token ids"))
        }
    };
    given.iter().map(reward).collect()
}

fn classifier_rewards(
    model: &Path,
    input: &Path,
    given: &[(usize, ToScore)],
    device: &Device,
) -> Result<Vec<f64>, Error> {
    let Merged { model: classifier, config } = models::open_classifier(model, device)?;
    let tokenizer = models::load_tokenizer(model)?;
    let mut rows = Vec::with_capacity(given.len());
    for (line, to_score) in given {
        let ids = match to_score {
            ToScore::Ids(ids) => ids.clone(),
            ToScore::Text(text) => tokenizer.encode(text),
            ToScore::Pair { prompt, completion } => {
                [tokenizer.encode(prompt), tokenizer.encode(completion)].concat()
            }
        };
        if ids.is_empty() {
            return Err(Error::record(input, *line, "(line)", "at least one token", "none"));
        }
        check_ids(input, *line, &ids, &config)?;
        rows.push(ids);
    }
    Ok(classifier.score_rows(&rows, tokenizer.pad(), ROWS))
}

/// Makes a scratch-initialised model folder from a `config.json`.
///
/// # Errors
/// A config that cannot be used, a folder that holds something already.
pub fn init(config: &Path, seed: u64, dir: &Path, device: &Device) -> Result<PathBuf, Error> {
    let text = fs::read_to_string(config).map_err(|e| Error::io("reading", config, e))?;
    let config = DecoderConfig::parse(&text)?;
    if dir.exists() && fs::read_dir(dir).map_err(|e| Error::io("reading", dir, e))?.next().is_some() {
        let found = format!("{}, which holds files", dir.display());
        return Err(Error::config("command line", "--out", "a new or empty folder", found));
    }
    let policy = models::scratch_decoder(&config, seed, device)?;
    hf::save(dir, &config, ModelKind::Causal, &parameters(&policy))?;
    Ok(dir.to_owned())
}
