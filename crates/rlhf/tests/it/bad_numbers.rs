//! NaN and infinity: the run stops at the step, names the term, and keeps its last good checkpoint.

use std::fs;
use std::path::Path;

use crate::support::{Done, run, superhf};

/// Checkpoints by name, oldest first.
fn checkpoints(out: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(out.join("checkpoints")) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn stopped(dir: &Path, set: &[&str]) -> Done {
    run(dir, &superhf("run", set))
}

#[test]
fn a_loss_stops_at_its_step() {
    let dir = tempfile::tempdir().unwrap();
    // The first step has a learning rate of 1e30 already; the second loss is of weights that large,
    // and finite; the third is not.
    stopped(dir.path(), &["sft.learning_rate=1e30", "sft.warmup_ratio=0"])
        .fails_with(1, &["step ", ": ", "expected a finite number, found "]);
    let steps = fs::read_to_string(dir.path().join("run/steps.jsonl")).unwrap();
    assert!(!steps.contains("null") && !steps.contains("NaN"), "{steps}");
    // What was saved is of the steps that were logged.
    for name in checkpoints(&dir.path().join("run")) {
        let step: usize = name.trim_start_matches("step-").trim_end_matches(".ckpt").parse().unwrap();
        assert!(step <= steps.lines().count(), "{name}");
    }
}

#[test]
fn weights_that_an_update_broke_are_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    // 1e39 is infinite as f32: the first update makes infinite weights out of a finite loss. The first
    // checkpoint would be due after step 2, whose loss is NaN.
    let broken = stopped(dir.path(), &["sft.learning_rate=1e39", "sft.warmup_ratio=0"]);
    broken.fails(1, "step 2: loss: expected a finite number, found NaN");
    assert!(checkpoints(&dir.path().join("run")).is_empty());
    fs::remove_dir_all(dir.path().join("run")).unwrap();
    // With a checkpoint due after the step that broke them.
    let set = ["sft.learning_rate=1e39", "sft.warmup_ratio=0", "checkpoint.save_steps=1"];
    stopped(dir.path(), &set).fails_with(1, &["step 1: sft: weight ", "expected a finite number, found "]);
    assert!(checkpoints(&dir.path().join("run")).is_empty());
}

#[test]
fn a_start_policy_that_ends_broken_is_no_result() {
    let dir = tempfile::tempdir().unwrap();
    // One step in all: its loss is finite, and what it leaves is not.
    let set = ["sft.learning_rate=1e39", "sft.warmup_ratio=0", "sft.batch_size=80", "sft.num_train_epochs=1"];
    stopped(dir.path(), &set)
        .fails(1, "step 1: sft: held-out perplexity: expected a finite number, found NaN");
    assert!(checkpoints(&dir.path().join("run")).is_empty());
}

#[test]
fn a_reward_model_that_returns_nan_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let set = ["reward.learning_rate=1e39", "reward.warmup_ratio=0", "reward.batch_size=48"];
    stopped(dir.path(), &set)
        .fails(1, "step 11: proxy on held-out texts: reward model: expected finite scores, found NaN");
    // The policy after its 10 steps is there for a resume.
    assert_eq!(checkpoints(&dir.path().join("run")).pop().unwrap(), "step-0000000010.ckpt");
}

#[test]
fn the_reward_pipeline_names_the_fold() {
    let dir = tempfile::tempdir().unwrap();
    let pairs: String = (0..20)
        .map(|i| format!("{{\"prompt\":\"p{i}\",\"chosen\":\" good {i}\",\"rejected\":\" bad {i}\"}}\n"))
        .collect();
    fs::write(dir.path().join("pairs.jsonl"), pairs).unwrap();
    let sets = [
        "data.path=pairs.jsonl",
        "model.kind=transformer",
        "model.hidden_size=16",
        "model.intermediate_size=16",
        "model.num_hidden_layers=1",
        "model.vocab_size=300",
        "training.learning_rate=1e39",
        "training.warmup_ratio=0",
    ];
    let mut args = vec!["run", "reward", "--smoke", "--out", "run"];
    args.extend(sets.iter().flat_map(|s| ["--set", *s]));
    run(dir.path(), &args).fails_with(
        1,
        &[
            "step 1: reward/transformer/fold=0: preference of \" good ",
            "\" for the prompt \"p",
            ": expected finite rewards, found NaN",
        ],
    );
}

/// Writes NaN over the last value of the last tensor.
fn break_weights(model: &Path) {
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn model_folders_with_nan_inside_give_errors_and_no_null() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("run", &[])).ok();
    fs::write(dir.path().join("texts.jsonl"), "\n{\"text\":\"good\"}\n").unwrap();
    fs::write(dir.path().join("rows.json"), "{\"input_ids\":[[5,6]]}").unwrap();
    break_weights(&dir.path().join("run/reward/proxy"));
    break_weights(&dir.path().join("run/model"));
    let (reward, model) = ("run/reward/proxy", "run/model");
    run(dir.path(), &["score", "--model", reward, "--input", "texts.jsonl"])
        .fails(1, "run/reward/proxy: reward of texts.jsonl:2: expected finite numbers, found NaN");
    run(dir.path(), &["logits", "--model", model, "--input", "rows.json"])
        .fails(1, "run/model: logits of row 1, position 1: expected finite numbers, found NaN");
    run(dir.path(), &["generate", "--model", model, "--prompt", "a", "--max-new-tokens", "3"])
        .fails(1, "logits of prompt 0, sample 0: expected finite numbers, found NaN");
    // As the start of a run: said before the first step.
    let set = ["policy.path=run/model"];
    run(dir.path(), &superhf("again", &set))
        .fails_with(1, &["weight model.norm.weight: expected finite numbers, found NaN"]);
}
