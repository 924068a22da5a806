//! Conversations as text, and the prompt that two transcripts share.
//!
//! Messages are joined as HH-RLHF writes its transcripts:
//!
//! ```text
//! [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
//!     →  "\n\nHuman: a\n\nAssistant: b"
//! ```
//!
//! (`system` becomes `System`). A prompt ends with `\n\nAssistant:`, so that the completion starts
//! with the space after it.

use serde_json::Value;

use super::fault::describe;

/// What opens the assistant's turn.
pub(super) const ASSISTANT: &str = "\n\nAssistant:";

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    role: Role,
    content: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    System,
    Human,
    Assistant,
}

/// What is wrong with a list of messages: where in it, what was expected, what was found.
pub(super) type Problem = (String, &'static str, String);

/// Reads `[{"role": …, "content": …}, …]`; other keys of a message are left alone.
pub(super) fn messages(items: &[Value]) -> Result<Vec<Message>, Problem> {
    items.iter().enumerate().map(|(i, item)| message(item, i)).collect()
}

fn message(item: &Value, i: usize) -> Result<Message, Problem> {
    let found = |value: Option<&Value>| value.map_or("nothing".to_owned(), describe);
    if !item.is_object() {
        return Err((format!("[{i}]"), "an object with `role` and `content`", describe(item)));
    }
    let role = match item.get("role").and_then(Value::as_str) {
        Some("system") => Role::System,
        Some("user") => Role::Human,
        Some("assistant") => Role::Assistant,
        _ => return Err((format!("[{i}].role"), "system, user or assistant", found(item.get("role")))),
    };
    match item.get("content").and_then(Value::as_str) {
        Some(content) => Ok(Message { role, content: content.to_owned() }),
        None => Err((format!("[{i}].content"), "text", found(item.get("content")))),
    }
}

/// All turns as one text.
pub(super) fn render(messages: &[Message]) -> String {
    messages.iter().map(|m| format!("\n\n{:?}: {}", m.role, m.content)).collect()
}

/// The turns as a prompt that the assistant answers; a last turn of the assistant's is left out.
pub(super) fn prompt(messages: &[Message]) -> String {
    let asked = match messages.split_last() {
        Some((last, before)) if last.role == Role::Assistant => before,
        _ => messages,
    };
    render(asked) + ASSISTANT
}

/// The turns as what follows a prompt; `None` unless the assistant speaks first.
pub(super) fn completion(messages: &[Message]) -> Option<String> {
    messages.first().filter(|m| m.role == Role::Assistant)?;
    // The prompt has the marker of the first turn already.
    render(messages).strip_prefix(ASSISTANT).map(str::to_owned)
}

/// Prompt and completion of a conversation that ends with the assistant.
pub(super) fn last_turn(messages: &[Message]) -> Option<(String, String)> {
    let (last, before) = messages.split_last()?;
    Some((render(before) + ASSISTANT, completion(std::slice::from_ref(last))?))
}

/// Where two transcripts part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// Neither is a transcript: no prompt.
    NoPrompt,
    /// Both have the assistant's turns but share none.
    NothingShared,
    /// After this many bytes, the end of an assistant's marker: the last that both have.
    At {
        /// Bytes of the shared prompt.
        prompt: usize,
        /// Whether it is the last turn of both.
        last: LastTurn,
    },
}

/// Whether two transcripts differ in their last turns only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastTurn {
    Yes,
    No,
}

/// Splits two transcripts at the last assistant's marker of their common beginning.
pub(super) fn part(chosen: &str, rejected: &str) -> Parting {
    let n_common = chosen.bytes().zip(rejected.bytes()).take_while(|(a, b)| a == b).count();
    let common = &chosen.as_bytes()[..n_common];
    let marker = ASSISTANT.as_bytes();
    match common.windows(marker.len()).rposition(|w| w == marker) {
        Some(at) => {
            let prompt = at + marker.len();
            let later = [chosen, rejected].iter().any(|text| text[prompt..].contains(ASSISTANT));
            Parting::At { prompt, last: if later { LastTurn::No } else { LastTurn::Yes } }
        }
        None if chosen.contains(ASSISTANT) && rejected.contains(ASSISTANT) => Parting::NothingShared,
        None => Parting::NoPrompt,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Vec<Message> {
        messages(value.as_array().unwrap()).unwrap()
    }

    fn conversation() -> Vec<Message> {
        read(&json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "name": "x"},
        ]))
    }

    #[test]
    fn messages_become_a_transcript() {
        let m = conversation();
        assert_eq!(render(&m), "\n\nSystem: s\n\nHuman: a\n\nAssistant: b");
        assert_eq!(prompt(&m), "\n\nSystem: s\n\nHuman: a\n\nAssistant:");
        assert_eq!(prompt(&m[..2]), prompt(&m));
        assert_eq!(completion(&m[2..]).unwrap(), " b");
        assert_eq!(completion(&m), None);
        let (p, c) = last_turn(&m).unwrap();
        assert_eq!(p + &c, render(&m));
        assert_eq!(last_turn(&m[..2]), None);
    }

    #[test]
    fn a_message_at_fault_is_named() {
        let problem = |v: Value| messages(v.as_array().unwrap()).unwrap_err();
        let ok = json!({"role": "user", "content": "a"});
        let p = problem(json!([ok, {"role": "bot", "content": "a"}]));
        assert_eq!(p, ("[1].role".into(), "system, user or assistant", "the text \"bot\"".into()));
        let p = problem(json!([{"role": "user"}]));
        assert_eq!(p, ("[0].content".into(), "text", "nothing".into()));
        let p = problem(json!(["a"]));
        assert_eq!(p, ("[0]".into(), "an object with `role` and `content`", "the text \"a\"".into()));
    }

    #[test]
    fn transcripts_part_at_the_last_marker_they_share() {
        let prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:";
        let at = |last| Parting::At { prompt: prompt.len(), last };
        assert_eq!(part(&format!("{prompt} x"), &format!("{prompt} y")), at(LastTurn::Yes));
        // Both answers start alike: the prompt still ends at the marker.
        assert_eq!(part(&format!("{prompt} same x"), &format!("{prompt} same y")), at(LastTurn::Yes));
        // One goes on with more turns, so the two last turns have different prompts.
        let longer = format!("{prompt} x\n\nHuman: d\n\nAssistant: e");
        assert_eq!(part(&longer, &format!("{prompt} y")), at(LastTurn::No));
        assert_eq!(
            part("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: x"),
            Parting::NothingShared
        );
        assert_eq!(part("good", "bad"), Parting::NoPrompt);
        // A common beginning may end inside a character: "é" and "è" share a byte.
        assert_eq!(
            part("\n\nAssistant: é", "\n\nAssistant: è"),
            Parting::At { prompt: 12, last: LastTurn::Yes }
        );
    }
}
