//! What each command prints: one contract a command, data alone on standard output.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Done, run, superhf};

const CONFIG: &str = r#"{"model_type":"llama","vocab_size":300,"hidden_size":16,"intermediate_size":32,
    "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":2,"max_position_embeddings":32,
    "initializer_range":0.02,"eos_token_id":0,"pad_token_id":1}"#;

/// A folder with a finished run in `run/`.
fn with_a_run() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &superhf("run", &[])).ok();
    dir
}

fn lines(done: &Done) -> Vec<Value> {
    done.stdout.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn init_makes_a_folder_whose_bytes_the_seed_decides() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "config.json", CONFIG);
    for (out, seed) in [("a", "3"), ("b", "3"), ("c", "4")] {
        let done = run(dir.path(), &["init", "--config", "config.json", "--seed", seed, "--out", out]).ok();
        assert_eq!(done.stdout, format!("{out}\n"));
    }
    let weights = |out: &str| fs::read(dir.path().join(out).join("model.safetensors")).unwrap();
    assert_eq!(weights("a"), weights("b"));
    assert_ne!(weights("a"), weights("c"));
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("a/config.json")).unwrap()).unwrap();
    assert_eq!((&config["model_type"], &config["vocab_size"]), (&json!("llama"), &json!(300)));
    run(dir.path(), &["init", "--config", "config.json", "--out", "a"])
        .fails(2, "command line: --out: expected a new or empty folder, found a, which holds files");
}

