//! The Jinja that transformers gives its chat templates.

use std::error::Error as _;
use std::fmt::{self, Write};
use std::io;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, TimeDelta};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::globals::{cycler, joiner};
use minijinja_contrib::pycompat;

use super::{Now, generation, marks, python};

/// Most steps that a template may take: about a hundred thousand messages of a usual one.
pub const FUEL: u64 = 10_000_000;

/// Most bytes that a template may write: 64 MiB.
pub const MAX_OUTPUT: usize = 64 << 20;

/// A template may call itself this deep.
const MAX_RECURSION: usize = 100;

/// The template's name in an environment.
pub(super) const NAME: &str = "chat_template";

/// An environment without a template.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_debug(false);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(MAX_RECURSION);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(|out, _, value| {
        out.write_str(&python::text(value)?).map_err(|_| ErrorKind::WriteFailure)?;
        Ok(())
    });
    env.set_unknown_method_callback(method);
    env.add_filter(generation::FILTER, |body: String| marks::assistant(&body));
    env.add_filter("string", |value: &Value| python::text(value));
    env.add_filter("tojson", tojson);
    // Python's texts and dicts have a length and items, which is what Jinja asks for.
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    env.add_function("raise_exception", raise_exception);
    env.add_function("cycler", cycler);
    env.add_function("joiner", joiner);
    env
}

/// Runs the template; what is wrong is a text with the line.
pub(super) fn run(env: &Environment<'_>, context: Value) -> Result<String, String> {
    let template = env.get_template(NAME).map_err(|e| describe(&e))?;
    let mut out = Bounded(Vec::new());
    template.render_captured_to(context, &mut out).map_err(|e| describe(&e))?;
    String::from_utf8(out.0).map_err(|e| e.to_string())
}

/// The text so far, of a bounded length.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("expected at most {MAX_OUTPUT} bytes of text, found more")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template said by `raise_exception`.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::text(message)?;
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refused(message)))
}

/// An error with its line, and a refusal in the template's own words.
pub(super) fn describe(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    let mut what = format!("{}{}", error.kind(), error.detail().map_or(String::new(), |d| format!(": {d}")));
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(Refused(message)) = inner.downcast_ref() {
            return format!("{line}the template refuses these messages: {message}");
        }
        what = format!("{what}: {inner}");
        source = inner.source();
    }
    format!("{line}{what}")
}

/// `strftime_now(format)` at a given time.
pub(super) fn strftime_now(now: Now) -> Value {
    Value::from_function(move |format: String| -> Result<String, Error> {
        let fault = |what: String| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"));
        let time = DateTime::from_timestamp(now.unix_seconds, 0)
            .and_then(|time| {
                time.naive_utc().checked_add_signed(TimeDelta::seconds(now.utc_offset_seconds.into()))
            })
            .ok_or_else(|| fault(format!("expected a time that a calendar has, found {now:?}")))?;
        // A formatter that meets an unknown conversion panics when it is printed.
        let items: Vec<Item<'_>> = StrftimeItems::new(&format).collect();
        let mut out = String::new();
        let known = !items.contains(&Item::Error)
            && write!(out, "{}", time.format_with_items(items.into_iter())).is_ok();
        if known {
            Ok(out)
        } else {
            Err(fault(format!("expected conversions of strftime, found {format:?}")))
        }
    })
}

/// `json.dumps` with transformers' defaults: no HTML escapes, characters beyond ASCII as they are.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands over keyword arguments by value")]
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<&Value>>("indent")?;
    let indent = indent.filter(|indent| !indent.is_none());
    let json = python::Json {
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: indent.map(|indent| usize::try_from(indent.clone())).transpose()?,
        separators: separators(options.get("separators")?)?,
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    json.dump(value)
}

fn separators(value: Option<&Value>) -> Result<Option<[String; 2]>, Error> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    let texts: Vec<String> = value.try_iter()?.map(|one| python::text(&one)).collect::<Result<_, _>>()?;
    let two: Result<[String; 2], _> = texts.try_into();
    two.map(Some).map_err(|texts| {
        let what = format!("tojson: separators: expected two texts, found {}", texts.len());
        Error::new(ErrorKind::InvalidOperation, what)
    })
}

/// Python's methods of texts, dicts and lists.
fn method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().zip(args.first().and_then(Value::as_str));
    match (name, text) {
        ("removeprefix", Some((text, prefix))) => Ok(text.strip_prefix(prefix).unwrap_or(text).into()),
        ("removesuffix", Some((text, suffix))) => Ok(text.strip_suffix(suffix).unwrap_or(text).into()),
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}
