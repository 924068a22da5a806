//! The fields of a JSON object, taken one by one, so that each error can name its field.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::Error;

/// Text of a value in an error is cut after so many characters.
const MAX_FOUND: usize = 60;

/// An object whose fields are taken out as they are read.
#[derive(Debug)]
pub(crate) struct Input {
    place: String,
    fields: Map<String, Value>,
    /// Names that were asked for: the known fields.
    known: Vec<&'static str>,
}

impl Input {
    pub(crate) fn parse(place: &str, text: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|e| {
            Error::config(format!("{place}:{}:{}", e.line(), e.column()), "(file)", "JSON", e.to_string())
        })?;
        match value {
            Value::Object(fields) => Ok(Self::of(place, fields)),
            other => Err(Error::config(place, "(file)", "a JSON object", shown(&other))),
        }
    }

    /// An object that was parsed already; `place` names it in errors.
    pub(crate) fn of(place: &str, fields: Map<String, Value>) -> Self {
        Self { place: place.to_owned(), fields, known: Vec::new() }
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The fields that nobody has read yet.
    pub(crate) fn rest(&self) -> &Map<String, Value> {
        &self.fields
    }

    pub(crate) fn error(&self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::config(self.place.as_str(), field, expected, found)
    }

    /// The field, if it is there and not null.
    pub(crate) fn optional<T: DeserializeOwned>(
        &mut self,
        field: &'static str,
        expected: &str,
    ) -> Result<Option<T>, Error> {
        self.known.push(field);
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let found = shown(&value);
                serde_json::from_value(value).map(Some).map_err(|_| self.error(field, expected, found))
            }
        }
    }

    pub(crate) fn required<T: DeserializeOwned>(
        &mut self,
        field: &'static str,
        expected: &str,
    ) -> Result<T, Error> {
        self.optional(field, expected)?.ok_or_else(|| self.error(field, expected, "nothing"))
    }

    /// Refuses what is left: a field nobody reads is most likely misspelt.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        match self.fields.keys().next() {
            Some(unknown) => {
                let expected = format!("a field among {}", self.known.join(", "));
                Err(self.error(unknown, expected, "an unknown field"))
            }
            None => Ok(()),
        }
    }
}

/// A file's text, or that of standard input for `-`.
pub(crate) fn text_of(file: &Path) -> Result<String, Error> {
    let is_standard = file == Path::new("-");
    let text = if is_standard { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(file) };
    text.map_err(|e| Error::io("reading", file, e))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_FOUND) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
