//! GRPO and nested runs: every loss through one loop, the same bytes, kills, and what is refused.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{assert_same, contents, next, resumed, run, start};

/// Sizes at which a run takes a fraction of a second: one variant, one seed, three batches of four prompts.
const TINY: &[&str] = &[
    "task.n_sft=80",
    "task.n_prompts=12",
    "task.n_eval_prompts=6",
    "policy.hidden_size=16",
    "policy.intermediate_size=32",
    "policy.num_hidden_layers=4",
    "policy.num_attention_heads=2",
    "policy.num_key_value_heads=2",
    "sft.batch_size=16",
    "sft.micro_batch_size=8",
    "grpo.n_batches=3",
    "grpo.micro_batch_size=8",
    "evaluation.eval_batches=2",
    "evaluation.num_generations=2",
    "evaluation.target_prompts=2",
    "evaluation.speed_runs=0",
    "evaluation.seeds=1",
    "checkpoint.save_steps=2",
    "checkpoint.save_batches=1",
];

const PLAIN: &str = r#"{name="plain", schedule={kind="none"}, correction="none"}"#;
const NESTED: &str =
    r#"{name="nested", schedule={kind="uniform", ratio=0.25, border=1}, correction={retrace_token=1.0}}"#;

fn variants(of: &[&str]) -> String {
    format!("variants=[{}]", of.join(","))
}

fn grpo(out: &str, set: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = ["run", "grpo", "--smoke", "--out", out].map(str::to_owned).to_vec();
    for item in TINY.iter().chain(set) {
        args.extend(["--set".to_owned(), (*item).to_owned()]);
    }
    args
}

/// Lines of `steps.jsonl` whose phase is this.
fn steps(out: &Path, phase: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(out.join("steps.jsonl")).unwrap();
    let all = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    all.filter(|l| l["phase"] == phase).collect()
}

fn number(line: &serde_json::Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

#[test]
fn every_loss_runs_through_the_loop() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        "grpo",
        "bnpo",
        "dr_grpo",
        "dapo",
        "luspo",
        "cispo",
        "gspo",
        "gspo_token",
        "sapo",
        "sapo_sequence",
        "vespo",
        "gmpo",
    ];
    for name in names {
        let loss = format!("grpo.loss_type={name}");
        let high = if name == "cispo" { "grpo.epsilon_high=5.0" } else { "grpo.epsilon_high=0.2" };
        let more = [&variants(&[NESTED]), loss.as_str(), high, "grpo.beta=0.04", "grpo.num_iterations=2"];
        run(dir.path(), &grpo(name, &more)).ok();
        let lines = steps(&dir.path().join(name), "grpo/nested/seed=0");
        assert_eq!(lines.len(), 6, "{name}: three batches, two passes");
        let keys = [
            "loss",
            "reward",
            "reward_std",
            "frac_reward_zero_std",
            "kl",
            "entropy",
            "clip_ratio/region_mean",
            "completions/mean_length",
            "completions/clipped_ratio",
            "nested/mean_ratio",
            "nested/kl",
            "nested/effective_sample_size",
            "nested/share_bounded",
            "nested/rollout_reward",
            "nested/policy_reward",
            "learning_rate",
            "grad_norm",
        ];
        for (line, key) in lines.iter().flat_map(|l| keys.map(|k| (l, k))) {
            assert!(number(line, key).is_finite(), "{name}: {key}");
        }
        assert!((number(&lines[0], "nested/n_skipped") - 1.0).abs() < 1e-12);
        // One of four blocks of an almost untrained model says little: the ratio is near 1.
        assert!((number(&lines[0], "nested/mean_ratio") - 1.0).abs() < 0.5);
    }
}

