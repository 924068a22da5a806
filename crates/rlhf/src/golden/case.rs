//! One case of a golden file, with messages for what it lacks.

use std::path::Path;

use serde_json::Value;

/// A nested list of numbers, flattened row by row. `null` and `"nan"` are NaN, `true` is 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) values: Vec<f64>,
    pub(super) shape: Vec<usize>,
}

impl Array {
    /// Reads a number or a list of lists of equal length.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Number(n) => Ok(Self { values: vec![n.as_f64().unwrap_or(f64::NAN)], shape: vec![] }),
            Value::Bool(b) => Ok(Self { values: vec![f64::from(u8::from(*b))], shape: vec![] }),
            Value::Null => Ok(Self { values: vec![f64::NAN], shape: vec![] }),
            Value::String(text) if text == "nan" => Ok(Self { values: vec![f64::NAN], shape: vec![] }),
            Value::Array(items) => {
                let parts = items.iter().map(Self::read).collect::<Result<Vec<_>, _>>()?;
                let inner = parts.first().map(|p| p.shape.clone()).unwrap_or_default();
                if parts.iter().any(|p| p.shape != inner) {
                    return Err("expected rows of one length, found several".to_owned());
                }
                let shape = [vec![parts.len()], inner].concat();
                Ok(Self { values: parts.into_iter().flat_map(|p| p.values).collect(), shape })
            }
            other => Err(format!("expected numbers, found {other}")),
        }
    }

    /// All numbers of lists that need not be of equal length.
    pub(super) fn flat(value: &Value) -> Result<Vec<f64>, String> {
        match value {
            Value::Array(items) => {
                let parts = items.iter().map(Self::flat).collect::<Result<Vec<_>, _>>()?;
                Ok(parts.concat())
            }
            other => Ok(Self::read(other)?.values),
        }
    }

    /// As whole numbers: token indices, labels, masks.
    pub(super) fn whole(&self) -> Vec<i64> {
        self.values.iter().map(|x| *x as i64).collect()
    }

    /// Rows of the last axis.
    pub(super) fn rows(&self) -> Vec<Vec<f64>> {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        self.values.chunks(width).map(<[f64]>::to_vec).collect()
    }
}

/// A case and the inputs it shares with the others of its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    folder: &'a Path,
    shared: &'a Value,
    case: &'a Value,
}

impl<'a> Case<'a> {
    /// `folder` is where the file lies.
    pub(super) fn new(folder: &'a Path, shared: &'a Value, case: &'a Value) -> Self {
        Self { folder, shared, case }
    }

    /// Where the file lies, which names other files from there.
    pub(super) fn folder(&self) -> &'a Path {
        self.folder
    }

    /// A part of the case as it stands there; `null` where there is none.
    pub(super) fn part(&self, name: &str) -> &'a Value {
        &self.case[name]
    }

    pub(super) fn name(&self) -> &'a str {
        self.case["name"].as_str().unwrap_or("")
    }

    pub(super) fn dtype(&self) -> &'a str {
        self.case["dtype"].as_str().unwrap_or("")
    }

    /// An input of the case, or else of the file, as it stands there.
    pub(super) fn raw(&self, name: &str) -> Result<&'a Value, String> {
        let own = self.case["inputs"].get(name);
        let value = own.or_else(|| self.shared.get(name));
        value.ok_or_else(|| format!("inputs.{name}: expected numbers, found nothing"))
    }

    /// An input of the case, or else of the file.
    pub(super) fn input(&self, name: &str) -> Result<Array, String> {
        Array::read(self.raw(name)?).map_err(|e| format!("inputs.{name}: {e}"))
    }

    /// A parameter; `null` is none.
    pub(super) fn param(&self, name: &str) -> Option<&'a Value> {
        self.case["params"].get(name).filter(|v| !v.is_null())
    }

    /// All parameters, by name.
    pub(super) fn params(&self) -> Vec<(&'a str, &'a Value)> {
        let map = self.case["params"].as_object();
        map.map(|m| m.iter().map(|(k, v)| (k.as_str(), v)).collect()).unwrap_or_default()
    }

    /// A parameter that must be a number.
    pub(super) fn number(&self, name: &str) -> Result<f64, String> {
        let value = self.param(name);
        value.and_then(Value::as_f64).ok_or_else(|| bad(name, "a number", value))
    }

    /// A parameter that is a number or absent.
    pub(super) fn number_or(&self, name: &str, absent: f64) -> Result<f64, String> {
        if self.param(name).is_none() { Ok(absent) } else { self.number(name) }
    }

    /// A parameter that must be a count.
    pub(super) fn count(&self, name: &str) -> Result<u64, String> {
        let value = self.param(name);
        value.and_then(Value::as_u64).ok_or_else(|| bad(name, "a whole number", value))
    }

    /// A parameter that must be a text.
    pub(super) fn text(&self, name: &str) -> Result<&'a str, String> {
        let value = self.param(name);
        value.and_then(Value::as_str).ok_or_else(|| bad(name, "a text", value))
    }

    /// A parameter that must be `true` or `false`.
    pub(super) fn switch(&self, name: &str) -> Result<bool, String> {
        let value = self.param(name);
        value.and_then(Value::as_bool).ok_or_else(|| bad(name, "true or false", value))
    }

    /// Refuses a parameter that the checker does not know: it could change the numbers.
    pub(super) fn knows_only(&self, names: &[&str]) -> Result<(), String> {
        match self.params().into_iter().find(|(name, _)| !names.contains(name)) {
            Some((name, _)) => Err(format!("params: expected one of {}, found {name}", names.join(", "))),
            None => Ok(()),
        }
    }

    /// The refusal of a case that the checker does not know.
    pub(super) fn unknown(&self) -> String {
        format!("expected a known case and dtype, found {} {}", self.name(), self.dtype())
    }

    /// What the case expects: `(quantity, value)` of outputs, gradients and metrics, and all that a
    /// trainer's run left. What is nested is named by its path: `metrics.kl`, `logs.0.loss`.
    pub(super) fn expected(&self) -> Vec<(String, &'a Value)> {
        let part = |key: &str, prefix: &str| -> Vec<(String, &'a Value)> {
            let map = self.case.get(key).and_then(Value::as_object);
            map.into_iter().flatten().flat_map(|(k, v)| leaves(format!("{prefix}{k}"), v)).collect()
        };
        let run = RUN.iter().filter_map(|key| Some(leaves((*key).to_owned(), self.case.get(key)?)));
        let run: Vec<_> = run.flatten().collect();
        [part("outputs", ""), part("grads", "grads."), part("metrics", "metrics."), run].concat()
    }
}

/// What a trainer's run leaves.
const RUN: [&str; 5] = ["micro_batches", "logs", "steps", "grad_norms_before_clip", "final_parameters"];

/// A value, or those that it holds by name.
fn leaves(name: String, value: &Value) -> Vec<(String, &Value)> {
    match value {
        Value::Object(map) => map.iter().flat_map(|(k, v)| leaves(format!("{name}.{k}"), v)).collect(),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().flat_map(|(i, v)| leaves(format!("{name}.{i}"), v)).collect()
        }
        _ => vec![(name, value)],
    }
}

fn bad(name: &str, expected: &str, found: Option<&Value>) -> String {
    let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
    format!("params.{name}: expected {expected}, found {found}")
}
