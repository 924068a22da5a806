//! `interop`: saved models in transformers, by `tests/python/check_load.py`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::workspace::Workspace;
use crate::{Outcome, binary, process, usage_error};

/// What the script imports.
const PACKAGES: &[&str] = &["transformers", "torch", "safetensors", "numpy"];

/// torch without CUDA: a tenth of the size of PyPI's wheel.
const CPU_INDEX: &str = "https://download.pytorch.org/whl/cpu";

/// `interop [--python EXE] MODEL_DIR…`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    let (python, models) = match arguments {
        [flag, python, models @ ..] if flag == "--python" => (Some(PathBuf::from(python)), models),
        models => (None, models),
    };
    if models.is_empty() || models.iter().any(|model| model.starts_with('-')) {
        return Ok(usage_error("interop", "expected the folders of saved models"));
    }
    let python = match python {
        Some(python) => python,
        None => environment(&workspace.target().join("interop-venv"))?,
    };
    let rlhf = binary::build(workspace, &[])?;
    let script = workspace.root().join("tests/python/check_load.py");
    process::run(Command::new(python).arg(script).arg("--rlhf").arg(rlhf).args(models))?;
    Ok(ExitCode::SUCCESS)
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
