//! `peers`: our workloads and the Python peers' scripts, interleaved in one run, as ratios.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::workspace::Workspace;
use crate::{Outcome, binary, process, usage_error};

/// Our workload, the script of the peer and its arguments, and how the peer is called.
struct Rival {
    workload: &'static str,
    name: &'static str,
    script: &'static str,
    arguments: &'static [&'static str],
}

const fn rival(
    workload: &'static str,
    name: &'static str,
    script: &'static str,
    arguments: &'static [&'static str],
) -> Rival {
    Rival { workload, name, script, arguments }
}

/// Who is compared with what. A workload's own figures are taken once a round, for all its rivals.
const RIVALS: &[Rival] = &[
    rival("sft", "PyTorch", "bench_raw.py", &["sft", "--n", "3", "--warmup", "1"]),
    rival("sft", "PyTorch, bf16", "bench_raw.py", &["sft_bf16", "--n", "3", "--warmup", "1"]),
    rival("sft", "SFTTrainer", "bench_trl.py", &["sft", "--steps", "5"]),
    rival("sft", "SFTTrainer, its defaults (bf16)", "bench_trl.py", &["sft", "--steps", "5", "--default"]),
    rival("dpo", "PyTorch", "bench_raw.py", &["dpo", "--n", "2", "--warmup", "1"]),
    rival("dpo", "DPOTrainer", "bench_trl.py", &["dpo", "--steps", "4"]),
    rival("dpo-cached", "PyTorch", "bench_raw.py", &["dpo_precomputed_ref", "--n", "2", "--warmup", "1"]),
    rival("reward", "PyTorch", "bench_raw.py", &["reward", "--n", "3", "--warmup", "1"]),
    rival("logprobs", "PyTorch", "bench_raw.py", &["forward", "--n", "4", "--warmup", "1"]),
    rival("generate", "transformers.generate", "bench_raw.py", &["generate", "--n", "3", "--warmup", "1"]),
    rival("generate", "hand-written loop", "bench_raw.py", &["generate_loop", "--n", "3", "--warmup", "1"]),
    rival(
        "generate-greedy",
        "transformers.generate",
        "bench_raw.py",
        &["generate_greedy", "--n", "3", "--warmup", "1"],
    ),
    rival("grpo", "GRPOTrainer", "bench_trl.py", &["grpo", "--steps", "4"]),
];

/// Speed and memory of one process.
#[derive(Debug, Clone, Copy)]
struct Figures {
    tokens_per_second: f64,
    mib: f64,
}

