//! Pipelines as TOML: built-in files, `base`, `[smoke]`, `--set`, and errors that name the key.
//!
//! A pipeline's file holds every key with its default and where the number comes from, so there is
//! no default in the code. A user's file names a built-in one with `base = "superhf"` and sets what
//! differs. What is in force is written into the run folder as `config.toml`.

mod pipelines;

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

pub use pipelines::*;

use crate::error::Error;

/// The files under `pipelines/`, by name.
const BUILT_IN: [(&str, &str); 10] = [
    ("grpo", include_str!("../../../pipelines/grpo.toml")),
    ("nested-reft", include_str!("../../../pipelines/nested-reft.toml")),
    ("nested-reft-descriptions", include_str!("../../../pipelines/nested-reft-descriptions.toml")),
    ("nested-reft-word-problems", include_str!("../../../pipelines/nested-reft-word-problems.toml")),
    ("reward", include_str!("../../../pipelines/reward.toml")),
    ("reward-arguments", include_str!("../../../pipelines/reward-arguments.toml")),
    ("rspo", include_str!("../../../pipelines/rspo.toml")),
    ("rspo-snippets", include_str!("../../../pipelines/rspo-snippets.toml")),
    ("superhf", include_str!("../../../pipelines/superhf.toml")),
    ("superhf-snippets", include_str!("../../../pipelines/superhf-snippets.toml")),
];

/// What stands on the command line beside the config's name.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `key=value`, the key with dots.
    pub set: Vec<String>,
    /// Applies the file's `[smoke]` table.
    pub smoke: bool,
    /// Replaces `seed`.
    pub seed: Option<u64>,
    /// Replaces `device`.
    pub device: Option<String>,
}

impl Overrides {
    /// Whether the command line changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && !self.smoke && self.seed.is_none() && self.device.is_none()
    }
}

/// A pipeline with its effective config.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The typed config.
    pub pipeline: Pipeline,
    /// `config.toml` of the run folder.
    pub text: String,
}

/// Loads a built-in pipeline by name, or a config file by path.
///
/// # Errors
/// [`Error::Config`] that names file, line and key: a file that is missing, TOML that does not
/// parse, a key that is unknown, missing or out of range.
pub fn load(name_or_path: &str, overrides: &Overrides) -> Result<Effective, Error> {
    let (place, text) = source(name_or_path)?;
    let mut table = merged(&place, &text, 0)?;
    let smoke = table.remove("smoke");
    if overrides.smoke
        && let Some(Value::Table(changes)) = smoke
    {
        for (key, value) in changes {
            set(&mut table, &place, &key, value)?;
        }
    }
    if let Some(seed) = overrides.seed {
        let seed = i64::try_from(seed)
            .map_err(|_| Error::config("command line", "--seed", "at most 2^63 − 1", seed.to_string()))?;
        table.insert("seed".to_owned(), Value::Integer(seed));
    }
    if let Some(device) = &overrides.device {
        table.insert("device".to_owned(), Value::String(device.clone()));
    }
    for item in &overrides.set {
        let (key, value) = parse_set(item)?;
        set(&mut table, "command line", &key, value)?;
    }
    let pipeline = match table.get("pipeline").and_then(Value::as_str) {
        Some("superhf") => {
            let config: SuperhfPipeline = typed(&table, &place, &text, overrides)?;
            config.check()?;
            Pipeline::Superhf(Box::new(config))
        }
        Some("grpo") => {
            variants::<GrpoVariant>(&table, &place, overrides)?;
            let config: GrpoPipeline = typed(&table, &place, &text, overrides)?;
            config.check()?;
            Pipeline::Grpo(Box::new(config))
        }
        Some("rspo") => {
            variants::<Variant>(&table, &place, overrides)?;
            let config: RspoPipeline = typed(&table, &place, &text, overrides)?;
            config.check()?;
            Pipeline::Rspo(Box::new(config))
        }
        Some("reward") => {
            let config: RewardPipeline = typed(&table, &place, &text, overrides)?;
            config.check()?;
            Pipeline::Reward(Box::new(config))
        }
        other => {
            let found = other.unwrap_or("nothing").to_owned();
            return Err(Error::config(place, "pipeline", "superhf, rspo, grpo or reward", found));
        }
    };
    Ok(Effective { pipeline, text: effective_text(&table)? })
}

fn effective_text(table: &Table) -> Result<String, Error> {
    toml::to_string(table).map_err(|e| Error::Failed(format!("config.toml: {e}")))
}