#[test]
fn nothing_left_out_is_plain_grpo_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let zero =
        r#"{name="plain", schedule={kind="uniform", ratio=0.0, border=1}, correction={retrace_token=1.0}}"#;
    for (out, variant) in [("plain", PLAIN), ("zero", zero)] {
        run(dir.path(), &grpo(out, &[&variants(&[variant]), "grpo.num_iterations=2"])).ok();
    }
    let file = |out: &str| fs::read(dir.path().join(out).join("model/model.safetensors")).unwrap();
    assert!(file("plain") == file("zero"));
    let begun = &steps(&dir.path().join("plain"), "grpo/start/seed=0/eval")[0];
    assert!(number(begun, "batch").abs() < 1e-12 && number(begun, "eval/kl").abs() < 1e-5, "{begun}");
    // Tokens that were drawn, not those of a text written anew: no more than may be.
    assert!(number(begun, "eval/sampled/mean_length") <= 6.0, "{begun}");
    let first = &steps(&dir.path().join("plain"), "grpo/plain/seed=0")[0];
    // The trainer reads what the engine recorded.
    assert!(number(first, "sampling/sampling_logp_difference/max") < 1e-5, "{first}");
    // Before the first step nothing moved.
    assert!((number(first, "clip_ratio/region_mean")).abs() < 1e-12);
}

#[test]
fn equal_rewards_have_no_advantage_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    // A policy that was never trained solves nothing.
    run(dir.path(), &grpo("out", &["sft.num_train_epochs=0"])).ok();
    for line in steps(&dir.path().join("out"), "grpo/grpo/seed=0") {
        for (key, expected) in [
            ("reward", 0.0),
            ("frac_reward_zero_std", 1.0),
            ("n_equal_groups", 4.0),
            ("grad_norm", 0.0),
            ("loss", 0.0),
        ] {
            assert!((number(&line, key) - expected).abs() < 1e-12, "{key}: {line}");
        }
    }
}

#[test]
fn completions_without_an_end_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let set = [
        "sft.num_train_epochs=0",
        "grpo.mask_truncated_completions=true",
        "sampling.max_completion_length=1",
    ];
    run(dir.path(), &grpo("out", &set)).ok();
    let lines = steps(&dir.path().join("out"), "grpo/grpo/seed=0");
    // Of one token each, hardly one is the end: what is left teaches, or the update is passed over.
    assert!(lines.iter().any(|l| l["skipped_updates"] == 1.0), "{lines:?}");
    for line in &lines {
        let masked = number(line, "completions/masked");
        assert!((masked - 16.0 * number(line, "completions/clipped_ratio")).abs() < 1e-9, "{line}");
    }
}

#[test]
fn the_same_command_twice_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for device in ["flex", "ndarray"] {
        let [a, b] = ["a", "b"].map(|n| format!("{n}-{device}"));
        let set = [&variants(&[PLAIN, NESTED]), &format!("device={device}"), "sft.layer_drop=0.3"];
        run(dir.path(), &grpo(&a, &set)).ok();
        run(dir.path(), &grpo(&b, &set)).ok();
        assert_same(&contents(&dir.path().join(&a)), &dir.path().join(&b), device);
    }
}

#[test]
fn stochastic_depth_changes_fine_tuning() {
    let dir = tempfile::tempdir().unwrap();
    for (out, drop) in [("whole", "sft.layer_drop=0.0"), ("dropped", "sft.layer_drop=0.5")] {
        run(dir.path(), &grpo(out, &[drop])).ok();
    }
    let losses = |out: &str| -> Vec<f64> {
        steps(&dir.path().join(out), "sft").iter().map(|l| number(l, "loss")).collect()
    };
    let (whole, dropped) = (losses("whole"), losses("dropped"));
    assert_eq!(whole.len(), dropped.len());
    assert_ne!(whole, dropped);
}

