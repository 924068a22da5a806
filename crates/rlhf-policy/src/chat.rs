//! Conversations to text and tokens, by the chat template of a model folder.
//!
//! A template is a Jinja program that came with the model: `chat_template.jinja`, or the
//! `chat_template` of `tokenizer_config.json`. It is run as transformers runs it: blocks trimmed, loop
//! controls, Python's string and dict methods, `raise_exception`, `strftime_now`, `namespace`, `tojson`
//! without HTML escapes, values printed as Python prints them, and `{% generation %}` blocks.
//!
//! Where we differ from transformers:
//!
//! - What messages spell is text by default ([`Spelling::Text`]): a user who writes `<|im_end|>` does
//!   not end the turn. Special tokens that the template writes are tokens. transformers does so with
//!   `sanitize_control_tokens`, off by default; [`Spelling::Token`] is its default.
//! - Where a template marks nothing, the assistant mask comes from rendering the conversation up to
//!   each assistant turn.
//! - The time is an argument. Without one `strftime_now` is not defined, and templates that know a
//!   date of their own use it.
//! - A template stops with an error after [`FUEL`] steps or [`MAX_OUTPUT`] bytes. Both are far beyond
//!   real templates. The memory it takes meanwhile is not counted: like the weights, a template is
//!   taken from somebody who is trusted that far.
//! - Objects in further fields and variables list their keys in alphabetical order; a message has its role
//!   first and its content next.
//! - `x ~ y` writes `true`, `false` and `none` in minijinja's way, not Python's.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::{Environment, Value as Jinja};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::tokenizer::files::Named;
use crate::tokenizer::{Encoding, Spelling, Tokenizer};

mod generation;
mod jinja;
mod marks;
mod message;
mod python;

pub use jinja::{FUEL, MAX_OUTPUT};
use marks::Rendered;
pub use message::{Content, Message, messages};

/// Where a rendered conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Behind the last message, with all that the template puts there: to train on.
    Complete,
    /// With the opening of an assistant turn: to generate from (`add_generation_prompt`).
    GenerationPrompt,
    /// Within the last message, which the model is to continue (`continue_final_message`).
    ContinueFinal,
}

/// The time for templates that print a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: i64,
    /// Seconds that the place's clock is ahead of UTC.
    pub utc_offset_seconds: i32,
}

/// How a conversation is rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderOptions {
    /// Where the text ends.
    pub ending: Ending,
    /// What special tokens stand for that messages or `extra` spell.
    pub spelling: Spelling,
    /// What `strftime_now` prints; `None` leaves it undefined.
    pub now: Option<Now>,
    /// Further variables for the template, `enable_thinking` for instance. They go before the
    /// variables of the same name that every template gets.
    pub extra: Map<String, Value>,
}

impl RenderOptions {
    /// A prompt to generate from: the assistant's turn is opened, spellings are text, no time.
    pub fn prompt() -> Self {
        Self { ending: Ending::GenerationPrompt, ..Self::conversation() }
    }

    /// A whole conversation to train on: spellings are text, no time.
    pub fn conversation() -> Self {
        Self { ending: Ending::Complete, spelling: Spelling::Text, now: None, extra: Map::new() }
    }
}

/// Tokens of a conversation, and which of them the assistant said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedTokens {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Whether a token belongs to what the assistant says; as long as `ids`.
    pub assistant: Vec<bool>,
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// As it was given, before its generation tags were replaced.
    source: String,
    /// For messages.
    file: PathBuf,
    specials: BTreeMap<String, String>,
    marks_assistant: bool,
    /// Whether it goes through content that is a list of parts.
    takes_parts: bool,
}

