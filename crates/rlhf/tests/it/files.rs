//! The pipelines on the user's own files.

use std::fs;
use std::path::Path;

use crate::support::{resumed, run, superhf};

const WORDS: [&str; 6] = ["tea", "coffee", "soup", "bread", "rice", "fruit"];

fn write(dir: &Path, name: &str, n: usize, line: impl Fn(usize) -> String) {
    let text: String = (0..n).map(|i| line(i) + "\n").collect();
    fs::write(dir.join(name), text).unwrap();
}

/// Prompts, references and comparisons in which the polite answer wins.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let asks = |i: usize| format!("Order {i}: {} and {}.", WORDS[i % 6], WORDS[(i / 6) % 6]);
    write(dir.path(), "prompts.jsonl", 20, |i| format!("{{\"prompt\":\"{}\"}}", asks(i)));
    write(dir.path(), "sft.jsonl", 40, |i| {
        format!("{{\"prompt\":\"{}\",\"completion\":\" Here is your {}.\"}}", asks(i), WORDS[i % 6])
    });
    write(dir.path(), "pairs.jsonl", 40, |i| {
        let word = WORDS[i % 6];
        format!(
            "{{\"prompt\":\"{}\",\"chosen\":\" Here is your {word}, please.\",\"rejected\":\" No {word}.\"}}",
            asks(i)
        )
    });
    dir
}

const FILES: [&str; 4] = [
    "task.name=files",
    "task.path=prompts.jsonl",
    "task.sft_path=sft.jsonl",
    "task.preference_path=pairs.jsonl",
];

#[test]
fn superhf_on_three_files() {
    let dir = folder();
    let done = run(dir.path(), &superhf("run", &FILES)).ok();
    assert!(done.stdout.contains("start (SFT)") && done.stdout.contains("SuperHF β=0.7 N=4"), "{done:?}");
    let steps = fs::read_to_string(dir.path().join("run/steps.jsonl")).unwrap();
    // 40 references less those of 6 evaluation prompts is 34, of which ⌈3.4⌉ = 4 are held out: 30 rows
    // are 2 steps an epoch. 34 comparisons less 4 held out are 15 for each reward model: 1 step.
    let count = |phase: &str| steps.lines().filter(|l| l.contains(&format!("\"phase\":\"{phase}"))).count();
    assert_eq!(["sft\"", "reward/proxy\"", "reward/judge\"", "superhf/"].map(count), [4, 1, 1, 8], "{steps}");
    let report = fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(report.contains("no exact gold reward"), "the page says what stands for the truth");
    let asked = ["generate", "--model", "run/model", "--input", "prompts.jsonl", "--max-new-tokens", "4"];
    assert_eq!(run(dir.path(), &asked).ok().stdout.lines().count(), 20);
}

#[test]
fn a_policy_folder_and_no_references() {
    let dir = folder();
    run(dir.path(), &superhf("first", &FILES)).ok();
    let set = [FILES[0], FILES[1], FILES[3], "policy.path=first/model"];
    let done = run(dir.path(), &superhf("second", &set)).ok();
    assert!(done.stdout.contains("model:  second/model"), "{done:?}");
    let bytes = |path: &str| fs::read(dir.path().join(path)).unwrap();
    // Without references the start policy is the one that was loaded.
    assert_eq!(bytes("second/sft/model.safetensors"), bytes("first/model/model.safetensors"));
    let steps = fs::read_to_string(dir.path().join("second/steps.jsonl")).unwrap();
    assert!(!steps.contains("\"phase\":\"sft\""), "{steps}");
}

#[test]
fn no_comparisons() {
    let dir = folder();
    let set = [FILES[0], FILES[1], FILES[2]];
    run(dir.path(), &superhf("run", &set)).fails(
        2,
        "config: task.preference_path: expected preference records, from which both rewards learn, found none",
    );
    // Found before anything is trained.
    assert_eq!(fs::read_to_string(dir.path().join("run/steps.jsonl")).unwrap(), "");
}

