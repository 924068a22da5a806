//! `rlhf score`.

use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use rlhf_policy::chat::{ChatTemplate, Message, Now, RenderOptions, messages};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::tokenizer::{Ends, Spelling, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ROWS, check_ids, emit, not_finite, read_text};
use crate::error::Error;
use crate::pipeline::models::{self, Reads, SavedBag};

/// The forms of a line of `rlhf score`.
const FORMS: &str = "{\"text\"}, {\"input_ids\"}, {\"prompt\",\"completion\"} or {\"messages\"}";

/// One record of `rlhf score`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: Option<String>,
    input_ids: Option<Vec<u32>>,
    prompt: Option<String>,
    completion: Option<String>,
    messages: Option<Value>,
}

/// What a line of `rlhf score` asks.
enum ToScore {
    Text(String),
    Ids(Vec<u32>),
    Pair { prompt: String, completion: String },
    Chat(Vec<Message>),
}

/// Writes `{"reward": r}` for each line `{"text"}`, `{"input_ids"}`, `{"prompt","completion"}` or
/// `{"messages"}`; a classifier with more than one label has no reward, and gets `{"logits": […]}`. A text's
/// tokens are those that the tokenizer of `transformers` gives: special tokens that it spells are tokens, and
/// what the file's post-processor adds is added. A prompt and its completion are tokenised one by one behind
/// the start token. Conversations go through the chat template.
///
/// # Errors
/// A model folder or a line that cannot be used, a reward that is not finite.
pub fn score(
    model: &Path,
    input: &Path,
    now: Now,
    device: &Device,
    out: &mut dyn Write,
) -> Result<(), Error> {
    crate::pipeline::preference::refuse_as_reward(model)?;
    let given = read(input)?;
    let rewards = match SavedBag::load(model)? {
        Some(saved) => bag_rewards(&saved, input, &given)?.into_iter().map(|r| vec![r]).collect(),
        None => classifier_logits(model, input, &given, now, device)?,
    };
    for (logits, (line, _)) in rewards.into_iter().zip(given) {
        if let Some(value) = logits.iter().find(|x| !x.is_finite()) {
            return Err(not_finite(model, "reward", &format!("{}:{line}", input.display()), *value));
        }
        emit(out, &answer(&logits))?;
    }
    Ok(())
}

fn answer(logits: &[f64]) -> Value {
    match logits {
        [reward] => json!({ "reward": reward }),
        logits => json!({ "logits": logits }),
    }
}

/// The lines of the file, each with its number; a file without one is refused.
fn read(input: &Path) -> Result<Vec<(usize, ToScore)>, Error> {
    let mut all = Vec::new();
    for (n, line) in read_text(input)?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |found: String| Error::record(input, n + 1, "(line)", FORMS, found);
        let given: Input = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        let to_score = match given {
            Input { input_ids: Some(ids), text: None, prompt: None, completion: None, messages: None } => {
                ToScore::Ids(ids)
            }
            Input { text: Some(text), input_ids: None, prompt: None, completion: None, messages: None } => {
                ToScore::Text(text)
            }
            Input { messages: Some(chat), text: None, prompt: None, completion: None, input_ids: None } => {
                ToScore::Chat(messages(&chat).map_err(|e| wrong(e.to_string()))?)
            }
            Input {
                prompt: Some(prompt),
                completion: Some(completion),
                text: None,
                input_ids: None,
                messages: None,
            } => ToScore::Pair { prompt, completion },
            _ => return Err(wrong(line.to_owned())),
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
        (ToScore::Ids(_) | ToScore::Chat(_), _) => {
            let (field, found) = match to_score {
                ToScore::Ids(_) => ("input_ids", "token ids"),
                _ => ("messages", "a conversation"),
            };
            Err(Error::record(input, *line, field, "text, which a bag of words reads", found))
        }
    };
    given.iter().map(reward).collect()
}

fn classifier_logits(
    model: &Path,
    input: &Path,
    given: &[(usize, ToScore)],
    now: Now,
    device: &Device,
) -> Result<Vec<Vec<f64>>, Error> {
    let config = models::load_config(model)?;
    let reader = Reader::new(model, &config, given, now)?;
    let classifier = models::open_classifier(model, device)?.model;
    let mut rows = Vec::with_capacity(given.len());
    for (line, to_score) in given {
        let ids = match (to_score, &reader) {
            (ToScore::Ids(ids), _) => ids.clone(),
            (words, Some(reader)) => reader.ids(words).map_err(|e| {
                let expected = "a conversation that the template takes";
                Error::record(input, *line, "messages", expected, e.to_string())
            })?,
            (_, None) => unreachable!("made where a line has words"),
        };
        if ids.is_empty() {
            return Err(Error::record(input, *line, "(line)", "at least one token", "none"));
        }
        check_ids(input, *line, &ids, &config)?;
        rows.push(ids);
    }
    // Padding stands behind the token that is read: which token it is does not matter.
    let pad = reader.map_or(0, |reader| reader.tokenizer.pad());
    Ok(classifier.logit_rows(&rows, pad, ROWS))
}

/// What turns words into tokens.
struct Reader {
    tokenizer: Tokenizer,
    /// There where a line is a conversation.
    template: Option<ChatTemplate>,
    options: RenderOptions,
}

impl Reader {
    /// None where every line is token ids: a folder may lack a tokenizer then.
    fn new(
        model: &Path,
        config: &DecoderConfig,
        given: &[(usize, ToScore)],
        now: Now,
    ) -> Result<Option<Self>, Error> {
        if given.iter().all(|(_, to_score)| matches!(to_score, ToScore::Ids(_))) {
            return Ok(None);
        }
        let tokenizer = models::load_tokenizer(model)?;
        models::check_vocabulary(model, &tokenizer, config)?;
        let chats = given.iter().any(|(_, to_score)| matches!(to_score, ToScore::Chat(_)));
        let template = if chats { Some(models::load_template(model)?) } else { None };
        let options = RenderOptions { now: Some(now), ..RenderOptions::conversation() };
        Ok(Some(Self { tokenizer, template, options }))
    }

    /// The tokens of a line; only a conversation can fail.
    fn ids(&self, to_score: &ToScore) -> Result<Vec<u32>, rlhf_policy::error::Error> {
        let tokenizer = &self.tokenizer;
        match (to_score, &self.template) {
            (ToScore::Ids(ids), _) => Ok(ids.clone()),
            (ToScore::Text(text), _) => Ok(tokenizer.ids(text, Spelling::Token, Ends::Added)),
            (ToScore::Pair { prompt, completion }, _) => {
                let both = [prompt, completion].map(|text| tokenizer.encode_special(text)).concat();
                Ok(tokenizer.behind_start(both))
            }
            (ToScore::Chat(chat), Some(template)) => template.encode(tokenizer, chat, &self.options),
            (ToScore::Chat(_), None) => unreachable!("loaded where a line is a conversation"),
        }
    }
}
