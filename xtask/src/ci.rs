//! `ci`: every check, cheapest first. Every step that compiles uses the release profile, so that Burn is
//! checked once and built once.

use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::workspace::Workspace;
use crate::{Outcome, codegen, process, tidy, usage_error};

/// What a step does.
#[derive(Debug, Clone, Copy)]
enum Action {
    /// A command of this program.
    Own(fn(&Workspace, &[String]) -> Outcome, &'static [&'static str]),
    /// `cargo` with these arguments.
    Cargo(&'static [&'static str]),
    /// `cargo doc`, warnings denied.
    Doc,
    /// Tests: by nextest where it is installed.
    Test,
    /// Tests in documentation.
    DocTest,
    /// Every example with `--smoke`.
    Examples,
    /// No package in what `cargo tree` prints starts with `burn`.
    NoBurn(&'static [&'static str]),
}

/// The steps, in order.
const STEPS: &[(&str, Action)] = &[
    ("fmt", Action::Cargo(&["fmt", "--all", "--check"])),
    ("tidy", Action::Own(tidy::run, &[])),
    ("codegen", Action::Own(codegen::run, &["--check"])),
    ("one Burn", Action::NoBurn(&["tree", "--workspace", "-d", "--depth", "0", "-e", "normal"])),
    (
        "rlhf-eval without Burn",
        Action::NoBurn(&["tree", "-p", "rlhf-eval", "-e", "normal", "--prefix", "none"]),
    ),
    (
        "clippy",
        Action::Cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ),
    ("doc", Action::Doc),
    ("test", Action::Test),
    ("doctest", Action::DocTest),
    ("build", Action::Cargo(&["build", "--release", "--workspace"])),
    ("examples", Action::Examples),
    ("rlhf-core without Burn", Action::NoBurn(&CORE_TREE)),
    ("rlhf-core alone", Action::Cargo(&CORE)),
    ("rlhf-eval alone", Action::Cargo(&["check", "--release", "-p", "rlhf-eval"])),
    ("rlhf, flex", Action::Cargo(&FLEX)),
    ("rlhf, ndarray", Action::Cargo(&NDARRAY)),
    ("rlhf, hub", Action::Cargo(&HUB)),
];

/// Everything that the twins and the host arithmetic need, tests included, is free of Burn.
const CORE_TREE: [&str; 6] = ["tree", "-p", "rlhf-core", "--no-default-features", "--prefix", "none"];
const CORE: [&str; 5] = ["test", "--release", "-p", "rlhf-core", "--no-default-features"];
const FLEX: [&str; 7] = ["check", "--release", "-p", "rlhf", "--no-default-features", "--features", "flex"];
const NDARRAY: [&str; 7] =
    ["check", "--release", "-p", "rlhf", "--no-default-features", "--features", "ndarray"];

/// The hub is asked for nothing: what asks it is compiled.
const HUB: [&str; 6] = ["check", "--release", "-p", "rlhf", "--features", "hub"];

/// Said beside the features that are checked alone.
const NOT_CHECKED: &str = "features cuda and wgpu: not checked here, they need their toolkits";

/// One step that has ended.
#[derive(Debug)]
struct Timed {
    name: &'static str,
    seconds: f64,
    summary: String,
}

/// `ci`: stops at the first step that fails.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    if !arguments.is_empty() {
        return Ok(usage_error("ci", "expected no arguments"));
    }
    let mut done: Vec<Timed> = Vec::new();
    for &(name, action) in STEPS {
        println!("── {name}: {}", describe(workspace, action));
        let start = Instant::now();
        let result = perform(workspace, action);
        let seconds = start.elapsed().as_secs_f64();
        let (summary, failure) = match result {
            Ok(summary) => (summary, None),
            Err(message) => ("failed".to_owned(), Some(message)),
        };
        done.push(Timed { name, seconds, summary });
        if let Some(message) = failure {
            print!("\n{}", table(&done));
            return Err(format!("{name}: {message}"));
        }
    }
    print!("\n{}", table(&done));
    println!("{NOT_CHECKED}");
    if let Some(test) = done.iter().find(|step| step.name == "test") {
        println!("tests: {}", test.summary);
    }
    Ok(ExitCode::SUCCESS)
}

/// The command of a step, as one would type it.
fn describe(workspace: &Workspace, action: Action) -> String {
    match action {
        Action::Own(..) => "in this program".to_owned(),
        Action::NoBurn(arguments) => format!("cargo {} lists no burn", arguments.join(" ")),
        _ => commands(workspace, action).iter().map(process::show).collect::<Vec<_>>().join(" && "),
    }
}

