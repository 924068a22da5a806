//! Golden files: values that other systems computed, run through our own code.
//!
//! A file is `{"meta": …, "inputs": …, "cases": [{"name", "dtype", "params", "inputs"?, "outputs",
//! "grads"?, "metrics"?}]}`, a list of pins, or an index of such files. `f64` cases go through the
//! scalar twins with their exact slopes ([`rlhf_core::real`]; of rows of logits derived by hand),
//! `f32` and `bf16` cases through the tensor code with autodiff on the device given. Whatever a case
//! expects must be computed: an unknown file, case, parameter or quantity is a failure.

use std::collections::HashSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use burn::tensor::Device;
use serde_json::Value;

use crate::error::Error;

mod a2po;
mod batch_logps;
mod bco;
mod case;
mod compare;
mod cpo;
mod data_prep;
mod dpo;
mod dpo_trl024;
mod e2e;
mod fused;
mod grpo;
mod grpo_advantages;
mod gspo_token;
mod importance;
mod kto;
mod logprob;
mod nash_md;
mod online_dpo;
mod optim;
mod orpo;
mod pins;
mod ppo;
mod reward;
mod rloo;
mod rloo_advantages;
mod rows;
mod sampling;
mod sft;
mod sppo;
mod superhf;
mod tensor_utils;
#[cfg(test)]
mod tests;
mod triple;
mod xpo;

use case::Case;
use compare::Computed;

/// How many cases agree, and what is wrong with the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Cases of which every quantity agrees.
    pub passed: usize,
    /// The others; a file that cannot be read or that nothing can check counts as one.
    pub failed: usize,
    /// One line a quantity: file, case, dtype, what was expected and found.
    pub failures: Vec<String>,
}

/// What runs the cases of one file.
type Checker = fn(&Case<'_>, &Device) -> Result<Computed, String>;

/// Runs every case of every file, each file once. `device` is a plain one.
///
/// What is wrong with a file or a case is counted in the outcome and the others are run: a file that
/// cannot be read or is no JSON is one failure, and so is a case that our code refuses by a panic.
/// The panic hook is silent meanwhile.
pub fn run(paths: &[PathBuf], device: &Device) -> Outcome {
    let _quiet = Quiet::new();
    let mut outcome = Outcome::default();
    let mut seen = HashSet::new();
    for path in paths {
        if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            continue;
        }
        match load(path) {
            Ok(Value::Array(pins)) => run_file(path, &pins::as_cases(&pins), device, &mut outcome),
            Ok(file) if file["meta"].is_null() => run_index(path, &file, &mut outcome),
            Ok(file) => run_file(path, &file, device, &mut outcome),
            Err(e) => outcome.fail(vec![e.to_string()]),
        }
    }
    outcome
}

fn load(path: &Path) -> Result<Value, Error> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("reading", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::record(path, e.line(), "file", "JSON", e.to_string()))
}

fn base_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// An index of golden files: each entry's file lies beside it and has as many cases as it says. It
/// has no cases of its own, so only problems count.
fn run_index(path: &Path, index: &Value, outcome: &mut Outcome) {
    let base = base_name(path);
    let Some(entries) = entries(index) else {
        let what = "expected \"meta\" with \"cases\", or an index of golden files";
        return outcome.fail(vec![format!("{base}: {what}")]);
    };
    for (name, expected) in entries {
        let found = match load(&path.with_file_name(name)) {
            Ok(file) => file.as_array().or_else(|| file["cases"].as_array()).map_or(0, Vec::len),
            Err(e) => {
                outcome.fail(vec![format!("{base}: {name}: {e}")]);
                continue;
            }
        };
        if expected != found as u64 {
            outcome.fail(vec![format!("{base}: {name}: expected {expected} cases, found {found}")]);
        }
    }
}

/// Files and how many cases each has; nothing where that is not all that stands there.
fn entries(index: &Value) -> Option<Vec<(&str, u64)>> {
    let map = index.as_object().filter(|o| !o.is_empty())?;
    map.iter().map(|(name, entry)| Some((name.as_str(), entry["cases"].as_u64()?))).collect()
}

