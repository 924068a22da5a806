//! Two runs side by side: where they part, by how much, and whether they end in the same model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::folder::RunPaths;
use super::steps::{StepRecord, comparable_lines, read_records};
use crate::error::Error;

/// How two runs differ; times are left out everywhere.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunComparison {
    /// Number of steps of each.
    pub n_steps: [usize; 2],
    /// The first step whose line differs or that one run lacks; `None` when they never part.
    pub first_difference: Option<FirstDifference>,
    /// By name of a value, over the steps in which both have it.
    pub values: BTreeMap<String, ValueDifference>,
    /// Names of values that only one run has, or has in other steps.
    pub unpaired_values: BTreeSet<String>,
    /// The files of `model/`; `None` when neither run has any.
    pub model: Option<ModelComparison>,
}

impl RunComparison {
    /// Whether nothing but times differs.
    pub fn is_equal(&self) -> bool {
        self.first_difference.is_none() && self.model.as_ref().is_none_or(|m| m.is_equal)
    }
}

/// Where two runs part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstDifference {
    /// The step.
    pub step: u64,
    /// The line of each run, without times; `None` where a run lacks the step.
    pub lines: [Option<String>; 2],
}

/// Differences of one value over the steps in which both runs have it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ValueDifference {
    /// Steps in which both have it.
    pub n_steps: usize,
    /// Largest absolute difference.
    pub max: f64,
    /// Mean absolute difference.
    pub mean: f64,
}

/// The files of two `model/` folders.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelComparison {
    /// Whether both have the same files with the same bytes.
    pub is_equal: bool,
    /// Files, relative to `model/`, that differ or that one run lacks.
    pub different: Vec<String>,
}

/// Compares the runs in the folders `a` and `b`.
///
/// # Errors
///
/// [`Error::Config`] for a folder without `steps.jsonl`, [`Error::Record`] for a broken line in one,
/// [`Error::Io`] for a file that cannot be read.
pub fn compare(a: &Path, b: &Path) -> Result<RunComparison, Error> {
    let [a, b] = [RunPaths::new(a), RunPaths::new(b)];
    let [steps_a, steps_b] = [Steps::read(&a)?, Steps::read(&b)?];
    let mut differences = Differences::default();
    for (step, record) in &steps_a.records {
        match steps_b.records.get(step) {
            Some(other) => differences.pair(record, other),
            None => differences.unpaired.extend(record.values.keys().cloned()),
        }
    }
    for (step, record) in &steps_b.records {
        if !steps_a.records.contains_key(step) {
            differences.unpaired.extend(record.values.keys().cloned());
        }
    }
    Ok(RunComparison {
        n_steps: [steps_a.records.len(), steps_b.records.len()],
        first_difference: first_difference(&steps_a, &steps_b),
        values: differences.means(),
        unpaired_values: differences.unpaired,
        model: compare_models(&a.model(), &b.model())?,
    })
}

struct Steps {
    records: BTreeMap<u64, StepRecord>,
    lines: BTreeMap<u64, String>,
}

impl Steps {
    fn read(run: &RunPaths) -> Result<Self, Error> {
        let path = run.steps();
        if !path.is_file() {
            let found = format!("{} without one", run.root().display());
            return Err(Error::config(
                "command line",
                "DIR",
                "the folder of a run, with a steps.jsonl",
                found,
            ));
        }
        let records = read_records(&path)?;
        let lines = records.iter().map(|r| r.step).zip(comparable_lines(&path)?).collect();
        Ok(Self { lines, records: records.into_iter().map(|r| (r.step, r)).collect() })
    }
}

fn first_difference(a: &Steps, b: &Steps) -> Option<FirstDifference> {
    let steps: BTreeSet<u64> = a.lines.keys().chain(b.lines.keys()).copied().collect();
    let step = steps.into_iter().find(|s| a.lines.get(s) != b.lines.get(s))?;
    Some(FirstDifference { step, lines: [a.lines.get(&step).cloned(), b.lines.get(&step).cloned()] })
}

#[derive(Default)]
struct Differences {
    /// With the sum in the place of the mean until all steps are in.
    sums: BTreeMap<String, ValueDifference>,
    unpaired: BTreeSet<String>,
}

impl Differences {
    fn pair(&mut self, a: &StepRecord, b: &StepRecord) {
        for (key, x) in &a.values {
            let Some(y) = b.values.get(key) else {
                self.unpaired.insert(key.clone());
                continue;
            };
            let difference = (x - y).abs();
            let sum =
                self.sums.entry(key.clone()).or_insert(ValueDifference { n_steps: 0, max: 0.0, mean: 0.0 });
            sum.n_steps += 1;
            sum.max = sum.max.max(difference);
            sum.mean += difference;
        }
        self.unpaired.extend(b.values.keys().filter(|k| !a.values.contains_key(*k)).cloned());
    }

    fn means(&mut self) -> BTreeMap<String, ValueDifference> {
        let mut values = std::mem::take(&mut self.sums);
        values.values_mut().for_each(|v| v.mean /= v.n_steps as f64);
        values
    }
}

