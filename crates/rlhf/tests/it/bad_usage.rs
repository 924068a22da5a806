//! What a user may get wrong on the command line: exit code 2, and a message with the place, the key,
//! what is accepted and what was given. Nothing is made on the disk.

use std::fs;
use std::process::Stdio;

use crate::support::{rlhf, run, superhf};

fn refused(args: &[&str], message: &str) {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), args).fails(2, message);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{args:?} left something behind");
}

#[test]
fn names_keys_and_values() {
    refused(
        &["run", "dpoo"],
        "command line: NAME|CONFIG.toml: expected grpo, nested-reft, nested-reft-descriptions, nested-reft-word-problems, reward, reward-arguments, rspo, rspo-snippets, superhf, superhf-snippets or the path of a \
         config file, found dpoo, which is neither",
    );
    refused(
        &["run", "superhf", "--set", "superhf.bta=1"],
        "command line: superhf.bta: expected a key of this pipeline, found an unknown one",
    );
    refused(
        &["run", "superhf", "--set", "superhf.beta=-1"],
        "command line: superhf.beta: expected a finite number of at least 0, found -1.0",
    );
    refused(&["run", "superhf", "--set", "beta"], "command line: --set: expected key=value, found beta");
    refused(
        &["run", "superhf", "--device", "tpu"],
        "config: device: expected one that this binary was built with: flex, ndarray, found tpu",
    );
    refused(
        &["run", "superhf", "--set", "task.on_bad_record=perhaps"],
        "command line: task.on_bad_record: expected `fail` or `skip`, found \"perhaps\"",
    );
    refused(
        &["run", "superhf", "--set", "threads=0"],
        "command line: threads: expected a nonzero usize, found 0",
    );
}

#[test]
fn values_that_only_the_data_can_refuse() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("run", &["task.n_eval_prompts=1"])).fails(
        2,
        "config: task.n_eval_prompts: expected at least 2, since self-similarity compares answers to \
         different prompts, found 1",
    );
    run(dir.path(), &superhf("run", &["policy.vocab_size=10"]))
        .fails(2, "config: policy.vocab_size: expected at least 258, found 10");
    run(dir.path(), &superhf("run", &["superhf.keep=9"]))
        .fails(2, "config: superhf.keep: expected at most superhf.num_generations = 4, found 9");
    run(dir.path(), &superhf("run", &["sampling.max_completion_length=128"])).fails(
        2,
        "config: sampling.max_completion_length: expected less than policy.max_position_embeddings = 128, found 128",
    );
    run(dir.path(), &superhf("run", &["threads=100000"]))
        .fails(2, "config: threads: expected at most 512, found 100000");
    run(dir.path(), &superhf("run", &["policy.hidden_size=15"])).fails_with(
        2,
        &["config: policy.hidden_size: expected a multiple of num_attention_heads = 2, found 15"],
    );
}

#[test]
fn config_files() {
    let dir = tempfile::tempdir().unwrap();
    let mine = |text: &str| {
        fs::write(dir.path().join("mine.toml"), text).unwrap();
        run(dir.path(), &["plan", "mine.toml"])
    };
    mine("base = \"superhf\"\n[sft]\nlearning_rate = 0\n")
        .fails(2, "mine.toml:3: sft.learning_rate: expected a positive finite number, found 0");
    mine("base = \"superhf\"\n[sft\n").fails_with(2, &["mine.toml:2: (file): expected TOML, found "]);
    mine("base = \"nonsense\"\n").fails(
        2,
        "mine.toml: base: expected one of grpo, nested-reft, nested-reft-descriptions, nested-reft-word-problems, \
             reward, reward-arguments, rspo, rspo-snippets, superhf, superhf-snippets, found \"nonsense\"",
    );
    mine("seed = 1\n").fails(2, "mine.toml: pipeline: expected superhf, rspo, grpo or reward, found nothing");
}

#[test]
fn a_folder_that_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("thesis")).unwrap();
    fs::write(dir.path().join("thesis/chapter.tex"), "x").unwrap();
    run(dir.path(), &superhf("thesis", &[])).fails(
        2,
        "command line: --out: expected an empty or new folder (continue a run with --resume, or choose \
         another folder with --out), found thesis with \"chapter.tex\" in it",
    );
    assert_eq!(fs::read_dir(dir.path().join("thesis")).unwrap().count(), 1);
    run(dir.path(), &superhf("thesis/chapter.tex", &[]))
        .fails(2, "command line: --out: expected a folder, found the file thesis/chapter.tex");
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let init = ["init", "--config", "config.json", "--out", "thesis"];
    run(dir.path(), &init).fails_with(1, &["config.json"]);
}

#[test]
fn a_run_that_never_made_a_step_is_gone_over() {
    let dir = tempfile::tempdir().unwrap();
    let typo = superhf("run", &["task.name=ratings", "task.path=typo.tsv"]);
    run(dir.path(), &typo)
        .fails(2, "config: task.path: expected a file, found typo.tsv, which does not exist");
    // The corrected command is another config: neither a resume nor a refusal would help.
    run(dir.path(), &superhf("run", &[])).ok();
    run(dir.path(), &superhf("run", &[])).fails_with(2, &["--out", "\"checkpoints\" in it"]);
}

#[test]
fn flags() {
    for args in [
        &["frobnicate"] as &[&str],
        &["run"],
        &["generate", "--model", "m", "--max-new-tokens", "3"],
        &["generate", "--model", "m", "--prompt", "a", "--input", "b.jsonl", "--max-new-tokens", "3"],
        &["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "three"],
        &["data", "inspect", "x.jsonl", "--on-bad-record", "perhaps"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let done = run(dir.path(), args);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{args:?}: {done:?}");
        assert!(done.stderr.starts_with("error: "), "{done:?}");
    }
    refused(
        &["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "3", "--top-p", "1.5"],
        "command line: top_p: expected a number from 0 to 1, found 1.5",
    );
    refused(
        &["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "3", "--temperature", "nan"],
        "command line: temperature: expected a finite number of at least 0, found NaN",
    );
}

/// As `rlhf … | head -0`.
#[test]
fn a_reader_that_went_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("run", &[])).ok();
    let prompts: String = (0..200).map(|i| format!("{{\"prompt\":\"a{i}\"}}\n")).collect();
    fs::write(dir.path().join("prompts.jsonl"), prompts).unwrap();
    let generate =
        ["generate", "--model", "run/model", "--input", "prompts.jsonl", "--max-new-tokens", "2", "--greedy"];
    for args in [&generate as &[&str], &["compare", "run", "run"]] {
        let mut child =
            rlhf(dir.path()).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("error"), "{output:?}");
    }
    // A run does its work to the end, whoever listens.
    let mut child = rlhf(dir.path())
        .args(superhf("deaf", &[]))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(dir.path().join("deaf/report.html").is_file());
}
