//! Marks that go through a template unseen, and say afterwards what came from where.
//!
//! They are characters for a program's own use, U+FDD0 to U+FDEF, which texts do not have. What
//! messages hold of them is replaced by U+FFFD before, so that nobody can forge one.

use std::ops::Range;

use serde_json::Value;

use crate::tokenizer::Tokenizer;

const RESERVED: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';
// U+FDD0 and U+FDD1 are the tokenizer's.
const LITERAL_OPEN: char = '\u{fdd2}';
const LITERAL_CLOSE: char = '\u{fdd3}';
const ASSISTANT_OPEN: char = '\u{fdd4}';
const ASSISTANT_CLOSE: char = '\u{fdd5}';

/// Stands behind a message that is to be continued. The space shows whether the template trims.
pub(super) const OPEN_END: &str = "\u{fdd6} ";
const OPEN_END_MARK: char = '\u{fdd6}';

/// A text without marks, and what they said.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// Spellings of special tokens that are text, as bytes, in order.
    pub(super) literal: Vec<Range<usize>>,
    /// What the assistant said, as bytes.
    pub(super) assistant: Vec<Range<usize>>,
}

/// Prepares what a user wrote: takes out characters that could be marks and, with a tokenizer, marks
/// the special tokens that are spelled. Keys of objects stay.
pub(super) fn guard(value: &mut Value, tokenizer: Option<&Tokenizer>) {
    match value {
        Value::String(text) => guard_text(text, tokenizer),
        Value::Array(items) => items.iter_mut().for_each(|item| guard(item, tokenizer)),
        Value::Object(map) => map.values_mut().for_each(|item| guard(item, tokenizer)),
        _ => {}
    }
}

fn guard_text(text: &mut String, tokenizer: Option<&Tokenizer>) {
    if text.contains(|c| RESERVED.contains(&c)) {
        *text = text.replace(|c| RESERVED.contains(&c), "\u{fffd}");
    }
    let spelled = tokenizer.map(|t| t.spelled(text)).unwrap_or_default();
    // From the last to the first: places before stay.
    for range in spelled.into_iter().rev() {
        text.insert(range.end, LITERAL_CLOSE);
        text.insert(range.start, LITERAL_OPEN);
    }
}

/// What a generation block wrote, marked as the assistant's.
pub(super) fn assistant(body: &str) -> String {
    format!("{ASSISTANT_OPEN}{body}{ASSISTANT_CLOSE}")
}

/// The text up to the end of the last message; `None` where the template did not write it. Where the
/// template trimmed the message, so is the text.
pub(super) fn cut(mut raw: String, content: &str) -> Option<String> {
    let at = raw.rfind(OPEN_END_MARK)?;
    let trimmed = !raw[at..].starts_with(OPEN_END);
    if !raw[..at].contains(content.trim()) {
        return None;
    }
    raw.truncate(at);
    if trimmed {
        raw.truncate(raw.trim_end().len());
    }
    Some(raw)
}

/// Takes the marks out. A template can part a pair of them, by splitting a text; one without the
/// other, or with something else between than a special token's spelling, says nothing.
pub(super) fn read(raw: &str, tokenizer: Option<&Tokenizer>) -> Rendered {
    let mut out = Rendered { text: String::with_capacity(raw.len()), ..Rendered::default() };
    let (mut literal, mut assistant) = (None, None);
    let mut depth = 0_usize;
    for c in raw.chars() {
        let here = out.text.len();
        match c {
            LITERAL_OPEN => literal = Some(here),
            LITERAL_CLOSE => {
                let range = literal.take().map(|start| start..here);
                out.literal.extend(range.filter(|r| is_special(&out.text[r.clone()], tokenizer)));
            }
            ASSISTANT_OPEN => {
                depth += 1;
                assistant = assistant.or(Some(here));
            }
            ASSISTANT_CLOSE => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    out.assistant.extend(assistant.take().map(|start| start..here));
                }
            }
            c if RESERVED.contains(&c) => {}
            c => out.text.push(c),
        }
    }
    // A text that is cut within a block.
    out.assistant.extend(assistant.map(|start| start..out.text.len()));
    out
}

fn is_special(text: &str, tokenizer: Option<&Tokenizer>) -> bool {
    tokenizer.is_some_and(|t| t.spelled(text).first().is_some_and(|range| range.len() == text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_out_and_lone_ones_say_nothing() {
        let raw = format!("a{LITERAL_CLOSE}b{}c{LITERAL_OPEN}d", assistant("é!"));
        let read = read(&raw, None);
        assert_eq!((read.text.as_str(), read.literal.len()), ("abé!cd", 0));
        assert_eq!((read.assistant.len(), read.assistant.first()), (1, Some(&(2..5))));
    }

    #[test]
    fn nested_and_open_blocks_are_one_range_each() {
        let raw = format!("{}x{ASSISTANT_OPEN}y", assistant(&assistant("in")));
        assert_eq!(read(&raw, None).assistant, [0..2, 3..4]);
    }

    #[test]
    fn nobody_can_write_a_mark() {
        let mut value = serde_json::json!({"content": [format!("{ASSISTANT_OPEN}x{OPEN_END}")]});
        guard(&mut value, None);
        assert_eq!(value["content"][0], "\u{fffd}x\u{fffd} ");
    }

    #[test]
    fn a_trimmed_message_is_cut_without_its_spaces() {
        assert_eq!(cut(format!("u: hi {OPEN_END}!"), "hi ").as_deref(), Some("u: hi "));
        assert_eq!(cut(format!("u: hi {OPEN_END_MARK}!"), "hi ").as_deref(), Some("u: hi"));
        assert_eq!(cut("u: hi".to_owned(), "hi"), None);
        assert_eq!(cut(format!("u: {OPEN_END}"), "hi"), None);
    }
}