#[test]
fn killed_and_resumed_it_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        |out: &str| grpo(out, &[&variants(&[PLAIN, NESTED]), "grpo.n_batches=6", "evaluation.seeds=2"]);
    let started = Instant::now();
    run(dir.path(), &args("whole")).ok();
    let (length, expected) = (started.elapsed(), contents(&dir.path().join("whole")));
    let (mut killed, mut random) = (0, 0x2545_F491_4F6C_DD1D);
    for i in 0..8 {
        let out = format!("run{i}");
        let place = (f64::from(i) + next(&mut random)) / 8.0;
        let mut child = start(dir.path(), &args(&out));
        sleep(Duration::from_secs_f64(length.as_secs_f64() * place));
        // A child that has ended already is no error; its status says so.
        let _ = child.kill();
        killed += usize::from(child.wait().unwrap().code().is_none());
        let again = if dir.path().join(&out).is_dir() { resumed(&args(&out)) } else { args(&out) };
        run(dir.path(), &again).ok();
        assert_same(&expected, &dir.path().join(&out), &format!("killed at {place:.3} of its length"));
    }
    assert!(killed >= 4, "most runs ended before they were killed: {killed}");
}

#[test]
fn what_cannot_be_is_refused_before_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |set: &[&str], parts: &[&str]| {
        run(dir.path(), &grpo("out", set)).fails_with(2, parts);
        assert!(!dir.path().join("out").join("steps.jsonl").exists(), "{set:?}");
    };
    let of = |ratio: &str, border: &str, correction: &str| {
        variants(&[&format!(
            r#"{{name="a", schedule={{kind="uniform", ratio={ratio}, border={border}}}, correction={correction}}}"#
        )])
    };
    refused(&[&of("1.0", "0", r#""none""#)], &["variants[0].schedule.ratio: expected"]);
    refused(&[&of("0.5", "2", r#""none""#)], &["variants[0].schedule.", "expected"]);
    refused(
        &[&of("1.5", "1", r#""none""#)],
        &["command line: variants[0]: expected a number from 0 to 1, found 1.5 in {"],
    );
    refused(
        &[&of("0.25", "1", r#""sequence""#), "sampling.top_p=0.9"],
        &["variants[0].correction: expected top_p"],
    );
    refused(
        &[&of("0.25", "1", r#""sequence""#), "sampling.top_k=5"],
        &["variants[0].correction: expected top_k"],
    );
    for (correction, key) in
        [(r#"{retrace_token=1.0}"#, "sampling.top_k=5"), (r#""base_clip""#, "sampling.top_p=0.9")]
    {
        refused(
            &[&of("0.25", "1", correction), key],
            &["variants[0].correction: expected top_", "divides probabilities of all tokens"],
        );
    }
    refused(
        &[&of("0.25", "1", "{retrace_token=1.5}")],
        &["command line: variants[0]: expected a number from 0 to 1, found 1.5 in {"],
    );
    refused(
        &[&variants(&[r#"{name="a", schedule={kind="fixed", layers=[-1]}, correction="none"}"#])],
        &["command line: variants[0]: expected a whole number of at least 0, found integer `-1` in {"],
    );
    refused(&["sampling.top_p=0.0"], &["sampling.top_p: expected a number above 0"]);
    refused(&["sft.layer_drop=1.0"], &["sft.layer_drop: expected a number below 1"]);
    refused(&["grpo.loss_type=cispo"], &["grpo.epsilon_high: expected at least 1 for cispo", "found 0.2"]);
    refused(&["sampling.temperature=0.0"], &["sampling.temperature", "found 0"]);
    refused(&["grpo.num_generations=1"], &["grpo.num_generations: expected at least 2", "found 1"]);
    refused(
        &["grpo.steps_per_generation=3"],
        &["grpo.steps_per_generation: expected a divisor of 16", "found 3"],
    );
    refused(&["variants=[]"], &["variants: expected at least one, found none"]);
    refused(&[&variants(&[PLAIN, PLAIN])], &["variants[1].name: expected a name of its own"]);
    refused(&["policy.num_hidden_layers=2", "sft.layer_drop=0.1"], &["sft.layer_drop: expected 0"]);
    refused(&["grpo.loss_type=ppo"], &["grpo.loss_type: expected", "found \"ppo\""]);
    let none = grpo(
        "none",
        &["task.name=restaurants", "task.n_preferences=10", "policy.max_position_embeddings=128"],
    );
    run(dir.path(), &none).fails_with(2, &["task.name: expected a task whose answers can be verified"]);
}
