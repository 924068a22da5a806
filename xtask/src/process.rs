//! Children: how they are started, timed and read.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use crate::workspace::Workspace;
use crate::{Outcome, named};

/// `cargo`, the one that started us where it says so, in the root folder.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(workspace.root());
    // A relative folder would mean another one from the root than from where the user stands.
    command.env("CARGO_TARGET_DIR", workspace.target());
    command
}

/// Whether `cargo NAME` is installed.
pub(crate) fn has_subcommand(workspace: &Workspace, name: &str) -> bool {
    let mut command = cargo(workspace);
    command.args([name, "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command to its end with our own standard streams.
///
/// # Errors
/// The message names the command, when it cannot be started or does not end with 0.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let shown = show(command);
    let status = command.status().map_err(|error| format!("`{shown}` cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed ({status})")) }
}

/// Runs a command to its end, shows what it prints as it comes, and gives it back as well.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_and_read(command: &mut Command) -> Result<String, String> {
    let shown = show(command);
    let failed = |error: io::Error| format!("`{shown}` cannot be started: {error}");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reader = thread::spawn(move || stderr.map_or_else(String::new, |pipe| echo(pipe, &mut io::stderr())));
    let mut text = stdout.map_or_else(String::new, |pipe| echo(pipe, &mut io::stdout()));
    let status = child.wait().map_err(failed)?;
    text.push_str(&reader.join().unwrap_or_default());
    if status.success() { Ok(text) } else { Err(format!("`{shown}` failed ({status})")) }
}

/// Copies lines from `pipe` to `to`, and keeps them. A closed `to` does not stop the reading: a child whose pipe
/// nobody reads would hang.
fn echo(pipe: impl Read, to: &mut impl Write) -> String {
    let mut kept = String::new();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // Where nobody listens any more, the text is still kept for the caller.
        let _closed = to.write_all(&line).and_then(|()| to.flush());
        kept.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    kept
}

/// A command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    if words[0].ends_with("/cargo") {
        words[0] = "cargo".to_owned();
    }
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    for word in &mut words {
        if word.is_empty() || word.contains([' ', '"', '\'', '$']) {
            *word = format!("'{}'", word.replace('\'', "'\\''"));
        }
    }
    words.join(" ")
}

/// `mutants [flags…]`: cargo-mutants on rlhf-core, against its own tests and the laws of its losses. By
/// hand, not in `ci`: it takes hours. `mutants --named …` is another command: [`named`].
pub(crate) fn mutants(workspace: &Workspace, arguments: &[String]) -> Outcome {
    if let Some((_, rest)) = arguments.split_first().filter(|(first, _)| *first == "--named") {
        return named::run(workspace, rest);
    }
    if !has_subcommand(workspace, "mutants") {
        return Err("cargo-mutants is not installed: `cargo install cargo-mutants --locked`".to_owned());
    }
    let mut command = cargo(workspace);
    command.args(["mutants", "--package", "rlhf-core"]);
    command.args(["--test-package", "rlhf-core", "--test-package", "rlhf-laws"]).args(arguments);
    // Examples in docs build one by one, for minutes; they show what the tests prove.
    if !arguments.iter().any(|argument| argument == "--") {
        command.args(["--", "--lib", "--tests"]);
    }
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_are_read_and_a_failure_names_the_command() {
        let text = run_and_read(Command::new("sh").args(["-c", "echo a; echo b >&2"]));
        assert_eq!(text.as_deref(), Ok("a\nb\n"));
        let failed = run_and_read(Command::new("sh").args(["-c", "exit 3"]));
        assert_eq!(failed, Err("`sh -c 'exit 3'` failed (exit status: 3)".to_owned()));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let failed = run(&mut Command::new("/nonexistent/program")).expect_err("there is no such program");
        assert!(failed.starts_with("`/nonexistent/program` cannot be started: "), "{failed}");
    }
}
