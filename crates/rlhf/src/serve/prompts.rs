//! What `rlhf generate` continues: texts, or conversations by the model's chat template.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlhf_policy::chat::{Message, Now, RenderOptions, messages};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::{GenerateOptions, read_text};
use crate::error::Error;

/// What is to be continued, and the file that it is from.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// The prompts.
    pub what: PromptKind,
    /// Named in errors; none for a prompt of the command line.
    pub from: Option<PathBuf>,
}

/// The kinds of prompts.
#[derive(Debug, Clone)]
pub enum PromptKind {
    /// Texts, after the token that starts a text where the tokenizer has one and the text has not. Special
    /// tokens that a text spells are tokens: a prompt may have gone through a chat template already.
    Texts(Vec<String>),
    /// Conversations, which the model's chat template writes up to the opening of its own turn.
    Chats {
        /// The conversations.
        chats: Vec<Vec<Message>>,
        /// The time for templates that print a date.
        now: Now,
    },
}

/// A prompt ready for the model.
pub(super) struct Row {
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
}

/// Most completions of one prompt: more is a slip of the pen that would ask for memory.
const MOST_SAMPLES: usize = 1_000_000;

/// The forms of a line of conversations.
const FORMS: &str = "{\"messages\":[{\"role\",\"content\"}, …]}, or {\"prompt\"} with such a list or a text";

/// The conversations of a JSONL file; a `prompt` that is a text is a user's first message.
///
/// # Errors
/// A file that cannot be read, a line without messages, a message without role or content.
pub fn chats(path: &Path) -> Result<Vec<Vec<Message>>, Error> {
    let mut all = Vec::new();
    for (n, line) in read_text(path)?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |found: String| Error::record(path, n + 1, "(line)", FORMS, found);
        let value: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        let given = value.get("messages").or_else(|| value.get("prompt"));
        let given = given.ok_or_else(|| wrong(line.to_owned()))?;
        let listed = match given {
            Value::String(text) => json!([{ "role": "user", "content": text }]),
            other => other.clone(),
        };
        all.push(messages(&listed).map_err(|e| wrong(e.to_string()))?);
    }
    if all.is_empty() {
        return Err(Error::record(path, 0, "file", "at least one line", "none"));
    }
    Ok(all)
}

impl Prompts {
    /// One conversation of one message, from the command line.
    pub fn chat(text: &str, now: Now) -> Self {
        let chats = vec![vec![Message::new("user", text)]];
        Self { what: PromptKind::Chats { chats, now }, from: None }
    }

    /// One text, from the command line.
    pub fn text(text: &str) -> Self {
        Self { what: PromptKind::Texts(vec![text.to_owned()]), from: None }
    }

    /// The error of prompt `i`, from 0.
    fn fault(&self, i: usize, expected: &str, found: &str) -> Error {
        match &self.from {
            Some(path) => Error::record(path, i + 1, "prompt", expected, found),
            None => Error::Failed(format!("prompt: expected {expected}, found {found}")),
        }
    }

    /// Texts and tokens, checked against the room that the model has.
    pub(super) fn rows(
        &self,
        model: &Path,
        options: &GenerateOptions,
        config: &DecoderConfig,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Row>, Error> {
        let (new, context) = (options.max_new_tokens, config.max_position_embeddings());
        if new == 0 || new >= context {
            let expected = format!("1 to {} tokens (the model's context is {context})", context - 1);
            return Err(Error::config("command line", "--max-new-tokens", expected, new.to_string()));
        }
        if !(1..=MOST_SAMPLES).contains(&options.num_return_sequences) {
            let found = options.num_return_sequences.to_string();
            return Err(Error::config(
                "command line",
                "--num-return-sequences",
                format!("1 to {MOST_SAMPLES}"),
                found,
            ));
        }
        if options.stop.iter().any(String::is_empty) {
            return Err(Error::config("command line", "--stop", "a text", "an empty one"));
        }
        let rows = self.encoded(model, tokenizer)?;
        for (i, row) in rows.iter().enumerate() {
            if row.ids.is_empty() {
                let expected = "at least one token (the tokenizer puts no start token)";
                return Err(self.fault(i, expected, "none"));
            }
            if row.ids.len() > context - new {
                let room = context - new;
                let expected =
                    format!("at most {room} tokens (the context of {context} less --max-new-tokens)");
                return Err(self.fault(i, &expected, &row.ids.len().to_string()));
            }
            if let Some(id) = row.ids.iter().find(|id| **id as usize >= config.vocab_size()) {
                return Err(self.fault(
                    i,
                    &format!("token ids below {}", config.vocab_size()),
                    &id.to_string(),
                ));
            }
        }
        Ok(rows)
    }

    fn encoded(&self, model: &Path, tokenizer: &Tokenizer) -> Result<Vec<Row>, Error> {
        match &self.what {
            PromptKind::Texts(texts) => Ok(texts.iter().map(|text| text_row(text, tokenizer)).collect()),
            PromptKind::Chats { chats, now } => {
                let template = crate::pipeline::models::load_template(model)?;
                let options = RenderOptions { now: Some(*now), ..RenderOptions::prompt() };
                let row = |(i, chat): (usize, &Vec<Message>)| {
                    let expected = "a conversation that the chat template takes";
                    let failed = |e: rlhf_policy::error::Error| self.fault(i, expected, &e.to_string());
                    let text = template.render(chat, &options).map_err(failed)?;
                    let ids = template.encode(tokenizer, chat, &options).map_err(failed)?;
                    Ok(Row { text, ids })
                };
                chats.iter().enumerate().map(row).collect()
            }
        }
    }
}

fn text_row(text: &str, tokenizer: &Tokenizer) -> Row {
    Row { text: text.to_owned(), ids: tokenizer.behind_start(tokenizer.encode_special(text)) }
}

/// Which random stream a prompt's samples have: one for its tokens, so that neither its place in a file nor
/// its neighbours count, and another each time the same prompt comes again.
pub(super) fn streams(rows: &[Row]) -> Vec<(u64, u64)> {
    let mut seen: BTreeMap<&[u32], u64> = BTreeMap::new();
    let one = |row: &'_ Row| {
        let bytes: Vec<u8> = row.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        hash.as_bytes().first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
    };
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let again = seen.entry(&row.ids).or_default();
        all.push((one(row), *again));
        *again += 1;
    }
    all
}
