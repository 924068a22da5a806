//! `interop`: model folders in `rlhf` and in transformers, by the scripts of `tests/python`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::workspace::Workspace;
use crate::{Outcome, binary, process, usage_error};

/// What the scripts import.
const PACKAGES: &[&str] = &["transformers", "tokenizers", "torch", "peft", "safetensors", "numpy"];

/// torch without CUDA: a tenth of the size of PyPI's wheel.
const CPU_INDEX: &str = "https://download.pytorch.org/whl/cpu";

/// `interop [--python EXE] [MODEL_DIR…]`: random models of every family, and the folders given.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    let (python, models) = match arguments {
        [flag, python, models @ ..] if flag == "--python" => (Some(PathBuf::from(python)), models),
        models => (None, models),
    };
    if models.iter().any(|model| model.starts_with('-')) {
        return Ok(usage_error("interop", "expected --python EXE or the folders of saved models"));
    }
    let python = match python {
        Some(python) => python,
        None => environment(&workspace.target().join("interop-venv"))?,
    };
    let rlhf = binary::build(workspace, &[])?;
    let made = make_models(workspace, &python)?;
    let mut check = script(workspace, &python, "check_load.py");
    process::run(check.arg("--rlhf").arg(&rlhf).args(made).args(models))?;
    let mut adapters = script(workspace, &python, "check_peft.py");
    process::run(adapters.arg("--rlhf").arg(&rlhf))?;
    // Adapters of our own lie where the tests of rlhf-policy leave them.
    let own = saved_adapters(&workspace.target().join("tmp/adapters"));
    if own.is_empty() {
        println!("no adapters of our own to compare: the tests of rlhf-policy save them");
    } else {
        let mut check = script(workspace, &python, "check_peft.py");
        process::run(check.arg("--rlhf").arg(&rlhf).args(own))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The folders `NAME/adapter` below `folder`, sorted; none where there is no such folder.
fn saved_adapters(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> =
        entries.map(|entry| entry.path().join("adapter")).filter(|a| a.is_dir()).collect();
    all.sort();
    all
}

/// One of our scripts. What it compares lies on this disk: nothing is asked of a hub.
fn script(workspace: &Workspace, python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(workspace.root().join("tests/python").join(name)).env("HF_HUB_OFFLINE", "1");
    command
}

/// The folders that `make_models.py` fills, sorted.
fn make_models(workspace: &Workspace, python: &Path) -> Result<Vec<PathBuf>, String> {
    let folder = workspace.target().join("interop-models");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("removing {}: {e}", folder.display()))?;
    }
    process::run(script(workspace, python, "make_models.py").arg(&folder))?;
    let read = |e: std::io::Error| format!("reading {}: {e}", folder.display());
    let entries = fs::read_dir(&folder).map_err(read)?;
    let mut models = entries.map(|e| Ok(e.map_err(read)?.path())).collect::<Result<Vec<_>, String>>()?;
    models.sort();
    Ok(models)
}

/// The Python of a virtual environment with every package, made where it is not there yet.
fn environment(folder: &Path) -> Result<PathBuf, String> {
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if has_packages(&python) {
        return Ok(python);
    }
    process::run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let pip = || {
        let mut command = Command::new(&python);
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        command
    };
    // The index of small wheels may be out of reach; then the next line takes torch from PyPI.
    if let Err(message) =
        process::run(pip().args(["--timeout", "10", "--retries", "0", "torch", "--index-url", CPU_INDEX]))
    {
        eprintln!("{message}; torch comes from PyPI, which is large");
    }
    process::run(pip().args(PACKAGES))?;
    Ok(python)
}

/// Whether this Python imports every package.
fn has_packages(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", &format!("import {}", PACKAGES.join(", "))]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
