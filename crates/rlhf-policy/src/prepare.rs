//! Records of a data file to tokens: which belong to the prompt, and which are learnt.
//!
//! A prompt and its completion are tokenised as one text, as the model will read them, and parted
//! where the tokens of the prompt alone and of both together stop agreeing. Where a token crosses the
//! boundary, or a template writes a prompt otherwise when a completion follows, that is before the
//! prompt's end; the completion then begins with tokens that spell the rest of the prompt.
//!
//! As TRL's trainers do it (1.16, `common_prefix_length`), except that what texts spell is text by
//! default: see [`Spelling`].

use rlhf_core::host::collate::{PairTokens, PromptCompletion};
use rlhf_core::host::preference::common_prefix;

use crate::chat::{ChatTemplate, Ending, Message, RenderOptions};
use crate::error::Error;
use crate::tokenizer::{Ends, Spelling, Tokenizer};

/// A prompt with two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<T> {
    /// What is answered.
    pub prompt: T,
    /// The better answer.
    pub chosen: T,
    /// The other.
    pub rejected: T,
}

/// Tokens of a text that a completion ends with the end token, once.
fn ended(tokenizer: &Tokenizer, prompt: &str, completion: &str, spelling: Spelling) -> Vec<u32> {
    let mut ids = started(tokenizer, &format!("{prompt}{completion}"), spelling);
    if ids.last() != Some(&tokenizer.eos()) {
        ids.push(tokenizer.eos());
    }
    ids
}

/// With the start token of tokenizers that put one there.
fn started(tokenizer: &Tokenizer, text: &str, spelling: Spelling) -> Vec<u32> {
    let bare = tokenizer.ids(text, spelling, Ends::Bare);
    tokenizer.start().into_iter().chain(bare).collect()
}

/// A prompt and its completion, from texts: to fine-tune on, or to rate.
pub fn completion_of_text(
    tokenizer: &Tokenizer,
    prompt: &str,
    completion: &str,
    spelling: Spelling,
) -> PromptCompletion {
    let mut whole = ended(tokenizer, prompt, completion, spelling);
    let n = common_prefix(&started(tokenizer, prompt, spelling), &whole);
    let completion = whole.split_off(n);
    PromptCompletion { prompt: whole, completion }
}

/// A prompt with two answers, from texts. Both share the prompt that agrees with either.
pub fn pair_of_text(tokenizer: &Tokenizer, pair: Pair<&str>, spelling: Spelling) -> PairTokens {
    let prompt = started(tokenizer, pair.prompt, spelling);
    let both = [pair.chosen, pair.rejected].map(|text| ended(tokenizer, pair.prompt, text, spelling));
    parted(&prompt, both)
}

/// A prompt and its completion, from messages. The template says where the completion ends; the
/// ending of `options` is not used.
///
/// # Errors
/// As [`ChatTemplate::render`].
pub fn completion_of_chat(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    [prompt, completion]: [&[Message]; 2],
    options: &RenderOptions,
) -> Result<PromptCompletion, Error> {
    let mut whole = whole_chat(template, tokenizer, [prompt, completion], options)?;
    let n = common_prefix(&prompt_chat(template, tokenizer, prompt, options)?, &whole);
    let completion = whole.split_off(n);
    Ok(PromptCompletion { prompt: whole, completion })
}

/// A prompt with two answers, from messages, as [`completion_of_chat`].
///
/// # Errors
/// As [`ChatTemplate::render`].
pub fn pair_of_chat(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    pair: Pair<&[Message]>,
    options: &RenderOptions,
) -> Result<PairTokens, Error> {
    let prompt = prompt_chat(template, tokenizer, pair.prompt, options)?;
    let chosen = whole_chat(template, tokenizer, [pair.prompt, pair.chosen], options)?;
    let rejected = whole_chat(template, tokenizer, [pair.prompt, pair.rejected], options)?;
    Ok(parted(&prompt, [chosen, rejected]))
}

fn prompt_chat(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    prompt: &[Message],
    options: &RenderOptions,
) -> Result<Vec<u32>, Error> {
    let options = RenderOptions { ending: Ending::GenerationPrompt, ..options.clone() };
    template.encode(tokenizer, prompt, &options)
}

fn whole_chat(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    parts: [&[Message]; 2],
    options: &RenderOptions,
) -> Result<Vec<u32>, Error> {
    let options = RenderOptions { ending: Ending::Complete, ..options.clone() };
    template.encode(tokenizer, &parts.concat(), &options)
}

fn parted(prompt: &[u32], both: [Vec<u32>; 2]) -> PairTokens {
    let n = both.iter().map(|whole| common_prefix(prompt, whole)).min().unwrap_or(0);
    let [chosen, rejected] = both.map(|whole| whole[n..].to_vec());
    PairTokens { prompt: prompt[..n].to_vec(), chosen, rejected }
}
