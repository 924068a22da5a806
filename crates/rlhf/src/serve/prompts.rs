//! What `rlhf generate` continues: texts, or conversations by the model's chat template.

use std::path::Path;

use rlhf_policy::chat::{Message, Now, RenderOptions, messages};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::{GenerateOptions, read_text};
use crate::error::Error;

/// What is to be continued.
#[derive(Debug, Clone)]
pub enum Prompts {
    /// Texts as they stand, after the token that starts a text where the tokenizer has one.
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
    /// One conversation of one message.
    pub fn chat(text: &str, now: Now) -> Self {
        Self::Chats { chats: vec![vec![Message::new("user", text)]], now }
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
        if options.num_return_sequences == 0 {
            return Err(Error::config("command line", "--num-return-sequences", "at least 1", "0"));
        }
        let rows = self.encoded(model, tokenizer)?;
        for (i, row) in rows.iter().enumerate() {
            if row.ids.is_empty() {
                let what = "expected at least one token, found none (the tokenizer puts no start token)";
                return Err(Error::Failed(format!("prompt {}: {what}", i + 1)));
            }
            if row.ids.len() > context - new {
                return Err(Error::Failed(format!(
                    "prompt {}: expected at most {} tokens (the context of {context} less --max-new-tokens), found {}",
                    i + 1,
                    context - new,
                    row.ids.len()
                )));
            }
        }
        Ok(rows)
    }

    fn encoded(&self, model: &Path, tokenizer: &Tokenizer) -> Result<Vec<Row>, Error> {
        match self {
            Self::Texts(texts) => Ok(texts
                .iter()
                .map(|text| {
                    let ids = tokenizer.start().into_iter().chain(tokenizer.encode(text)).collect();
                    Row { text: text.clone(), ids }
                })
                .collect()),
            Self::Chats { chats, now } => {
                let template = crate::pipeline::models::load_template(model)?;
                let options = RenderOptions { now: Some(*now), ..RenderOptions::prompt() };
                let row = |(i, chat): (usize, &Vec<Message>)| {
                    let failed =
                        |e: rlhf_policy::error::Error| Error::Failed(format!("prompt {}: {e}", i + 1));
                    let text = template.render(chat, &options).map_err(failed)?;
                    let ids = template.encode(tokenizer, chat, &options).map_err(failed)?;
                    Ok(Row { text, ids })
                };
                chats.iter().enumerate().map(row).collect()
            }
        }
    }
}