/// The cargo commands of a step.
fn commands(workspace: &Workspace, action: Action) -> Vec<Command> {
    let cargo = |arguments: &[&str]| {
        let mut command = process::cargo(workspace);
        command.args(arguments);
        command
    };
    match action {
        Action::Own(..) => Vec::new(),
        Action::Examples => workspace.examples().iter().map(|name| example(workspace, name)).collect(),
        Action::Cargo(arguments) | Action::NoBurn(arguments) => vec![cargo(arguments)],
        Action::Doc => {
            let mut command = cargo(&["doc", "--release", "--workspace", "--no-deps"]);
            command.env("RUSTDOCFLAGS", "-Dwarnings");
            vec![command]
        }
        Action::Test if process::has_subcommand(workspace, "nextest") => {
            vec![cargo(&["nextest", "run", "--release", "--workspace"])]
        }
        Action::Test => vec![cargo(&["test", "--release", "--workspace", "--lib", "--bins", "--tests"])],
        Action::DocTest => vec![cargo(&["test", "--release", "--workspace", "--doc"])],
    }
}

/// An example as it was built, with `--smoke`; what it writes goes under the target folder.
fn example(workspace: &Workspace, name: &str) -> Command {
    let folder = workspace.target().join("release");
    let mut command = Command::new(folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX)));
    command.arg("--smoke").current_dir(folder);
    command
}

/// Does a step; gives what its line in the table says.
fn perform(workspace: &Workspace, action: Action) -> Result<String, String> {
    match action {
        Action::Own(command, arguments) => {
            let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
            let code = command(workspace, &arguments)?;
            if code == ExitCode::SUCCESS { Ok(String::new()) } else { Err("failed".to_owned()) }
        }
        Action::Test | Action::DocTest => {
            let mut text = String::new();
            for command in &mut commands(workspace, action) {
                text.push_str(&process::run_and_read(command)?);
            }
            Ok(summary(&text))
        }
        Action::NoBurn(_) => {
            let mut text = String::new();
            for command in &mut commands(workspace, action) {
                text.push_str(&quiet(command)?);
            }
            match first_burn(&text) {
                Some(line) => Err(format!("expected no burn in the list, found `{line}`")),
                None => Ok(String::new()),
            }
        }
        Action::Cargo(_) | Action::Doc | Action::Examples => {
            for command in &mut commands(workspace, action) {
                process::run(command)?;
            }
            Ok(String::new())
        }
    }
}

/// The standard output of a command; its standard error is ours.
fn quiet(command: &mut Command) -> Result<String, String> {
    let shown = process::show(command);
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.map_err(|error| format!("`{shown}` cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{shown}` failed ({})", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first line of a `cargo tree` that is a package of Burn.
fn first_burn(text: &str) -> Option<&str> {
    text.lines().find(|line| line.starts_with("burn"))
}

/// nextest's last line where there is one, else the sum of libtest's.
fn summary(text: &str) -> String {
    if let Some(line) = text.lines().rev().find(|line| line.trim_start().starts_with("Summary [")) {
        return line.trim().to_owned();
    }
    let count = |line: &str, word: &str| -> u64 {
        let before = line.split(word).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    let results: Vec<&str> = text.lines().filter(|line| line.starts_with("test result:")).collect();
    let sum = |word: &str| results.iter().map(|line| count(line, word)).sum::<u64>();
    format!("{} passed, {} failed, {} ignored", sum(" passed"), sum(" failed"), sum(" ignored"))
}

/// The steps that have ended, with their seconds.
fn table(done: &[Timed]) -> String {
    let mut text = String::new();
    for step in done {
        let line = format!("  {:<24}{:>8.1} s  {}", step.name, step.seconds, step.summary);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let total: f64 = done.iter().map(|step| step.seconds).sum();
    text.push_str(&format!("  {:<24}{total:>8.1} s\n", "all"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_either_runner_is_found() {
        let nextest = "    PASS a\n────\n     Summary [   0.1s] 3 tests run: 3 passed, 0 skipped\n";
        assert_eq!(summary(nextest), "Summary [   0.1s] 3 tests run: 3 passed, 0 skipped");
        let libtest = "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured\nx\n\
                       test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(summary(libtest), "12 passed, 0 failed, 1 ignored");
    }

    #[test]
    fn a_second_burn_is_found_among_doubled_packages() {
        assert_eq!(first_burn("syn v1.0.0\nhashburn v1\n"), None);
        assert_eq!(first_burn("syn v1.0.0\n\nburn-core v0.21.0\n"), Some("burn-core v0.21.0"));
    }

    #[test]
    fn every_step_that_compiles_uses_one_profile() {
        let here = Workspace::here();
        for (name, action) in STEPS {
            for command in commands(&here, *action) {
                let words: Vec<&str> = command.get_args().filter_map(|word| word.to_str()).collect();
                let compiles = !matches!(words[0], "fmt" | "tree" | "--smoke");
                assert_eq!(compiles, words.contains(&"--release"), "{name}");
            }
        }
    }
}
