//! Commands that build the binary `rlhf` in release and then become it.
//!
//! On Unix this process is replaced (`exec`), so that Ctrl-C, standard streams and the exit code are the
//! binary's own. Elsewhere it waits and ends with the child's code.

use std::path::PathBuf;
use std::process::Command;
#[cfg(not(unix))]
use std::process::ExitCode;

use crate::workspace::Workspace;
use crate::{Outcome, process, usage_error};

/// Features that a device needs and the default build lacks.
const OPTIONAL_DEVICES: &[&str] = &["cuda", "wgpu"];

/// `pipeline NAME [flags…]`.
pub(crate) fn pipeline(workspace: &Workspace, arguments: &[String]) -> Outcome {
    if arguments.is_empty() {
        return Ok(usage_error("pipeline", "expected the name of a pipeline or a TOML file, found nothing"));
    }
    become_binary(workspace, "run", arguments)
}

/// `compare RUN RUN`.
pub(crate) fn compare(workspace: &Workspace, arguments: &[String]) -> Outcome {
    become_binary(workspace, "compare", arguments)
}

/// `golden FILE.json…`.
pub(crate) fn golden(workspace: &Workspace, arguments: &[String]) -> Outcome {
    become_binary(workspace, "golden", arguments)
}

/// `bench [WORKLOAD…] [--json]`.
pub(crate) fn bench(workspace: &Workspace, arguments: &[String]) -> Outcome {
    become_binary(workspace, "bench", arguments)
}

/// Builds, then becomes `rlhf COMMAND arguments…` in the folder where the user stands.
fn become_binary(workspace: &Workspace, command: &str, arguments: &[String]) -> Outcome {
    let binary = build(workspace, &features(arguments))?;
    replace(Command::new(binary).arg(command).args(arguments))
}

/// Builds `rlhf` in release with further features, and gives its path.
///
/// # Errors
/// The build failed; cargo has said why.
pub(crate) fn build(workspace: &Workspace, features: &[&str]) -> Result<PathBuf, String> {
    let mut cargo = process::cargo(workspace);
    cargo.args(["build", "--release", "-p", "rlhf"]);
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    process::run(&mut cargo)?;
    let binary = workspace.target().join("release").join(format!("rlhf{}", std::env::consts::EXE_SUFFIX));
    if binary.is_file() {
        Ok(binary)
    } else {
        Err(format!("expected the binary {}, found none", binary.display()))
    }
}

/// The features that the value of `--device` asks for.
fn features(arguments: &[String]) -> Vec<&'static str> {
    let values = arguments.iter().enumerate().filter_map(|(at, argument)| match argument.as_str() {
        "--device" => arguments.get(at + 1).map(String::as_str),
        other => other.strip_prefix("--device="),
    });
    let kinds: Vec<&str> = values.map(|value| value.split(':').next().unwrap_or(value)).collect();
    OPTIONAL_DEVICES.iter().copied().filter(|device| kinds.contains(device)).collect()
}

/// Replaces this process; comes back only when that is impossible.
#[cfg(unix)]
fn replace(command: &mut Command) -> Outcome {
    use std::os::unix::process::CommandExt as _;
    let error = command.exec();
    Err(format!("`{}` cannot be started: {error}", process::show(command)))
}

/// Waits for the child and ends with its code.
#[cfg(not(unix))]
fn replace(command: &mut Command) -> Outcome {
    let shown = process::show(command);
    let status = command.status().map_err(|error| format!("`{shown}` cannot be started: {error}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_asks_for_its_feature() {
        let features =
            |words: &[&str]| features(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(features(&["superhf", "--smoke"]), [""; 0]);
        assert_eq!(features(&["superhf", "--device", "flex"]), [""; 0]);
        assert_eq!(features(&["superhf", "--device", "cuda:1"]), ["cuda"]);
        assert_eq!(features(&["superhf", "--device=wgpu"]), ["wgpu"]);
    }
}
