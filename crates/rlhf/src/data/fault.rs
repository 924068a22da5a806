//! What is wrong with a record, before the file's name is known.

use std::io;
use std::path::Path;

use serde_json::Value;

use crate::error::Error;

/// A record that cannot be used, or a stream that cannot be read on.
#[derive(Debug)]
pub(super) enum Fault {
    /// A record that is at fault.
    Record {
        /// Line or row, from 1.
        line: usize,
        /// Column or key.
        field: String,
        /// What is accepted.
        expected: String,
        /// What stands there.
        found: String,
        /// Whether the records after it are lost too.
        reach: Reach,
    },
    /// The operating system's refusal to read on.
    Io(io::Error),
}

/// How much of the file a fault spoils.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// One record.
    Record,
    /// That record and all after it.
    Rest,
}

impl Fault {
    /// A fault of one record.
    pub(super) fn new(
        line: usize,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (field, expected, found) = (field.into(), expected.into(), found.into());
        Self::Record { line, field, expected, found, reach: Reach::Record }
    }

    /// A fault after which nothing can be read.
    pub(super) fn end(
        line: usize,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (field, expected, found) = (field.into(), expected.into(), found.into());
        Self::Record { line, field, expected, found, reach: Reach::Rest }
    }

    /// Whether the records after it are lost.
    pub(super) fn ends_stream(&self) -> bool {
        !matches!(self, Self::Record { reach: Reach::Record, .. })
    }

    pub(super) fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Record { line, field, expected, found, .. } => {
                Error::record(path, line, field, expected, found)
            }
            Self::Io(e) => Error::io("reading", path, e),
        }
    }
}

/// A value in a few words, for the end of a message.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the text {}", quote(s)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The start of a text in quotation marks.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