#[test]
fn logits_of_rows_with_padding_on_either_side() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "config.json", CONFIG);
    run(dir.path(), &["init", "--config", "config.json", "--out", "m"]).ok();
    let ask = |input: &str| {
        write(dir.path(), "in.json", input);
        run(dir.path(), &["logits", "--model", "m", "--input", "in.json"])
    };
    let logits = |input: &str| {
        let done = ask(input).ok();
        assert_eq!((done.stderr.as_str(), done.stdout.lines().count()), ("", 1));
        lines(&done)[0]["logits"].clone()
    };
    let alone = logits(r#"{"input_ids":[[5,6,7]]}"#);
    assert_eq!(alone.as_array().unwrap().len(), 1);
    assert_eq!(alone[0].as_array().unwrap().len(), 3);
    assert_eq!(alone[0][0].as_array().unwrap().len(), 300);
    let padded = logits(r#"{"input_ids":[[1,5,6,7],[5,6,7,1]],"attention_mask":[[0,1,1,1],[1,1,1,0]]}"#);
    let zeros = json!(vec![0.0; 300]);
    assert_eq!((&padded[0][0], &padded[1][3]), (&zeros, &zeros));
    for t in 0..3 {
        assert_eq!((&padded[0][t + 1], &padded[1][t]), (&alone[0][t], &alone[0][t]));
    }
    // What comes later changes nothing before it.
    assert_eq!(logits(r#"{"input_ids":[[5,6,9]]}"#)[0][1], alone[0][1]);
    ask(r#"{"input_ids":[[5],[300]]}"#)
        .fails(1, "in.json:2: input_ids: expected token ids below 300, found 300");
    ask(r#"{"input_ids":[[5],[6]],"attention_mask":[[1]]}"#)
        .fails(1, "in.json:0: attention_mask: expected 2 rows, as input_ids, found 1");
    ask(r#"{"input_ids":[[5,6]],"attention_mask":[[1]]}"#)
        .fails(1, "in.json:0: attention_mask: expected 2 entries, found 1 in row 1");
    ask(r#"{"input_ids":[[5,"#).fails_with(1, &["in.json:1: (file): expected {\"input_ids\"", "found EOF"]);
    let long = format!("{{\"input_ids\":[{:?}]}}", vec![5; 33]);
    ask(&long).fails(1, "in.json:1: input_ids: expected at most 32 tokens, found 33");
}

#[test]
fn generate_is_a_function_of_prompt_and_seed() {
    let dir = with_a_run();
    let ask = |more: &[&str]| {
        let mut args = vec!["generate", "--model", "run/model"];
        args.extend(more);
        run(dir.path(), &args)
    };
    let greedy = ask(&["--prompt", "The", "--max-new-tokens", "6", "--greedy"]).ok();
    let line = &lines(&greedy)[0];
    assert_eq!(greedy.stdout.lines().count(), 1);
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["completion", "logprobs", "prompt", "token_ids"]);
    assert_eq!(line["prompt"], "The");
    let n = line["token_ids"].as_array().unwrap().len();
    assert!((1..=6).contains(&n));
    assert_eq!(line["logprobs"].as_array().unwrap().len(), n);
    // The choice is certain under the greedy distribution or has the model's own probability: never
    // above 1.
    assert!(line["logprobs"].as_array().unwrap().iter().all(|x| x.as_f64().unwrap() <= 0.0));
    let sampled = |seed: &str, prompts: &str| {
        write(dir.path(), "prompts.jsonl", prompts);
        let more = ["--input", "prompts.jsonl", "--max-new-tokens", "8", "--num-return-sequences", "2"];
        let done = ask(&[&more[..], &["--temperature", "1.5", "--seed", seed]].concat()).ok();
        assert_eq!(done.stderr, "");
        lines(&done)
    };
    let two = sampled("1", "{\"prompt\":\"The\"}\n{\"prompt\":\"A much longer prompt\"}\n");
    let prompts: Vec<&str> = two.iter().map(|l| l["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["The", "The", "A much longer prompt", "A much longer prompt"]);
    assert_ne!(two[0]["token_ids"], two[1]["token_ids"]);
    // The other prompt in the batch changes nothing.
    let one = sampled("1", "{\"prompt\":\"The\"}\n");
    assert_eq!(one[..], two[..2]);
    assert_ne!(sampled("2", "{\"prompt\":\"The\"}\n")[0], one[0]);
    ask(&["--prompt", "", "--max-new-tokens", "2", "--greedy"])
        .fails(1, "prompt: expected at least one token (the tokenizer puts no start token), found none");
}

#[test]
fn generate_refuses_lengths_that_do_not_fit() {
    let dir = with_a_run();
    let ask = |prompt: &str, new: &str, n: &str| {
        let args = ["generate", "--model", "run/model", "--prompt", prompt, "--max-new-tokens", new];
        run(dir.path(), &[&args[..], &["--num-return-sequences", n, "--greedy"]].concat())
    };
    ask("a", "0", "1").fails(
        2,
        "command line: --max-new-tokens: expected 1 to 127 tokens (the model's context is 128), found 0",
    );
    ask("a", "128", "1").fails(
        2,
        "command line: --max-new-tokens: expected 1 to 127 tokens (the model's context is 128), found 128",
    );
    ask("a", "3", "0").fails(2, "command line: --num-return-sequences: expected 1 to 1000000, found 0");
    // Bytes that no merge knows are a token each.
    ask(&"§".repeat(60), "20", "1").fails(
        1,
        "prompt: expected at most 108 tokens (the context of 128 less --max-new-tokens), found 120",
    );
}

#[test]
fn scores_are_one_a_line_whatever_the_batch() {
    let dir = with_a_run();
    let ask = |text: &str| {
        write(dir.path(), "in.jsonl", text);
        run(dir.path(), &["score", "--model", "run/reward/judge", "--input", "in.jsonl"])
    };
    let all = ask(concat!(
        "{\"prompt\":\"a\",\"completion\":\" b\"}\n",
        "\n",
        "{\"text\":\"a b\"}\n",
        "{\"input_ids\":[5,6,7,8,9,10,11]}\n"
    ))
    .ok();
    assert_eq!(all.stderr, "");
    let rewards = lines(&all);
    assert_eq!(rewards.len(), 3);
    assert!(rewards.iter().all(|r| r.as_object().unwrap().len() == 1 && r["reward"].is_f64()));
    let alone = lines(&ask("{\"input_ids\":[5,6,7,8,9,10,11]}\n").ok());
    assert_eq!(alone[0], rewards[2]);
    ask("{\"text\":\"a\"}\n{\"txt\":\"a\"}\n")
        .fails_with(1, &["in.jsonl:2: (line): expected {\"text\"}", "found unknown field `txt`"]);
    ask("{\"prompt\":\"a\"}\n").fails_with(1, &["in.jsonl:1: (line): expected {\"text\"}"]);
    ask("{\"text\":\"\"}\n").fails(1, "in.jsonl:1: (line): expected at least one token, found none");
    let missing = run(dir.path(), &["score", "--model", "run/model", "--input", "in.jsonl"]);
    missing.fails(
        1,
        "run/model/config.json: architectures: expected a reward model or classifier, found a language model",
    );
}

#[test]
fn bandit_reads_a_file_or_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "two.json", r#"{"task":"superhf","p0":[0.5,0.5],"reward":[0,1],"N":2,"beta":1}"#);
    let done = run(dir.path(), &["bandit", "two.json"]).ok();
    let found: Value = serde_json::from_str(&done.stdout).unwrap();
    // With q_2 = (1/4, 3/4) of the prior, and a fixed point 2p = p² … = √½ as the help derives.
    assert_eq!(found["best_of_n"]["policy"], json!([0.25, 0.75]));
    let better = found["fixed_point"]["policy"][1].as_f64().unwrap();
    assert!((better - 0.5f64.sqrt()).abs() < 1e-15, "{better}");
    write(dir.path(), "typo.json", r#"{"task":"superhf","rewards":[0,1],"N":2,"beta":1}"#);
    run(dir.path(), &["bandit", "typo.json"])
        .fails_with(2, &["typo.json: reward: expected ", "found nothing"]);
    run(dir.path(), &["bandit", "none.json"])
        .fails(1, "reading none.json: No such file or directory (os error 2)");
}

#[test]
fn plan_counts_what_a_run_does_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut args: Vec<String> = superhf("unused", &[]);
    args[0] = "plan".to_owned();
    let at = args.iter().position(|a| a == "--out").unwrap();
    args.drain(at..at + 2);
    let done = run(dir.path(), &args).ok();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let value = |name: &str| {
        let line = done.stdout.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{done:?}"));
        line[name.len()..].trim().to_owned()
    };
    assert_eq!(value("task"), "restaurants");
    // 320 · 16 for the embedding, which is the head too, 4 · 16² + 3 · 16 · 32 + 2 · 16 for the block, 16 for
    // the last norm.
    assert_eq!(value("policy"), "7728 parameters");
    assert!(value("sft").starts_with("10 steps, "), "{}", value("sft"));
    assert!(value("superhf").starts_with("2 runs of 4 rounds, 64 samples"), "{}", value("superhf"));
    for name in ["memory", "time", "rates here"] {
        assert!(value(name).contains(|c: char| c.is_ascii_digit()), "{name}");
    }
}

#[test]
fn inspect_shows_the_mask() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "rows.jsonl",
        "{\"prompt\":\"a b\",\"completion\":\" c d\"}\n{\"prompt\":\"e\",\"completion\":\" f\"}\n",
    );
    let done = run(dir.path(), &["data", "inspect", "rows.jsonl", "--rows", "1"]).ok();
    assert_eq!(done.stderr, "");
    assert!(done.stdout.starts_with("rows.jsonl: 2 records, 0 skipped\n"), "{}", done.stdout);
    assert!(done.stdout.contains("line 1, completion: 8 tokens, 5 scored\na b‹ c d<|endoftext|>›\n"));
    assert!(!done.stdout.contains("line 2"));
    // One token in all leaves no target.
    run(dir.path(), &["data", "inspect", "rows.jsonl", "--max-length", "3"])
        .fails_with(1, &["rows.jsonl:1: ", "expected ", ", found "]);
}

#[test]
fn reports_of_two_runs_stand_on_one_page() {
    let dir = with_a_run();
    run(dir.path(), &superhf("other", &["seed=1"])).ok();
    let done = run(dir.path(), &["report", "run", "other", "--out", "both.html"]).ok();
    assert_eq!(done.stdout, "both.html\n");
    let page = fs::read_to_string(dir.path().join("both.html")).unwrap();
    assert!(page.matches("Result").count() >= 2);
    let before = fs::read(dir.path().join("run/report.html")).unwrap();
    run(dir.path(), &["report", "run"]).ok();
    assert_eq!(fs::read(dir.path().join("run/report.html")).unwrap(), before);
    run(dir.path(), &["report", "none"])
        .fails(1, "reading none/report.json: No such file or directory (os error 2)");
    run(dir.path(), &["compare", "run", "none"]).fails(
        2,
        "command line: DIR: expected the folder of a run, with a steps.jsonl, found none without one",
    );
}

#[test]
fn help_and_version() {
    let dir = tempfile::tempdir().unwrap();
    let version = run(dir.path(), &["--version"]).ok();
    assert_eq!(version.stdout, format!("rlhf {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(dir.path(), &["--help"]).ok().stdout;
    for command in ["run", "plan", "logits", "generate", "score", "golden", "bandit", "data", "compare"] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(command)), "{command}: {help}");
    }
}
