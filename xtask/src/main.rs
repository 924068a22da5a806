//! The workspace's commands: `cargo xtask help` lists them.
//!
//! No dependencies: it starts at once, reads files and spawns `cargo`. Exit codes: 0 done, 1 a check or a
//! child failed, 2 a usage error; commands that hand over to the binary `rlhf` end with its code.
#![expect(clippy::print_stdout, reason = "these commands talk to the person who typed them")]

mod binary;
mod ci;
mod codegen;
mod gpu;
mod head;
mod interop;
mod manifest;
mod named;
mod peers;
mod process;
mod scan;
mod tidy;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

/// What a command gives back: its exit code, or the message of a failure (exit code 1).
type Outcome = Result<ExitCode, String>;

/// One command: its name, its arguments, what it does, and the function that does it.
struct Command {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&Workspace, &[String]) -> Outcome,
}

/// Every command, in the order in which a person meets them.
const COMMANDS: &[Command] = &[
    Command {
        name: "ci",
        arguments: "",
        about: "every check, cheapest first: format, tidy, codegen, clippy, docs, tests, features alone",
        run: ci::run,
    },
    Command {
        name: "tidy",
        arguments: "",
        about: "stair of crates, heads and twins of loss files, no backend in a library, README table",
        run: tidy::run,
    },
    Command {
        name: "codegen",
        arguments: "[--check]",
        about: "write the README's paper table from the heads of the loss files",
        run: codegen::run,
    },
    Command {
        name: "pipeline",
        arguments: "NAME [flags…]",
        about: "build `rlhf` in release, then `rlhf run NAME flags…`",
        run: binary::pipeline,
    },
    Command {
        name: "compare",
        arguments: "RUN RUN",
        about: "build, then `rlhf compare`: where two runs part and by how much",
        run: binary::compare,
    },
    Command {
        name: "golden",
        arguments: "FILE.json…",
        about: "build, then `rlhf golden`: recorded cases through the losses",
        run: binary::golden,
    },
    Command {
        name: "bench",
        arguments: "[WORKLOAD…] [--json]",
        about: "build, then `rlhf bench`: speed of training steps and generation",
        run: binary::bench,
    },
    Command {
        name: "peers",
        arguments: "--python EXE --scripts DIR [--rounds N] [WORKLOAD…]",
        about: "build, then `rlhf bench` and the peers' scripts in turn: a table of ratios",
        run: peers::run,
    },
    Command {
        name: "interop",
        arguments: "[--python EXE] [MODEL_DIR…]",
        about: "compare rlhf with transformers on models of every family, both ways (needs network once)",
        run: interop::run,
    },
    Command {
        name: "gpu-build",
        arguments: "",
        about: "the binary for CUDA, stripped, on a machine without GPU, CUDA or LLVM (docs/gpu.md)",
        run: gpu::run,
    },
    Command {
        name: "mutants",
        arguments: "[--named] [flags…]",
        about: "cargo-mutants on rlhf-core; --named: every detach, mask and sign, which must all be caught",
        run: process::mutants,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        eprint!("xtask: no command\n\n{}", usage());
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        eprint!("xtask: expected a command of the list, found `{name}`\n\n{}", usage());
        return ExitCode::from(2);
    };
    match (command.run)(&Workspace::here(), rest) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("xtask {name}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The list of commands.
fn usage() -> String {
    let mut text = String::from("usage: cargo xtask COMMAND\n\n");
    for command in COMMANDS {
        let call = format!("{} {}", command.name, command.arguments);
        text.push_str(&format!("  {call:<34} {}\n", command.about));
    }
    text
}

/// A command was called wrongly: the message, how it is called, exit code 2.
fn usage_error(name: &str, message: &str) -> ExitCode {
    let arguments = COMMANDS.iter().find(|command| command.name == name).map_or("", |c| c.arguments);
    eprintln!("xtask {name}: {message}\nusage: cargo xtask {name} {arguments}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_every_command_once() {
        let text = usage();
        for command in COMMANDS {
            assert_eq!(text.matches(&format!("\n  {} ", command.name)).count(), 1, "{}", command.name);
        }
    }
}