fn compare_models(a: &Path, b: &Path) -> Result<Option<ModelComparison>, Error> {
    let [files_a, files_b] = [files_below(a)?, files_below(b)?];
    if files_a.is_empty() && files_b.is_empty() {
        return Ok(None);
    }
    let mut different = Vec::new();
    for file in files_a.union(&files_b) {
        let in_both = files_a.contains(file) && files_b.contains(file);
        if !in_both || !same_bytes(&a.join(file), &b.join(file))? {
            different.push(file.display().to_string());
        }
    }
    Ok(Some(ModelComparison { is_equal: different.is_empty(), different }))
}

/// Paths of all files below `root`, relative to it; none when it does not exist.
fn files_below(root: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let at = root.join(&folder);
        let entries = match fs::read_dir(&at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| Error::io("listing", &at, e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("listing", &at, e))?;
            let relative = folder.join(entry.file_name());
            // Through links, so that a linked model counts as its contents.
            if entry.path().is_dir() {
                folders.push(relative);
            } else {
                found.insert(relative);
            }
        }
    }
    Ok(found)
}

fn same_bytes(a: &Path, b: &Path) -> Result<bool, Error> {
    let open = |path: &Path| File::open(path).map_err(|e| Error::io("opening", path, e));
    let [file_a, file_b] = [open(a)?, open(b)?];
    let length = |file: &File, path: &Path| {
        file.metadata().map(|m| m.len()).map_err(|e| Error::io("reading", path, e))
    };
    if length(&file_a, a)? != length(&file_b, b)? {
        return Ok(false);
    }
    let hash = |file: File, path: &Path| -> Result<blake3::Hash, Error> {
        let mut hasher = blake3::Hasher::new();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = reader.read(&mut buffer).map_err(|e| Error::io("reading", path, e))?;
            if n == 0 {
                return Ok(hasher.finalize());
            }
            hasher.update(&buffer[..n]);
        }
    };
    Ok(hash(file_a, a)? == hash(file_b, b)?)
}

#[cfg(test)]
mod tests {
    use super::super::steps::StepsWriter;
    use super::*;

    fn run(dir: &Path, losses: &[f64], times: f64) -> PathBuf {
        let mut steps = StepsWriter::create(&dir.join("steps.jsonl")).unwrap();
        for (step, &loss) in losses.iter().enumerate() {
            let record = StepRecord::new(step as u64, "sft").value("loss", loss).time("step", times);
            steps.append(&record).unwrap();
        }
        fs::create_dir_all(dir.join("model/sub")).unwrap();
        fs::write(dir.join("model/config.json"), "{}").unwrap();
        fs::write(dir.join("model/sub/a.bin"), [1, 2]).unwrap();
        dir.to_owned()
    }

    #[test]
    fn equal_but_for_the_times() {
        let dir = tempfile::tempdir().unwrap();
        let a = run(&dir.path().join("a"), &[1.0, 0.5], 1.0);
        let b = run(&dir.path().join("b"), &[1.0, 0.5], 2.0);
        let comparison = compare(&a, &b).unwrap();
        assert!(comparison.is_equal());
        let json = serde_json::to_string(&comparison).unwrap();
        let expected = r#"{"n_steps":[2,2],"first_difference":null,"values":{"loss":{"n_steps":2,"max":0.0,"mean":0.0}},"unpaired_values":[],"model":{"is_equal":true,"different":[]}}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn parted_runs() {
        let dir = tempfile::tempdir().unwrap();
        let a = run(&dir.path().join("a"), &[1.0, 0.5, 0.25], 1.0);
        let b = run(&dir.path().join("b"), &[1.0, 0.25, 0.5, 7.0], 1.0);
        fs::write(b.join("model/sub/a.bin"), [1, 3]).unwrap();
        fs::write(a.join("model/only_a"), []).unwrap();
        let comparison = compare(&a, &b).unwrap();
        assert_eq!(comparison.n_steps, [3, 4]);
        let lines = [0.5, 0.25].map(|loss| Some(format!("{{\"step\":1,\"phase\":\"sft\",\"loss\":{loss}}}")));
        assert_eq!(comparison.first_difference, Some(FirstDifference { step: 1, lines }));
        // Differences 0, 0.25, 0.25 over the three steps that both have; all of these are exact in binary.
        let loss = ValueDifference { n_steps: 3, max: 0.25, mean: 0.5 / 3.0 };
        assert_eq!(comparison.values["loss"], loss);
        assert_eq!(comparison.unpaired_values, ["loss".to_owned()].into());
        let model = comparison.model.unwrap();
        assert_eq!(model.different, ["only_a", "sub/a.bin"]);
        assert!(!model.is_equal);
    }

    #[test]
    fn a_run_that_is_longer_parts_at_its_first_extra_step() {
        let dir = tempfile::tempdir().unwrap();
        let a = run(&dir.path().join("a"), &[1.0], 1.0);
        let b = run(&dir.path().join("b"), &[1.0, 2.0], 1.0);
        let difference = compare(&a, &b).unwrap().first_difference.unwrap();
        assert_eq!((difference.step, difference.lines[0].as_deref()), (1, None));
    }

    #[test]
    fn not_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let error = compare(dir.path(), dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("DIR: expected the folder of a run, with a steps.jsonl"));
    }
}