/// `peers --python EXE --scripts DIR [--rounds N] [WORKLOAD…]`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Outcome {
    let mut python = None;
    let mut scripts = None;
    let mut rounds = 5;
    let mut chosen: Vec<&str> = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--python" => python = rest.next().map(PathBuf::from),
            "--scripts" => scripts = rest.next().map(PathBuf::from),
            "--rounds" => rounds = rest.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            name => chosen.push(name),
        }
    }
    let (Some(python), Some(scripts)) = (python, scripts) else {
        return Ok(usage_error(
            "peers",
            "expected a Python with torch and TRL and the folder of the scripts",
        ));
    };
    if rounds == 0 || chosen.iter().any(|name| RIVALS.iter().all(|r| r.workload != *name)) {
        return Ok(usage_error("peers", "expected a number of rounds and workloads that a peer has"));
    }
    let rlhf = binary::build(workspace, &[])?;
    let results = workspace.target().join("peers.jsonl");
    let mut workloads: Vec<&str> = RIVALS.iter().map(|r| r.workload).collect();
    workloads.dedup();
    println!("| workload | peer | ours, tokens/s | peer's | ratio | peak, MiB | peer's | ratio |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for workload in workloads.into_iter().filter(|w| chosen.is_empty() || chosen.contains(w)) {
        let rivals: Vec<&Rival> = RIVALS.iter().filter(|r| r.workload == workload).collect();
        let mut mine = Vec::new();
        let mut theirs = vec![Vec::new(); rivals.len()];
        for _ in 0..rounds {
            mine.push(ours(&rlhf, workload)?);
            for (figures, rival) in theirs.iter_mut().zip(&rivals) {
                figures.push(peer(&python, &scripts, &results, rival)?);
            }
        }
        for (rival, figures) in rivals.iter().zip(&theirs) {
            println!("{}", row(rival, &mine, figures));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ours(rlhf: &Path, workload: &str) -> Result<Figures, String> {
    let text = output(Command::new(rlhf).args(["bench", workload, "--json", "--runs", "3"]))?;
    figures(&text, "\"median\":", "\"peak_rss_mib\":")
}

fn peer(python: &Path, scripts: &Path, results: &Path, rival: &Rival) -> Result<Figures, String> {
    let mut command = Command::new(python);
    command.arg(rival.script).args(rival.arguments).current_dir(scripts).env("BENCH_THREADS", "2");
    // The scripts append what they print to a file of results as well.
    command.env("BENCH_RESULTS", results);
    let text = output(&mut command)?;
    let mut found = figures(&text, "\"tokens_per_s\":", "\"peak_rss_mb\":")?;
    // A trainer's rate counts its first step, which is slower: the median step is fairer to it.
    if let Ok(seconds) = number(&text, "\"step_median_s\":") {
        found.tokens_per_second = number(&text, "\"tokens_per_step\":")? / seconds;
    }
    Ok(found)
}

/// What a child prints, its warnings dropped.
fn output(command: &mut Command) -> Result<String, String> {
    let shown = process::show(command);
    let done = command.stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("`{shown}` cannot be started: {error}"))?;
    if !done.status.success() {
        return Err(format!("`{shown}` failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn figures(text: &str, speed: &str, memory: &str) -> Result<Figures, String> {
    Ok(Figures { tokens_per_second: number(text, speed)?, mib: number(text, memory)? })
}

/// The number behind the last `key` of a JSON text.
fn number(text: &str, key: &str) -> Result<f64, String> {
    let after = text.rfind(key).map(|at| text[at + key.len()..].trim_start());
    let digits = after.map(|t| t.split([',', '}', ' ']).next().unwrap_or_default());
    let number = digits.and_then(|d| d.parse().ok());
    number.ok_or_else(|| format!("expected {key} and a number, found {text:?}"))
}

/// A line of the table: medians, and the median of the rounds' ratios with the extremes.
fn row(rival: &Rival, mine: &[Figures], theirs: &[Figures]) -> String {
    let speed = |all: &[Figures]| median(all.iter().map(|f| f.tokens_per_second).collect());
    let memory = |all: &[Figures]| median(all.iter().map(|f| f.mib).collect());
    let mut ratios: Vec<f64> =
        mine.iter().zip(theirs).map(|(a, b)| a.tokens_per_second / b.tokens_per_second).collect();
    ratios.sort_by(f64::total_cmp);
    format!(
        "| {} | {} | {:.0} | {:.0} | {:.2} ({:.2} to {:.2}) | {:.0} | {:.0} | {:.2} |",
        rival.workload,
        rival.name,
        speed(mine),
        speed(theirs),
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1],
        memory(mine),
        memory(theirs),
        memory(mine) / memory(theirs),
    )
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_both_programs_output() {
        let peer =
            r#"{"name": "raw/sft", "median_s": 1.4, "tokens_per_s": 1475.2, "peak_rss_mb": 1663.0, "x": 1}"#;
        let found = figures(peer, "\"tokens_per_s\":", "\"peak_rss_mb\":").expect("both stand there");
        assert!((found.tokens_per_second - 1475.2).abs() < 1e-9 && (found.mib - 1663.0).abs() < 1e-9);
        let ours = r#"[{"workload":"sft","median":1800.5,"peak_rss_mib":600}]"#;
        let found = figures(ours, "\"median\":", "\"peak_rss_mib\":").expect("both stand there");
        assert!((found.tokens_per_second - 1800.5).abs() < 1e-9 && (found.mib - 600.0).abs() < 1e-9);
        assert!(figures("{}", "\"median\":", "\"peak_rss_mib\":").is_err());
    }

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let at = |speeds: [f64; 3]| speeds.map(|s| Figures { tokens_per_second: s, mib: 100.0 }).to_vec();
        let line = row(&RIVALS[0], &at([10.0, 20.0, 90.0]), &at([5.0, 20.0, 30.0]));
        assert!(line.contains("| 2.00 (1.00 to 3.00) |"), "{line}");
    }
}
