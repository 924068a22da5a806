//! Values as Python prints them, since templates were written against Python.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Lists in lists beyond this are refused: printing them would go as deep.
const MAX_DEPTH: usize = 100;

/// `str(value)`. What is not defined is empty.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => Ok(text.to_owned()),
        (ValueKind::Undefined, None) => Ok(String::new()),
        _ => {
            let mut out = String::new();
            repr(value, 0, &mut out)?;
            Ok(out)
        }
    }
}

fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    check(depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)?),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&item, depth + 1, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => write!(out, "{value}").map_err(|_| ErrorKind::WriteFailure)?,
    }
    Ok(())
}

/// Python's choice of quotes: single ones, unless there are some in the text and no double ones.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() { Ok(value.to_string()) } else { Ok(float(f64::try_from(value.clone())?)) }
}

/// The shortest digits that give the number back, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if !x.is_finite() {
        return x.to_string().to_lowercase();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// How `tojson` writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Json {
    /// Characters beyond ASCII as `\uXXXX`.
    pub(super) ascii: bool,
    /// Spaces a level, each item on a line of its own.
    pub(super) indent: Option<usize>,
    /// Between items, and between key and value.
    pub(super) separators: Option<[String; 2]>,
    /// Keys in order.
    pub(super) sorted: bool,
}

impl Json {
    /// `json.dumps(value)` with these settings.
    pub(super) fn dump(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        check(depth)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&self.number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], depth, &items, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.list(['{', '}'], depth, &keys, out, |key, out| {
                    self.key(key, out)?;
                    out.push_str(self.separators.as_ref().map_or(": ", |[_, colon]| colon));
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            other => {
                let what = format!("tojson: expected a value that JSON has, found {other}");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        [open, close]: [char; 2],
        depth: usize,
        items: &[Value],
        out: &mut String,
        one: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let comma = self.separators.as_ref().map(|[comma, _]| comma.as_str());
        let comma = comma.unwrap_or(if self.indent.is_some() { "," } else { ", " });
        let line = |level: usize| {
            let indent = self.indent.map(|n| " ".repeat((n * level).min(1000)));
            indent.map_or(String::new(), |spaces| format!("\n{spaces}"))
        };
        for (i, item) in items.iter().enumerate() {
            out.push_str(if i > 0 { comma } else { "" });
            out.push_str(&line(depth + 1));
            one(item, out)?;
        }
        if !items.is_empty() {
            out.push_str(&line(depth));
        }
        out.push(close);
        Ok(())
    }

    /// Keys are texts in JSON, whatever they were.
    fn key(&self, key: &Value, out: &mut String) -> Result<(), Error> {
        match key.as_str() {
            Some(text) => self.string(text, out),
            None => {
                let mut text = String::new();
                self.write(key, MAX_DEPTH, &mut text)?;
                self.string(&text, out);
            }
        }
        Ok(())
    }

    fn number(&self, value: &Value) -> Result<String, Error> {
        let text = number(value)?;
        Ok(match text.as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            _ => text,
        })
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    c.encode_utf16(&mut [0; 2])
                        .iter()
                        .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn check(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        let what = format!("expected lists nested {MAX_DEPTH} deep at most, found more");
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e16, "1e+16"),
            (123456789012345.0, "123456789012345.0"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (f64::INFINITY, "inf"),
        ];
        for (x, expected) in cases {
            assert_eq!(float(x), expected);
        }
    }

    #[test]
    fn containers_are_written_as_python_writes_them() {
        let value = Value::from_serialize(serde_json::json!([null, true, "it's", "a\n\"", {"k": 1}]));
        assert_eq!(text(&value).unwrap(), r#"[None, True, "it's", 'a\n"', {'k': 1}]"#);
        assert_eq!(text(&Value::UNDEFINED).unwrap(), "");
        assert_eq!(Json::default().dump(&value).unwrap(), r#"[null, true, "it's", "a\n\"", {"k": 1}]"#);
        assert!(Json::default().dump(&Value::UNDEFINED).is_err());
    }
}
