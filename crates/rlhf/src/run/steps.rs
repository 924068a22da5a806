//! `steps.jsonl`: one JSON object a step.
//!
//! ```text
//! {"step":3,"phase":"superhf β=0.35 seed 2","kl":0.0125,"loss":1.5,"time/rollout":0.81}
//! ```
//!
//! `step` and `phase` come first, then the values by name, then the times by name, whose keys alone begin
//! with `time/`: two runs of one config and seed differ in nothing but what follows the first such key.
//! Numbers are printed with as few digits as bring back the same `f64`. JSON has no NaN: a number that is
//! not finite stops the run instead.

use std::collections::BTreeMap;
use std::path::Path;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::log::{AppendLog, Mark};
use crate::error::Error;

/// How the keys of times begin in the file.
pub const TIME_PREFIX: &str = "time/";

/// What a step has to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepRecord {
    /// Number of the step, growing through all phases of a run.
    pub step: u64,
    /// Part of the pipeline, as in `sft` or `superhf β=0.35 seed 2`.
    pub phase: String,
    /// Metrics by TRL's names, as in `rewards/margins`; each with the unit its name implies.
    pub values: BTreeMap<String, f64>,
    /// Wall-clock seconds by name, without the prefix `time/`.
    pub times: BTreeMap<String, f64>,
}

impl StepRecord {
    /// A record without values.
    pub fn new(step: u64, phase: impl Into<String>) -> Self {
        Self { step, phase: phase.into(), ..Self::default() }
    }

    /// With the value `key` too.
    #[must_use]
    pub fn value(mut self, key: impl Into<String>, value: f64) -> Self {
        self.values.insert(key.into(), value);
        self
    }

    /// With the time `key` too, in seconds.
    #[must_use]
    pub fn time(mut self, key: impl Into<String>, seconds: f64) -> Self {
        self.times.insert(key.into(), seconds);
        self
    }

    /// Whether every number can be written.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] with the step and the first value or time that is NaN or infinite; `loss`
    /// before all others, since they follow from it.
    pub fn check_finite(&self) -> Result<(), Error> {
        let loss = self.values.get_key_value("loss");
        match loss.into_iter().chain(&self.values).chain(&self.times).find(|(_, v)| !v.is_finite()) {
            None => Ok(()),
            Some((term, &value)) => Err(Error::NotFinite { step: self.step, term: term.clone(), value }),
        }
    }
}

impl Serialize for StepRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("step", &self.step)?;
        map.serialize_entry("phase", &self.phase)?;
        for (key, value) in &self.values {
            map.serialize_entry(key, value)?;
        }
        for (key, value) in &self.times {
            map.serialize_entry(&format!("{TIME_PREFIX}{key}"), value)?;
        }
        map.end()
    }
}

/// The writer of `steps.jsonl`.
#[derive(Debug)]
pub struct StepsWriter {
    log: AppendLog,
    last_step: Option<u64>,
}

impl StepsWriter {
    /// An empty file at `path`; what was there is cut off.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self, Error> {
        Ok(Self { log: AppendLog::create(path)?, last_step: None })
    }

    /// The file at `path`, cut back to what it was at `mark`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::Failed`] when what the file holds before `mark` has changed since.
    pub fn reopen(path: &Path, mark: &Mark) -> Result<Self, Error> {
        super::log::check(path, mark).map_err(Error::Failed)?;
        let log = AppendLog::reopen(path, mark)?;
        let last_step = read_records(path)?.last().map(|r| r.step);
        Ok(Self { log, last_step })
    }

    /// Adds a record.
    ///
    /// # Panics
    ///
    /// When steps do not grow, or a value is named `step`, `phase` or `time/…`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] for NaN and infinity (nothing is written then), [`Error::Io`].
    #[track_caller]
    pub fn append(&mut self, record: &StepRecord) -> Result<(), Error> {
        if let Some(last) = self.last_step {
            assert!(record.step > last, "step record: expected a step above {last}, found {}", record.step);
        }
        for key in record.values.keys() {
            let reserved = key == "step" || key == "phase" || key.starts_with(TIME_PREFIX);
            assert!(!reserved, "step record: expected a name of a metric, found the reserved {key:?}");
        }
        record.check_finite()?;
        let mut line = serde_json::to_vec(record).map_err(|e| Error::Failed(format!("step record: {e}")))?;
        line.push(b'\n');
        self.log.append(&line)?;
        self.last_step = Some(record.step);
        Ok(())
    }

    /// Waits until all records are on the disk; the mark goes into the checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<Mark, Error> {
        self.log.sync()
    }
}

/// The lines of the `steps.jsonl` at `path`, byte for byte, without their times.
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Record`] with the line that is not a whole step record.
pub fn comparable_lines(path: &Path) -> Result<Vec<String>, Error> {
    let text = read(path)?;
    let strip = |(i, line): (usize, &str)| parse(path, i + 1, line).map(|_| without_times(line));
    text.lines().enumerate().map(strip).collect()
}

/// The records of the `steps.jsonl` at `path`.
///
/// # Errors
///
/// As [`comparable_lines`].
pub fn read_records(path: &Path) -> Result<Vec<StepRecord>, Error> {
    let text = read(path)?;
    text.lines().enumerate().map(|(i, line)| parse(path, i + 1, line)).collect()
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))
}

/// Times come last, and an unescaped quote behind a comma opens a key: so the first `,"time/` is where they
/// begin, also when a phase has these letters in it (its quotes are escaped).
fn without_times(line: &str) -> String {
    match line.find(",\"time/") {
        Some(at) => format!("{}}}", &line[..at]),
        None => line.to_owned(),
    }
}

