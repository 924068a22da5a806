//! One turn of a conversation.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::error::Error;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text.
    Text(String),
    /// A list of `{"type": "text", "text": …}`. A template that does not look into parts gets them
    /// as one text.
    Parts(Vec<String>),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: Content,
    /// Further fields, handed to the template as they are; those that are `null` are left out.
    pub other: Map<String, Value>,
}

impl Message {
    /// A message that is a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(content.into()), other: Map::new() }
    }

    /// As a template sees it.
    pub(super) fn to_json(&self, takes_parts: bool) -> Value {
        let content = match &self.content {
            Content::Text(text) => json!(text),
            Content::Parts(parts) if takes_parts => {
                parts.iter().map(|text| json!({"type": "text", "text": text})).collect()
            }
            Content::Parts(parts) => json!(parts.concat()),
        };
        let mut all = self.other.clone();
        all.retain(|_, value| !value.is_null());
        all.insert("role".to_owned(), json!(self.role));
        all.insert("content".to_owned(), content);
        Value::Object(all)
    }
}

/// A message with its role first and its content next, as people write it: templates may print it whole.
pub(super) struct InOrder(pub(super) Value);

impl Serialize for InOrder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(fields) = &self.0 else { return self.0.serialize(serializer) };
        let first = ["role", "content"];
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for key in first {
            if let Some(value) = fields.get(key) {
                map.serialize_entry(key, value)?;
            }
        }
        for (key, value) in fields.iter().filter(|(key, _)| !first.contains(&key.as_str())) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Reads a conversation: a list of `{"role": …, "content": …}`.
///
/// ```
/// use rlhf_policy::chat::{Message, messages};
///
/// let read = messages(&serde_json::json!([{"role": "user", "content": "Hi"}])).unwrap();
/// assert_eq!(read, [Message::new("user", "Hi")]);
/// let error = messages(&serde_json::json!([{"content": "Hi"}])).unwrap_err();
/// assert_eq!(error.to_string(), "messages[0]: role: expected a text, found nothing");
/// ```
///
/// # Errors
/// What is no such list, by the number of the message and its field.
pub fn messages(value: &Value) -> Result<Vec<Message>, Error> {
    let Value::Array(list) = value else {
        return Err(Error::file("messages", format!("expected a list of messages, found {}", kind(value))));
    };
    let read = |(i, value): (usize, &Value)| {
        message(value).map_err(|what| Error::file(format!("messages[{i}]"), what))
    };
    list.iter().enumerate().map(read).collect()
}

fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(fields) = value else {
        return Err(format!("expected an object with role and content, found {}", kind(value)));
    };
    let mut other = fields.clone();
    let role = match other.remove("role") {
        Some(Value::String(role)) => role,
        found => return Err(format!("role: expected a text, found {}", kind_of(found.as_ref()))),
    };
    let content = match other.remove("content") {
        Some(Value::String(text)) => Content::Text(text),
        Some(Value::Array(parts)) => {
            let text = |(i, part): (usize, &Value)| part_text(i, part);
            Content::Parts(parts.iter().enumerate().map(text).collect::<Result<_, _>>()?)
        }
        found => {
            let found = kind_of(found.as_ref());
            return Err(format!("content: expected a text or a list of parts, found {found}"));
        }
    };
    Ok(Message { role, content, other })
}

fn part_text(i: usize, part: &Value) -> Result<String, String> {
    let text = match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => text,
        (Some("text"), None) => {
            return Err(format!("content[{i}].text: expected a text, found {}", kind(&part["text"])));
        }
        (Some(other), _) => return Err(format!("content[{i}].type: expected text, found {other}")),
        (None, _) => return Err(format!("content[{i}].type: expected text, found {}", kind(&part["type"]))),
    };
    Ok(text.to_owned())
}

fn kind_of(value: Option<&Value>) -> &'static str {
    value.map_or("nothing", kind)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