fn run_file(path: &Path, file: &Value, device: &Device, outcome: &mut Outcome) {
    let base = base_name(path);
    let name = file["meta"]["file"].as_str().unwrap_or(&base);
    let Some(checker) = checker(name) else {
        let known: Vec<&str> = CHECKERS.iter().map(|(name, _)| *name).collect();
        return outcome.fail(vec![format!("{base}: expected one of {}, found {name}", known.join(", "))]);
    };
    let Some(cases) = file["cases"].as_array().filter(|c| !c.is_empty()) else {
        return outcome.fail(vec![format!("{base}: cases: expected a list with cases, found none")]);
    };
    for (index, value) in cases.iter().enumerate() {
        let case = Case::new(path.parent().unwrap_or(Path::new("")), &file["inputs"], value);
        let problems = problems(checker, &case, device);
        if problems.is_empty() {
            outcome.passed += 1;
        } else {
            let place = format!("{base} case {index} \"{}\" {}", case.name(), case.dtype());
            outcome.fail(problems.into_iter().map(|p| format!("{place}: {p}")).collect());
        }
    }
}

/// What is wrong with a case. A checker and the code behind it may panic where shapes or ranges do not
/// fit; they own all they change, so nothing half done outlives it.
fn problems(checker: Checker, case: &Case<'_>, device: &Device) -> Vec<String> {
    let check = || match checker(case, device) {
        Ok(computed) => computed.against(case),
        Err(what) => vec![what],
    };
    panic::catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        vec![format!("inputs or params do not fit: {line}")]
    })
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// A silent panic hook while it lives. One at a time, so that each puts back what it found.
struct Quiet {
    before: Option<Hook>,
    _alone: MutexGuard<'static, ()>,
}

impl Quiet {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        Self { before: Some(before), _alone: alone }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A panicking thread may not set a hook.
        if let Some(before) = self.before.take().filter(|_| !thread::panicking()) {
            panic::set_hook(before);
        }
    }
}

impl Outcome {
    fn fail(&mut self, problems: Vec<String>) {
        self.failed += 1;
        self.failures.extend(problems);
    }
}

/// Files that can be checked, each with its checker.
const CHECKERS: &[(&str, Checker)] = &[
    ("a2po.json", a2po::check),
    ("batch_logps_gkd.json", batch_logps::check),
    ("bco.json", bco::check),
    ("cpo_simpo.json", cpo::check),
    ("dpo_extreme.json", dpo::check),
    ("dpo_fdivergence.json", dpo::check),
    ("dpo_losses.json", dpo::check),
    ("dpo_options.json", dpo::check),
    ("dpo_trl024.json", dpo_trl024::check),
    ("data_prep.json", data_prep::check),
    ("e2e_dpo.json", e2e::check),
    ("e2e_dpo_multi.json", e2e::check),
    ("e2e_grpo_dapo.json", e2e::check),
    ("e2e_grpo_grpo.json", e2e::check),
    ("e2e_kto.json", e2e::check),
    ("e2e_orpo.json", e2e::check),
    ("e2e_reward.json", e2e::check),
    ("e2e_rloo.json", e2e::check),
    ("e2e_sft.json", e2e::check),
    ("e2e_sft_grad_accum.json", e2e::check),
    ("e2e_sft_text.json", e2e::check),
    ("fused_lm_head.json", fused::check),
    ("grpo_advantages.json", grpo_advantages::check),
    ("grpo_losses.json", grpo::check),
    ("gspo_token.json", gspo_token::check),
    ("importance_ratio.json", importance::check),
    ("kto.json", kto::check),
    ("logprob_entropy.json", logprob::check),
    ("nash_md.json", nash_md::check),
    ("online_dpo.json", online_dpo::check),
    ("optim.json", optim::check),
    ("orpo.json", orpo::check),
    ("pins.json", pins::check),
    ("ppo.json", ppo::check),
    ("reward.json", reward::check),
    ("rloo_advantages.json", rloo_advantages::check),
    ("rloo_losses.json", rloo::check),
    ("sampling.json", sampling::check),
    ("sft.json", sft::check),
    ("sppo_official.json", sppo::check),
    ("superhf_official.json", superhf::check),
    ("tensor_utils.json", tensor_utils::check),
    ("tpo.json", triple::check),
    ("xpo.json", xpo::check),
];

fn checker(file: &str) -> Option<Checker> {
    CHECKERS.iter().find(|(name, _)| *name == file).map(|(_, checker)| *checker)
}