fn parse(path: &Path, line: usize, text: &str) -> Result<StepRecord, Error> {
    let fail = |field: &str, expected: &str, found: String| Error::record(path, line, field, expected, found);
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
        .map_err(|e| fail("line", "a whole JSON object", format!("{:?} ({e})", shortened(text))))?;
    let mut record = StepRecord::default();
    let step = fields.get("step");
    record.step = step
        .and_then(serde_json::Value::as_u64)
        .ok_or_else(|| fail("step", "a whole number", step.map_or("nothing".into(), ToString::to_string)))?;
    for (key, value) in &fields {
        if key == "step" {
            continue;
        }
        if key == "phase" {
            let phase = value.as_str().ok_or_else(|| fail(key, "text", value.to_string()))?;
            phase.clone_into(&mut record.phase);
            continue;
        }
        let number = value.as_f64().ok_or_else(|| fail(key, "a number", value.to_string()))?;
        match key.strip_prefix(TIME_PREFIX) {
            Some(name) => record.times.insert(name.to_owned(), number),
            None => record.values.insert(key.clone(), number),
        };
    }
    Ok(record)
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord::new(step, "sft").value("loss", 0.1 + 0.2).value("kl", 1.0).time("rollout", 0.5)
    }

    #[test]
    fn bytes_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let mut steps = StepsWriter::create(&path).unwrap();
        steps.append(&record(0)).unwrap();
        steps.append(&StepRecord::new(7, "superhf β=0.35 \",\"time/x")).unwrap();
        // 0.1 + 0.2 is the f64 whose shortest decimal is 0.30000000000000004.
        let first = r#"{"step":0,"phase":"sft","kl":1.0,"loss":0.30000000000000004,"time/rollout":0.5}"#;
        let second = r#"{"step":7,"phase":"superhf β=0.35 \",\"time/x"}"#;
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{first}\n{second}\n"));
        assert_eq!(steps.sync().unwrap().len, text.len() as u64);
        let stripped = r#"{"step":0,"phase":"sft","kl":1.0,"loss":0.30000000000000004}"#;
        assert_eq!(comparable_lines(&path).unwrap(), [stripped, second]);
        let records = read_records(&path).unwrap();
        assert_eq!(records, [record(0), StepRecord::new(7, "superhf β=0.35 \",\"time/x")]);
    }

    #[test]
    fn numbers_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let mut steps = StepsWriter::create(&path).unwrap();
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        let mut numbers = vec![0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 1e23, 9_007_199_254_740_993.0];
        for _ in 0..500 {
            // xorshift64: every exponent comes up, which is what a printer of floats can get wrong.
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            numbers.push(f64::from_bits(bits));
        }
        numbers.retain(|x| x.is_finite());
        for (step, &x) in numbers.iter().enumerate() {
            steps.append(&StepRecord::new(step as u64, "").value("x", x)).unwrap();
        }
        for (line, x) in fs::read_to_string(&path).unwrap().lines().zip(&numbers) {
            let printed = line.split_once("\"x\":").unwrap().1.strip_suffix('}').unwrap();
            assert_eq!(printed.parse::<f64>().unwrap().to_bits(), x.to_bits(), "{line}");
        }
    }

    #[test]
    fn what_is_not_finite_is_named_and_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let mut steps = StepsWriter::create(&path).unwrap();
        steps.append(&record(1)).unwrap();
        let before = fs::read(&path).unwrap();
        let error = steps.append(&record(2).value("rewards/chosen", f64::NAN)).unwrap_err();
        assert_eq!(error.to_string(), "step 2: rewards/chosen: expected a finite number, found NaN");
        let error = steps.append(&record(2).time("rollout", f64::INFINITY)).unwrap_err();
        assert_eq!(error.to_string(), "step 2: rollout: expected a finite number, found inf");
        assert_eq!(fs::read(&path).unwrap(), before);
        steps.append(&record(2)).unwrap();
    }

    #[test]
    fn reopened_at_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        let mut steps = StepsWriter::create(&path).unwrap();
        steps.append(&record(1)).unwrap();
        let mark = steps.sync().unwrap();
        steps.append(&record(2)).unwrap();
        let whole = fs::read(&path).unwrap();
        drop(steps);
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut steps = StepsWriter::reopen(&path, &mark).unwrap();
        assert_eq!(steps.last_step, Some(1));
        steps.append(&record(2)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        fs::write(&path, b"{}").unwrap();
        let message = StepsWriter::reopen(&path, &mark).unwrap_err().to_string();
        assert!(message.ends_with("bytes, found 2"), "{message}");
    }

    #[test]
    fn a_cut_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("steps.jsonl");
        fs::write(&path, "{\"step\":1,\"phase\":\"\"}\n{\"step\":2,\"pha").unwrap();
        let message = comparable_lines(&path).unwrap_err().to_string();
        assert!(message.contains("steps.jsonl:2: line: expected a whole JSON object, found"), "{message}");
        fs::write(&path, "{\"phase\":\"\"}\n").unwrap();
        let message = comparable_lines(&path).unwrap_err().to_string();
        assert!(
            message.ends_with("steps.jsonl:1: step: expected a whole number, found nothing"),
            "{message}"
        );
    }

    #[test]
    #[should_panic(expected = "expected a step above 3, found 3")]
    fn steps_grow() {
        let dir = tempfile::tempdir().unwrap();
        let mut steps = StepsWriter::create(&dir.path().join("s")).unwrap();
        steps.append(&record(3)).unwrap();
        drop(steps.append(&record(3)));
    }
}