fn source(name_or_path: &str) -> Result<(String, String), Error> {
    if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
        return Ok((format!("pipelines/{name}.toml"), (*text).to_owned()));
    }
    let path = Path::new(name_or_path);
    if !path.exists() {
        let names: Vec<&str> = BUILT_IN.iter().map(|(n, _)| *n).collect();
        let expected = format!("{} or the path of a config file", names.join(", "));
        let found = format!("{name_or_path}, which is neither");
        return Err(Error::config("command line", "NAME|CONFIG.toml", expected, found));
    }
    let text = fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?;
    Ok((name_or_path.to_owned(), text))
}

/// The file's table on top of its base's.
fn merged(place: &str, text: &str, depth: usize) -> Result<Table, Error> {
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(0, |s| line_of(text, s.start));
        Error::config(format!("{place}:{line}"), "(file)", "TOML", e.message())
    })?;
    let Some(base) = table.remove("base") else { return Ok(table) };
    let name = base.as_str().unwrap_or_default().to_owned();
    if depth > 3 || !BUILT_IN.iter().any(|(n, _)| *n == name) {
        let names: Vec<&str> = BUILT_IN.iter().map(|(n, _)| *n).collect();
        return Err(Error::config(place, "base", format!("one of {}", names.join(", ")), base.to_string()));
    }
    let (base_place, base_text) = source(&name)?;
    let mut out = merged(&base_place, &base_text, depth + 1)?;
    lay_over(&mut out, table);
    Ok(out)
}

fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            // `[smoke]` is a list of changes: the file's own list counts whole.
            (Some(Value::Table(a)), Value::Table(b)) if key != "smoke" => lay_over(a, b),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn parse_set(item: &str) -> Result<(String, Value), Error> {
    let Some((key, value)) = item.split_once('=') else {
        return Err(Error::config("command line", "--set", "key=value", item));
    };
    let (key, value) = (key.trim(), value.trim());
    // A value that is no TOML is taken as text: `--set task.path=data/x.tsv` needs no quotes.
    let parsed = format!("x = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
    Ok((key.to_owned(), parsed.unwrap_or_else(|| Value::String(value.to_owned()))))
}

/// Replaces an existing key; whole numbers become floats where a float stood.
fn set(table: &mut Table, place: &str, key: &str, value: Value) -> Result<(), Error> {
    let mut at = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            let Some(old) = at.get_mut(part) else { break };
            *old = match (&*old, value) {
                (Value::Float(_), Value::Integer(n)) => Value::Float(n as f64),
                (_, value) => value,
            };
            return Ok(());
        }
        match at.get_mut(part) {
            Some(Value::Table(inner)) => at = inner,
            _ => break,
        }
    }
    Err(Error::config(place, key, "a key of this pipeline", "an unknown one"))
}

/// Deserialises the merged table; a mistake is reported at its key: on the command line where it
/// was set there, else with the line of the user's file where the key stands.
fn typed<T: DeserializeOwned>(
    table: &Table,
    place: &str,
    text: &str,
    overrides: &Overrides,
) -> Result<T, Error> {
    let whole = effective_text(table)?;
    toml::from_str(&whole).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start);
        let line = whole[..at].rfind('\n').map_or(0, |i| i + 1);
        let n_before = whole[..line].matches('\n').count();
        let field = keys(&whole).into_iter().find(|(n, _)| *n == n_before + 1).map(|(_, key)| key);
        let shown = whole[line..].lines().next().unwrap_or_default();
        let field = field.unwrap_or_else(|| shown.to_owned());
        let value = shown.split_once('=').map_or("nothing", |(_, v)| v.trim());
        let (expected, found) = in_words(e.message(), value);
        let set = overrides.set.iter().any(|s| s.split('=').next().is_some_and(|k| k.trim() == field));
        let in_file = keys(text).into_iter().find(|(_, key)| *key == field);
        let place = match in_file {
            _ if set => "command line".to_owned(),
            Some((n, _)) => format!("{place}:{n}"),
            None => place.to_owned(),
        };
        Error::config(place, field, expected, found)
    })
}

/// Reads each entry of `variants` by itself, so that an error names the entry and shows it.
fn variants<T: DeserializeOwned>(table: &Table, place: &str, overrides: &Overrides) -> Result<(), Error> {
    let Some(Value::Array(all)) = table.get("variants") else { return Ok(()) };
    let set = overrides.set.iter().any(|s| s.split('=').next().is_some_and(|key| key.trim() == "variants"));
    for (i, entry) in all.iter().enumerate() {
        if let Err(e) = entry.clone().try_into::<T>() {
            let shown = entry.to_string();
            let (expected, found) = in_words(e.message(), "");
            let found = if found.is_empty() { shown } else { format!("{found} in {shown}") };
            let place = if set { "command line" } else { place };
            return Err(Error::config(place, format!("variants[{i}]"), expected, found));
        }
    }
    Ok(())
}

