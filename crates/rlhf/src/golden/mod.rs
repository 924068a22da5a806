//! Golden files: values that other systems computed, run through our own code.
//!
//! A file is `{"meta": …, "inputs": …, "cases": [{"name", "dtype", "params", "inputs"?, "outputs",
//! "grads"?, "metrics"?}]}`. `f64` cases go through the scalar twins with gradients derived by
//! hand, `f32` and `bf16` cases through the tensor code with autodiff on the device given. Whatever
//! a case expects must be computed: an unknown file, case, parameter or quantity is a failure.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::Value;

use crate::error::Error;

mod case;
mod compare;
mod logprob;
mod optim;
mod reward;
mod rows;
mod sampling;
mod sft;
mod superhf;
#[cfg(test)]
mod tests;

use case::Case;
use compare::Computed;

/// How many cases agree, and what is wrong with the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Cases of which every quantity agrees.
    pub passed: usize,
    /// The others; a file that nothing can check counts as one.
    pub failed: usize,
    /// One line a quantity: file, case, dtype, what was expected and found.
    pub failures: Vec<String>,
}

/// What runs the cases of one file.
type Checker = fn(&Case<'_>, &Device) -> Result<Computed, String>;

/// Runs every case of every file. `device` is a plain one.
///
/// # Errors
/// A file that cannot be read or is no JSON; everything else is counted in the outcome.
pub fn run(paths: &[PathBuf], device: &Device) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    for path in paths {
        let text = fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?;
        let file: Value = serde_json::from_str(&text)
            .map_err(|e| Error::record(path, e.line(), "file", "JSON", e.to_string()))?;
        run_file(path, &file, device, &mut outcome);
    }
    Ok(outcome)
}

fn run_file(path: &Path, file: &Value, device: &Device, outcome: &mut Outcome) {
    let base = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name = file["meta"]["file"].as_str().unwrap_or(&base);
    let Some(checker) = checker(name) else {
        return outcome.fail(vec![format!("{base}: expected one of {}, found {name}", KNOWN.join(", "))]);
    };
    let Some(cases) = file["cases"].as_array().filter(|c| !c.is_empty()) else {
        return outcome.fail(vec![format!("{base}: cases: expected a list with cases, found none")]);
    };
    for (index, value) in cases.iter().enumerate() {
        let case = Case::new(&file["inputs"], value);
        let problems = match checker(&case, device) {
            Ok(computed) => computed.against(&case),
            Err(what) => vec![what],
        };
        if problems.is_empty() {
            outcome.passed += 1;
        } else {
            let place = format!("{base} case {index} \"{}\" {}", case.name(), case.dtype());
            outcome.fail(problems.into_iter().map(|p| format!("{place}: {p}")).collect());
        }
    }
}

impl Outcome {
    fn fail(&mut self, problems: Vec<String>) {
        self.failed += 1;
        self.failures.extend(problems);
    }
}

/// Files that can be checked.
const KNOWN: [&str; 6] = [
    "superhf_official.json",
    "reward.json",
    "sft.json",
    "logprob_entropy.json",
    "optim.json",
    "sampling.json",
];

fn checker(file: &str) -> Option<Checker> {
    Some(match file {
        "superhf_official.json" => superhf::check,
        "reward.json" => reward::check,
        "sft.json" => sft::check,
        "logprob_entropy.json" => logprob::check,
        "optim.json" => optim::check,
        "sampling.json" => sampling::check,
        _ => return None,
    })
}