impl ChatTemplate {
    /// Compiles a template. `specials` are the variables `bos_token`, `eos_token` and the like.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn parse(source: &str, specials: &BTreeMap<String, String>) -> Result<Self, Error> {
        Self::compile(source.to_owned(), specials.clone(), PathBuf::from("chat_template"))
    }

    /// The template of a model folder: `chat_template.jinja`, or else the `chat_template` of
    /// `tokenizer_config.json`, which may be a text or a list of named ones with a `default`.
    ///
    /// # Errors
    /// A folder without a template, a file that is broken, a syntax error with its line.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_named(dir, "default")
    }

    /// As [`ChatTemplate::load`], of several templates the one of this name.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`]; no template of this name.
    pub fn load_named(dir: impl AsRef<Path>, name: &str) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let named = Named::beside(&dir.join("tokenizer.json"))?;
        let specials = named.all().into_iter().collect();
        let file = if name == "default" {
            dir.join(FILE)
        } else {
            dir.join("additional_chat_templates").join(format!("{name}.jinja"))
        };
        match fs::read_to_string(&file) {
            Ok(source) => return Self::compile(source, specials, file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::file(file, format!("reading the chat template: {e}"))),
        }
        let source = in_config(&named, name)?.ok_or_else(|| {
            let what = "expected this file or a chat_template in tokenizer_config.json, found neither";
            Error::file(&file, what)
        })?;
        Self::compile(source, specials, named.file)
    }

    fn compile(source: String, specials: BTreeMap<String, String>, file: PathBuf) -> Result<Self, Error> {
        let rewritten = generation::rewrite(&source);
        let mut environment = jinja::environment();
        environment
            .add_template_owned(jinja::NAME, rewritten.source)
            .map_err(|e| Error::file(&file, jinja::describe(&e)))?;
        let takes_parts = ["['text']", "[\"text\"]", ".text"].iter().any(|form| source.contains(form));
        let marks_assistant = rewritten.n_blocks > 0;
        Ok(Self { environment, source, file, specials, marks_assistant, takes_parts })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template itself says which parts are the assistant's, by `{% generation %}`.
    pub fn marks_assistant(&self) -> bool {
        self.marks_assistant
    }

    /// Writes `chat_template.jinja` into `dir`, which must exist.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), Error> {
        let file = dir.as_ref().join(FILE);
        fs::write(&file, &self.source).map_err(|e| Error::file(&file, format!("writing: {e}")))
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// No message; a conversation that the template refuses, in its own words; an error in the
    /// template, with its line; a last message that cannot be continued.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, Error> {
        Ok(self.rendered(some(messages)?, options, None)?.text)
    }

    /// The conversation as tokens. The template's text decides on start and end tokens: none is
    /// added to it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<u32>, Error> {
        let rendered = self.rendered(some(messages)?, options, Some(tokenizer))?;
        Ok(tokenizer.encode_guarded(&rendered.text, &rendered.literal).ids)
    }

    /// The conversation as tokens, and which of them are the assistant's: those that
    /// `{% generation %}` blocks wrote (`return_assistant_tokens_mask`). Of a template without such
    /// blocks they are what each assistant message adds to the conversation before it with the
    /// assistant's turn opened.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; a template without such blocks that renders the beginning of a
    /// conversation otherwise than the whole begins.
    pub fn encode_masked(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<MaskedTokens, Error> {
        let rendered = self.rendered(some(messages)?, options, Some(tokenizer))?;
        let encoding = tokenizer.encode_guarded(&rendered.text, &rendered.literal);
        let spans = if self.marks_assistant {
            rendered.assistant
        } else {
            self.by_prefix(messages, options, &rendered.text)?
        };
        let assistant = mask(&encoding, &spans);
        Ok(MaskedTokens { ids: encoding.ids, assistant })
    }

    /// Bytes that each assistant message adds.
    fn by_prefix(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        whole: &str,
    ) -> Result<Vec<Range<usize>>, Error> {
        let part = |n: usize, ending: Ending| -> Result<usize, Error> {
            let options = RenderOptions { ending, ..options.clone() };
            let text = self.rendered(&messages[..n], &options, None)?.text;
            if whole.starts_with(&text) {
                return Ok(text.len());
            }
            let what = format!(
                "assistant mask: expected {{% generation %}} blocks, or a rendering that begins with that of its first \
                 {n} messages, found neither"
            );
            Err(Error::file(&self.file, what))
        };
        let assistant = messages.iter().enumerate().filter(|(_, message)| message.role == "assistant");
        assistant
            .map(|(i, _)| {
                let start = part(i, Ending::GenerationPrompt)?;
                let last = i + 1 == messages.len() && options.ending != Ending::GenerationPrompt;
                let end = if last { whole.len() } else { part(i + 1, Ending::Complete)? };
                Ok(start..end.max(start))
            })
            .collect()
    }

    /// Runs the template. `tokenizer` says which spellings within messages are marked as text.
    fn rendered(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Rendered, Error> {
        let tokenizer = tokenizer.filter(|_| options.spelling == Spelling::Text);
        let mut list: Vec<Value> = messages.iter().map(|m| m.to_json(self.takes_parts)).collect();
        list.iter_mut().for_each(|message| marks::guard(message, tokenizer));
        let continued = match options.ending {
            Ending::ContinueFinal => Some(self.leave_open(&mut list)?),
            _ => None,
        };
        let raw = jinja::run(&self.environment, self.context(list, options, tokenizer));
        let raw = raw.map_err(|what| Error::file(&self.file, what))?;
        let raw = match continued {
            Some(content) => marks::cut(raw, &content).ok_or_else(|| {
                let what = "the last message: expected in the rendered text, to be continued, found altered";
                Error::file(&self.file, what)
            })?,
            None => raw,
        };
        Ok(marks::read(&raw, tokenizer))
    }

    /// Marks the end of the last message's content; gives that content.
    fn leave_open(&self, list: &mut [Value]) -> Result<String, Error> {
        let content = list.last_mut().and_then(|message| message.get_mut("content"));
        let text = match content {
            Some(Value::Array(parts)) => parts.last_mut().and_then(|part| part.get_mut("text")),
            other => other,
        };
        let Some(Value::String(text)) = text else {
            let what = "the last message: expected a text to be continued, found none";
            return Err(Error::file(&self.file, what));
        };
        let content = text.clone();
        text.push_str(marks::OPEN_END);
        Ok(content)
    }

    /// The template's variables.
    fn context(&self, messages: Vec<Value>, options: &RenderOptions, tokenizer: Option<&Tokenizer>) -> Jinja {
        let mut all: BTreeMap<String, Jinja> = BTreeMap::new();
        for name in ["tools", "documents"] {
            all.insert(name.to_owned(), Jinja::from(()));
        }
        all.extend(self.specials.iter().map(|(name, text)| (name.clone(), Jinja::from(text.as_str()))));
        if let Some(now) = options.now {
            all.insert("strftime_now".to_owned(), jinja::strftime_now(now));
        }
        let prompt = options.ending == Ending::GenerationPrompt;
        let messages: Vec<message::InOrder> = messages.into_iter().map(message::InOrder).collect();
        all.insert("messages".to_owned(), Jinja::from_serialize(messages));
        all.insert("add_generation_prompt".to_owned(), Jinja::from(prompt));
        for (name, value) in &options.extra {
            let mut value = value.clone();
            marks::guard(&mut value, tokenizer);
            all.insert(name.clone(), Jinja::from_serialize(value));
        }
        Jinja::from_serialize(all)
    }
}

/// The file of a folder's own template.
const FILE: &str = "chat_template.jinja";

/// The `chat_template` of `tokenizer_config.json`, if it has one.
fn in_config(named: &Named, name: &str) -> Result<Option<String>, Error> {
    let found = match named.config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) if name == "default" => return Ok(Some(source.clone())),
        Some(Value::Array(all)) => {
            let one = all.iter().find(|one| one["name"] == name);
            if let Some(source) = one.and_then(|one| one["template"].as_str()) {
                return Ok(Some(source.to_owned()));
            }
            let names: Vec<&str> = all.iter().filter_map(|one| one["name"].as_str()).collect();
            format!("those named {names:?}")
        }
        Some(Value::String(_)) => "one without a name".to_owned(),
        Some(other) => other.to_string(),
    };
    let what = format!("chat_template: expected a text, or a list with one named {name:?}, found {found}");
    Err(Error::file(&named.file, what))
}

fn some(messages: &[Message]) -> Result<&[Message], Error> {
    if messages.is_empty() {
        return Err(Error::file("messages", "expected at least one message, found none"));
    }
    Ok(messages)
}

/// Which tokens lie in the ranges: all from the first that touches a range to the last, so that a
/// token whose span was trimmed to nothing is not missed.
fn mask(encoding: &Encoding, ranges: &[Range<usize>]) -> Vec<bool> {
    let mut mask = vec![false; encoding.ids.len()];
    for range in ranges {
        let touches = |span: &Range<usize>| span.start < range.end && range.start < span.end;
        let first = encoding.spans.iter().position(touches);
        let last = encoding.spans.iter().rposition(touches);
        if let (Some(first), Some(last)) = (first, last) {
            mask[first..=last].fill(true);
        }
    }
    mask
}