/// The keys of a TOML text as `section.key`, each with its line from 1.
fn keys(text: &str) -> Vec<(usize, String)> {
    let mut section = String::new();
    let mut out = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            name.split(']').next().unwrap_or_default().clone_into(&mut section);
        } else if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let key = key.trim().trim_matches('"');
            out.push((n + 1, if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }));
        }
    }
    out
}

/// The parser's message as what was expected and what was found.
fn in_words(message: &str, value: &str) -> (String, String) {
    if let Some(name) = message.strip_prefix("missing field ") {
        return (format!("the key {name}"), "none".to_owned());
    }
    let Some((before, expected)) = message.split_once("expected ") else {
        return (message.to_owned(), value.to_owned());
    };
    let (expected, told) = match expected.split_once(", found ") {
        Some((expected, found)) => (expected, Some(found)),
        None => (expected, None),
    };
    let expected = if expected == "usize" { "a whole number of at least 0" } else { expected };
    // Where the key's value is a whole table, the parser's own word for what it found in it.
    let named = ["invalid value: ", "invalid type: "].into_iter().find_map(|p| before.strip_prefix(p));
    let value = match told.or(named.map(|found| found.trim_end_matches([',', ' ']))) {
        Some(found) if value.is_empty() => found,
        _ => value,
    };
    match before.strip_prefix("unknown field ") {
        Some(name) => {
            (expected.to_owned(), format!("the unknown field {}", name.trim_end_matches([',', ' '])))
        }
        None => (expected.to_owned(), value.to_owned()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset.min(text.len())].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(set: &[&str]) -> String {
        let set = set.iter().map(|s| (*s).to_owned()).collect();
        load("superhf", &Overrides { set, ..Overrides::default() }).expect_err("refused").to_string()
    }

    #[test]
    fn built_in_pipelines_load_with_and_without_smoke() {
        for (name, _) in BUILT_IN {
            for smoke in [false, true] {
                let loaded = load(name, &Overrides { smoke, ..Overrides::default() });
                assert!(loaded.is_ok(), "{name}: {}", loaded.expect_err("shown"));
            }
        }
    }

    #[test]
    fn the_effective_config_loads_again_to_itself() {
        let overrides = Overrides { smoke: true, seed: Some(7), ..Overrides::default() };
        let first = load("superhf-snippets", &overrides).expect("loads");
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("config.toml");
        fs::write(&path, &first.text).expect("written");
        let again = load(path.to_str().expect("UTF-8"), &Overrides::default()).expect("loads");
        assert_eq!(again.text, first.text);
        assert!(first.text.contains("seed = 7"));
    }

    #[test]
    fn mistakes_name_the_key_and_the_value() {
        assert_eq!(
            error(&["superhf.bta=1"]),
            "command line: superhf.bta: expected a key of this pipeline, found an unknown one"
        );
        assert_eq!(
            error(&["superhf.beta=-1"]),
            "command line: superhf.beta: expected a finite number of at least 0, found -1.0"
        );
        assert_eq!(
            error(&["superhf.kl_reduction=median"]),
            "command line: superhf.kl_reduction: expected `mean` or `sum`, found \"median\""
        );
        assert_eq!(
            error(&["superhf.keep=0"]),
            "command line: superhf.keep: expected a nonzero usize, found 0"
        );
    }

    #[test]
    fn an_unknown_key_of_a_file_is_named_with_its_line() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("mine.toml");
        let refused = |text: &str| {
            fs::write(&path, text).expect("written");
            load(path.to_str().expect("UTF-8"), &Overrides::default()).expect_err("refused").to_string()
        };
        let e = refused("base = \"superhf\"\n[superhf]\nbetta = 0.1\n");
        assert!(e.contains("mine.toml:3: superhf.betta: expected one of `num_generations`, "), "{e}");
        assert!(e.ends_with(", found the unknown field `betta`"), "{e}");
        // The key of the section at fault, not the first of that name.
        let e = refused("base = \"superhf\"\n[sft]\nweight_decay = 0.1\n[superhf]\nweight_decay = -1.0\n");
        assert!(
            e.ends_with(
                "mine.toml:5: superhf.weight_decay: expected a finite number of at least 0, found -1.0"
            ),
            "{e}"
        );
    }
}