#[test]
fn a_bad_record_in_the_middle_fails_or_is_counted() {
    let dir = folder();
    let path = dir.path().join("pairs.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let broken: Vec<String> = text
        .lines()
        .enumerate()
        .map(|(i, l)| if i == 20 { l[..30].to_owned() } else { l.to_owned() })
        .collect();
    fs::write(&path, broken.join("\n")).unwrap();
    let fail = run(dir.path(), &superhf("run", &FILES));
    fail.fails_with(1, &["pairs.jsonl:21: json: expected one JSON object, found \"{\\\"prompt\\\":"]);
    let mut set = FILES.to_vec();
    set.push("task.on_bad_record=skip");
    run(dir.path(), &superhf("run", &set)).ok();
    let report = fs::read_to_string(dir.path().join("run/report.json")).unwrap();
    assert!(report.contains("pairs.jsonl: 39 records, 1 bad ones passed over"), "{report}");
}

#[test]
fn a_prompt_longer_than_the_context() {
    let dir = folder();
    let path = dir.path().join("prompts.jsonl");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str(&format!("{{\"prompt\":\"{}\"}}\n", "§".repeat(60)));
    fs::write(&path, text).unwrap();
    let expected = "prompts.jsonl:21: prompt: expected at most 112 tokens, since \
                    sampling.max_completion_length = 16 of a context of 128 are the completion's, found 120: \"§§";
    run(dir.path(), &superhf("run", &FILES)).fails_with(1, &[expected]);
    let mut skip = FILES.to_vec();
    skip.push("task.on_bad_record=skip");
    let done = run(dir.path(), &superhf("run", &skip)).ok();
    assert!(done.stderr.contains("data: 1 prompts without room for a completion left out"), "{done:?}");
}

#[test]
fn a_reference_without_room_for_its_answer() {
    let dir = folder();
    let path = dir.path().join("sft.jsonl");
    let mut text = fs::read_to_string(&path).unwrap();
    // Characters that stand once each are two or three tokens each: more than the context of 128 in
    // a prompt; and an answer of which the end is cut.
    let odd = |from: u32| -> String { (0..120).filter_map(|i| char::from_u32(from + 37 * i)).collect() };
    text.push_str(&format!("{{\"prompt\":\"{}\",\"completion\":\" Yes.\"}}\n", odd(0x4e00)));
    text.push_str(&format!("{{\"prompt\":\"Long?\",\"completion\":\" {}\"}}\n", odd(0x7000)));
    fs::write(&path, text).unwrap();
    run(dir.path(), &superhf("run", &FILES))
        .fails_with(1, &["sft.jsonl:41: prompt: expected at most 127 tokens", ", found ", ": \"一"]);
    let mut skip = FILES.to_vec();
    skip.push("task.on_bad_record=skip");
    let done = run(dir.path(), &superhf("run", &skip)).ok();
    assert!(done.stderr.contains("data: 1 references without room for an answer left out"), "{done:?}");
    assert!(done.stderr.contains("data: 1 references cut at the context's end"), "{done:?}");
}

fn reward(out: &str, set: &[&str]) -> Vec<String> {
    let sizes = ["hidden_size=16", "intermediate_size=16", "num_hidden_layers=1", "vocab_size=300"];
    let mut args = ["run", "reward", "--smoke", "--out", out, "--set", "data.path=pairs.jsonl"]
        .map(str::to_owned)
        .to_vec();
    args.extend(sizes.iter().flat_map(|s| ["--set".to_owned(), format!("model.{s}")]));
    args.extend(set.iter().flat_map(|s| ["--set".to_owned(), (*s).to_owned()]));
    args
}

#[test]
fn a_reward_model_of_comparisons() {
    let dir = folder();
    let done = run(dir.path(), &reward("run", &["model.kind=both"])).ok();
    // "please" stands in every chosen answer and in no rejected one, so words decide all pairs; the
    // shorter answer never wins.
    let line =
        |name: &str| done.stdout.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{done:?}"));
    assert!(line("bag of words").starts_with("bag of words   1.0000 "), "{done:?}");
    assert!(line("shorter wins").starts_with("shorter wins   0.0000 "), "{done:?}");
    assert!(line("transformer").contains("mean of folds"), "{done:?}");
    assert!(dir.path().join("run/model/bag.json").is_file());
    run(dir.path(), &resumed(&reward("run", &["model.kind=both"]))).ok();
    run(dir.path(), &reward("net", &["model.kind=transformer"])).ok();
    fs::write(dir.path().join("in.jsonl"), "{\"prompt\":\"Order\",\"completion\":\" No tea.\"}\n").unwrap();
    let scored = run(dir.path(), &["score", "--model", "net/model", "--input", "in.jsonl"]).ok();
    assert!(scored.stdout.starts_with("{\"reward\":"), "{scored:?}");
}

#[test]
fn more_folds_than_comparisons() {
    let dir = folder();
    run(dir.path(), &reward("run", &["data.folds=41"]))
        .fails(2, "config: data.folds: expected 2 to 40 (at most one a pair), found 41");
}

#[test]
fn a_saved_bag_scores_text() {
    let dir = folder();
    run(dir.path(), &reward("run", &["model.kind=bag"])).ok();
    fs::write(
        dir.path().join("in.jsonl"),
        "{\"text\":\" Here is your soup, please.\"}\n{\"prompt\":\"Soup?\",\"completion\":\" No soup.\"}\n",
    )
    .unwrap();
    let done = run(dir.path(), &["score", "--model", "run/model", "--input", "in.jsonl"]).ok();
    let rewards: Vec<f64> = done
        .stdout
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["reward"].as_f64().unwrap())
        .collect();
    assert!(rewards.len() == 2 && rewards[0] > 0.0 && rewards[1] < 0.0, "{rewards:?}");
    fs::write(dir.path().join("ids.jsonl"), "{\"input_ids\":[1]}\n").unwrap();
    run(dir.path(), &["score", "--model", "run/model", "--input", "ids.jsonl"])
        .fails(1, "ids.jsonl:1: input_ids: expected text, which a bag of words reads, found token ids");
}

#[test]
fn a_resume_needs_no_flags_again() {
    let dir = folder();
    let first = run(dir.path(), &superhf("run", &FILES)).ok();
    let again = run(dir.path(), &["run", "superhf", "--out", "run", "--resume"]).ok();
    assert_eq!(again.stdout, first.stdout);
    let note = "note: run goes on with its own config.toml, which is not superhf as it stands";
    assert!(again.stderr.contains(note) && !first.stderr.contains("note: run goes on"), "{again:?}");
}
