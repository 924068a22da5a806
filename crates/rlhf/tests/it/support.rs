//! The binary as a child process, tiny runs, and whole run folders side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rlhf::run::steps::comparable_lines;

/// Sizes at which a whole SuperHF run takes half a second of one core: 10 steps of supervised
/// fine-tuning, 3 of each reward model, two cells of 4 rounds.
pub(crate) const TINY: &[&str] = &[
    "task.n_sft=80",
    "task.n_preferences=48",
    "task.n_prompts=12",
    "task.n_eval_prompts=6",
    "policy.vocab_size=320",
    "policy.hidden_size=16",
    "policy.intermediate_size=32",
    "policy.num_hidden_layers=1",
    "policy.num_attention_heads=2",
    "policy.num_key_value_heads=2",
    "policy.tie_word_embeddings=true",
    "sft.batch_size=16",
    "sft.micro_batch_size=8",
    "reward.batch_size=16",
    "sampling.max_completion_length=16",
    "superhf.prompts_per_round=2",
    "sweep.seeds=1",
    "checkpoint.save_steps=2",
    "checkpoint.save_rounds=1",
];

/// The same of a self-play run: one variant, two iterations of four prompts.
pub(crate) const TINY_RSPO: &[&str] = &[
    "task.n_sft=80",
    "task.n_preferences=48",
    "task.n_prompts=12",
    "task.n_eval_prompts=4",
    "policy.vocab_size=320",
    "policy.hidden_size=16",
    "policy.intermediate_size=32",
    "policy.num_hidden_layers=1",
    "policy.num_attention_heads=2",
    "policy.num_key_value_heads=2",
    "sft.batch_size=16",
    "sft.micro_batch_size=8",
    "preference.batch_size=16",
    "sampling.max_completion_length=12",
    "selfplay.prompts_per_iteration=4",
    "selfplay.batch_size=2",
    "selfplay.num_generations=3",
    "evaluation.seeds=1",
    "evaluation.eval_iterations=1",
    "checkpoint.save_steps=2",
];

/// The built binary, to be started in `dir`.
pub(crate) fn rlhf(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlhf"));
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Asserts success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The line that says what went wrong; a hint may follow it.
    fn error(&self) -> &str {
        let mut lines = self.stderr.lines();
        lines.rfind(|line| line.starts_with("error: ")).unwrap_or_default()
    }

    /// Asserts the exit code, nothing on standard output, and one last line of standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stdout, "", "standard output carries data only");
        let last = self.error();
        assert_eq!(last, format!("error: {message}"), "{self:#?}");
    }

    /// As [`Done::fails`], for a last line of which only the parts in order are known.
    #[track_caller]
    pub(crate) fn fails_with(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stdout, "", "standard output carries data only");
        let mut rest = self.error();
        assert!(rest.starts_with("error: "), "{self:#?}");
        for part in parts {
            let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in {self:#?}"));
            rest = after;
        }
    }
}

/// Runs the binary in `dir` to its end.
pub(crate) fn run<S: AsRef<str>>(dir: &Path, args: &[S]) -> Done {
    let output = rlhf(dir).args(args.iter().map(AsRef::as_ref)).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `rlhf run superhf` at [`TINY`] sizes into the folder `out`, with more `--set`s.
pub(crate) fn superhf(out: &str, set: &[&str]) -> Vec<String> {
    tiny("superhf", out, TINY, set)
}

/// `rlhf run rspo` at [`TINY_RSPO`] sizes into the folder `out`, with more `--set`s.
pub(crate) fn rspo(out: &str, set: &[&str]) -> Vec<String> {
    tiny("rspo", out, TINY_RSPO, set)
}

fn tiny(name: &str, out: &str, sizes: &[&str], set: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = ["run", name, "--smoke", "--out", out].map(str::to_owned).to_vec();
    for item in sizes.iter().chain(set) {
        args.extend(["--set".to_owned(), (*item).to_owned()]);
    }
    args
}

/// The same command, continued.
pub(crate) fn resumed(args: &[String]) -> Vec<String> {
    args.iter().cloned().chain(["--resume".to_owned()]).collect()
}

/// Starts the binary and does not wait; its output goes nowhere.
pub(crate) fn start(dir: &Path, args: &[String]) -> Child {
    rlhf(dir).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Sends a signal by name, as `kill` does.
pub(crate) fn signal(child: &Child, name: &str) -> ExitStatus {
    Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap()
}

/// The phase of the last whole line of `steps.jsonl`; nothing before the first.
pub(crate) fn phase(out: &Path) -> Option<String> {
    let text = fs::read_to_string(out.join("steps.jsonl")).ok()?;
    let whole = &text[..=text.rfind('\n')?];
    let line: serde_json::Value = serde_json::from_str(whole.lines().last()?).ok()?;
    Some(line["phase"].as_str()?.to_owned())
}

/// Every file of a run that must not depend on when and how often it was started: all but the lock,
/// the checkpoints and the TensorBoard events, which hold wall-clock times; `steps.jsonl` without
/// its times.
pub(crate) fn contents(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(out.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = folder.join(entry.file_name());
            match name.to_str().unwrap() {
                "run.lock" | "checkpoints" | "tensorboard" => {}
                "steps.jsonl" => {
                    let lines = comparable_lines(&entry.path()).unwrap();
                    files.insert(name, lines.join("\n").into_bytes());
                }
                _ if entry.path().is_dir() => folders.push(name),
                _ => {
                    files.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    files
}

/// Asserts that two runs have the same files with the same bytes, and names the first that differs.
#[track_caller]
pub(crate) fn assert_same(expected: &BTreeMap<PathBuf, Vec<u8>>, out: &Path, why: &str) {
    let found = contents(out);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(&found), "{why}");
    for (name, bytes) in expected {
        assert!(*bytes == found[name], "{why}: {} differs in {}", name.display(), out.display());
    }
}

/// xorshift64*: where the kills fall, the same on every run of the tests.
pub(crate) fn next(state: &mut u64) -> f64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
}
