//! Which texts fit the model's context: those that do not are refused or counted, never cut in
//! silence.

use std::collections::HashSet;
use std::path::Path;

use rlhf_policy::tokenizer::Tokenizer;

use super::prompt_ids;
use crate::config::{Common, TaskName};
use crate::data::{self, Layout, OnBadRecord};
use crate::error::Error;
use crate::task::{Example, TaskData};

/// Checks every prompt against the room that the context of `context` tokens leaves, and counts what
/// is cut. With `on_bad_record = "skip"` a prompt without room is left out and counted.
///
/// # Errors
/// The first prompt without room, with file and line where it came from a file.
pub(super) fn fit_context(
    config: &Common<'_>,
    tokenizer: &Tokenizer,
    context: usize,
    data: &mut TaskData,
) -> Result<(), Error> {
    let fit = Fit { config, tokenizer, context };
    fit.prompts(data)?;
    fit.references(data)?;
    fit.count_cut(data);
    Ok(())
}

/// What texts must fit, and where they come from.
struct Fit<'a> {
    config: &'a Common<'a>,
    tokenizer: &'a Tokenizer,
    context: usize,
}

impl Fit<'_> {
    /// Prompts need room for a completion.
    fn prompts(&self, data: &mut TaskData) -> Result<(), Error> {
        let (new, context) = (self.config.sampling.max_completion_length.get(), self.context);
        let room = context.saturating_sub(new);
        let expected = format!(
            "at most {room} tokens, since sampling.max_completion_length = {new} of a context of {context} are the completion's"
        );
        let asked = data.eval_prompts.clone();
        for prompts in [&mut data.train_prompts, &mut data.eval_prompts] {
            let fault = |p: &String| self.beyond(room, p);
            let n = keep(self.config, prompts, &self.config.task.path, &expected, |p| p, fault)?;
            note(&mut data.notes, n, "prompts without room for a completion left out");
        }
        keep_references(&asked, data);
        Ok(())
    }

    /// One token of a reference's answer at least must be learned.
    fn references(&self, data: &mut TaskData) -> Result<(), Error> {
        let (most, context) = (self.context.saturating_sub(1), self.context);
        let expected =
            format!("at most {most} tokens, so that one of the answer is left in a context of {context}");
        for examples in [&mut data.sft, &mut data.sft_heldout] {
            let fault = |e: &Example| self.beyond(most, &e.prompt);
            let path = &self.config.task.sft_path;
            let n = keep(self.config, examples, path, &expected, |e| &e.prompt, fault)?;
            note(&mut data.notes, n, "references without room for an answer left out");
        }
        Ok(())
    }

    /// Longer texts are cut, and counted.
    fn count_cut(&self, data: &mut TaskData) {
        let prompt = |text: &str| prompt_ids(self.tokenizer, text).len();
        let length = |a: &str, b: &str| prompt(a) + self.tokenizer.encode(b).len() + 1;
        let cut = data.sft.iter().filter(|e| length(&e.prompt, &e.completion) > self.context).count();
        note(&mut data.notes, cut, "references cut at the context's end");
        let pairs = data.train_preferences.iter().chain(&data.judge_preferences);
        let lengths = pairs.flat_map(|p| [length(&p.prompt, &p.chosen), length(&p.prompt, &p.rejected)]);
        let cut = lengths.filter(|n| *n > self.context).count();
        note(&mut data.notes, cut, "texts of comparisons longer than the context, read from their end");
    }

    fn beyond(&self, most: usize, prompt: &str) -> Option<usize> {
        Some(prompt_ids(self.tokenizer, prompt).len()).filter(|n| *n > most)
    }
}

fn note(notes: &mut Vec<String>, n: usize, what: &str) {
    if n > 0 {
        notes.push(format!("{n} {what}"));
    }
}

/// Leaves out the human answers to evaluation prompts that were left out; `asked` are those before.
fn keep_references(asked: &[String], data: &mut TaskData) {
    let kept: HashSet<&String> = data.eval_prompts.iter().collect();
    let mut asked = asked.iter();
    data.eval_references.retain(|_| asked.next().is_some_and(|prompt| kept.contains(prompt)));
}

/// Refuses the first item at fault, or leaves all such out and says how many. `fault` tells the tokens of a prompt
/// that has too many.
fn keep<T>(
    config: &Common<'_>,
    items: &mut Vec<T>,
    path: &str,
    expected: &str,
    prompt: fn(&T) -> &String,
    fault: impl Fn(&T) -> Option<usize>,
) -> Result<usize, Error>
where
    T: Clone,
{
    let n = items.len();
    if config.task.on_bad_record == OnBadRecord::Fail {
        let first = items.iter().find_map(|item| fault(item).map(|n| (prompt(item), n)));
        let Some((prompt, n_tokens)) = first else { return Ok(0) };
        let start: String = prompt.chars().take(40).collect();
        let found = format!("{n_tokens}: {start:?}…");
        return Err(match place(config, path, prompt) {
            Some(line) => Error::record(path, line, "prompt", expected, found),
            None => Error::Failed(format!("prompt: expected {expected}, found {found}")),
        });
    }
    let kept: Vec<T> = items.iter().filter(|item| fault(item).is_none()).cloned().collect();
    if kept.is_empty() && n > 0 {
        let longest = items.iter().map(|i| prompt(i).len()).min().unwrap_or(0);
        let found = format!("none of {n}, the shortest of {longest} bytes");
        return Err(Error::Failed(format!("prompts: expected one of {expected}, found {found}")));
    }
    *items = kept;
    Ok(n - items.len())
}

/// The line of a user's file where a prompt stands.
fn place(config: &Common<'_>, path: &str, prompt: &str) -> Option<usize> {
    if !matches!(config.task.name, TaskName::Files | TaskName::Answers) || path.is_empty() {
        return None;
    }
    let mut records = data::prompts(Path::new(path), &Layout::default()).ok()?;
    records
        .find_map(|r| r.ok().filter(|(_, r)| r.prompt.trim() == prompt.trim()).map(|(place, _)| place.line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Sizes, restaurants};

    #[test]
    fn references_stay_beside_their_prompts() {
        let sizes = Sizes { n_sft: 1, n_preferences: 1, n_prompts: 1, n_eval_prompts: 3 };
        let mut data = restaurants::restaurants(0, &sizes).expect("good sizes");
        let asked = data.eval_prompts.clone();
        data.eval_references = asked.iter().map(|p| vec![p.clone()]).collect();
        data.eval_prompts.remove(1);
        keep_references(&asked, &mut data);
        assert_eq!(data.eval_references, [vec![asked[0].clone()], vec![asked[2].clone()]]);
    }
}
