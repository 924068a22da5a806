//! Model folders through the binary: every golden model where its folder stands beside the workspace,
//! and what is wrong with a folder, an input or a prompt.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{Done, run};

const LLAMA: &str = r#"{"model_type":"llama","vocab_size":300,"hidden_size":16,"intermediate_size":32,
    "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":32,"eos_token_id":0,
    "pad_token_id":1}"#;

fn golden(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/models").join(name);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: {} does not exist", path.display());
    None
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The numbers of a tensor of `expected.safetensors`.
fn expected(dir: &Path, name: &str) -> Vec<f64> {
    let bytes = fs::read(dir.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    match tensor.dtype() {
        safetensors::Dtype::I64 => {
            tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
        }
        _ => tensor.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
    }
}

/// A tensor of whole numbers as rows.
fn rows(dir: &Path, name: &str, n: usize) -> Vec<Vec<u64>> {
    let all: Vec<u64> = expected(dir, name).iter().map(|x| *x as u64).collect();
    all.chunks(all.len() / n).map(<[u64]>::to_vec).collect()
}

#[test]
fn golden_logits_with_padding_on_either_side() {
    let scratch = tempfile::tempdir().unwrap();
    for name in
        ["llama", "llama3_rope_tied", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma2", "gemma3"]
    {
        let Some(dir) = golden(name) else { continue };
        let n = json_of(&dir.join("expected.json"))["lengths"].as_array().unwrap().len();
        for (device, side) in [("flex", "right"), ("flex", "left"), ("ndarray", "left")] {
            let ids = rows(&dir, &format!("input_ids_{side}"), n);
            let mask = rows(&dir, &format!("attention_mask_{side}"), n);
            let request = json!({"input_ids": ids, "attention_mask": mask}).to_string();
            fs::write(scratch.path().join("in.json"), request).unwrap();
            let model = dir.to_str().unwrap();
            let args = ["logits", "--model", model, "--input", "in.json", "--device", device];
            let found: Value = serde_json::from_str(&run(scratch.path(), &args).ok().stdout).unwrap();
            let expected = expected(&dir, &format!("logits_{side}"));
            let t = ids[0].len();
            let v = expected.len() / (n * t);
            let mut worst = 0.0f64;
            for (at, x) in expected.iter().enumerate() {
                let (row, column, i) = (at / (t * v), at / v % t, at % v);
                if mask[row][column] == 1 {
                    worst = worst.max((found["logits"][row][column][i].as_f64().unwrap() - x).abs());
                }
            }
            assert!(worst <= 1e-4, "{name} on {device}, {side}: {worst}");
        }
    }
}

#[test]
fn golden_scores() {
    let Some(dir) = golden("llama_reward") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let expected = json_of(&dir.join("expected.json"));
    let lengths = expected["lengths"].as_array().unwrap();
    let lines: String = rows(&dir, "input_ids_right", lengths.len())
        .iter()
        .zip(lengths)
        .map(|(row, n)| {
            let ids = &row[..n.as_u64().unwrap() as usize];
            format!("{}\n", json!({"input_ids": ids}))
        })
        .collect();
    fs::write(scratch.path().join("in.jsonl"), lines).unwrap();
    for device in ["flex", "ndarray"] {
        let model = dir.to_str().unwrap();
        let args = ["score", "--model", model, "--input", "in.jsonl", "--device", device];
        let done = run(scratch.path(), &args).ok();
        for (line, score) in done.stdout.lines().zip(expected["scores_right"].as_array().unwrap()) {
            let found: Value = serde_json::from_str(line).unwrap();
            let difference = found["reward"].as_f64().unwrap() - score.as_f64().unwrap();
            assert!(difference.abs() <= 1e-4, "{device}: {difference}");
        }
        assert_eq!(done.stdout.lines().count(), lengths.len());
    }
}

/// A folder `m` with a scratch model of this config.
fn made(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    run(dir.path(), &["init", "--config", "config.json", "--seed", "1", "--out", "m"]).ok();
    dir
}

fn logits(dir: &Path, model: &str) -> Done {
    fs::write(dir.join("in.json"), r#"{"input_ids":[[5,6,7]]}"#).unwrap();
    run(dir, &["logits", "--model", model, "--input", "in.json"])
}

#[test]
fn init_makes_a_model_of_every_family_and_convert_writes_it_anew() {
    let like_llama = r#""vocab_size":300,"hidden_size":16,"intermediate_size":32,"num_hidden_layers":2,
        "num_attention_heads":2,"num_key_value_heads":2,"head_dim":8,"max_position_embeddings":32"#;
    let gpt2 = r#""vocab_size":300,"n_embd":16,"n_layer":2,"n_head":2,"n_positions":32"#;
    for family in ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma2", "gemma3_text"] {
        let sizes = if family == "gpt2" { gpt2 } else { like_llama };
        let dir = made(&format!("{{\"model_type\":\"{family}\",{sizes}}}"));
        let whole = logits(dir.path(), "m").ok().stdout;
        assert!(whole.len() > 300, "{family}");
        let convert = |out: &str, more: &[&str]| {
            let args = [&["convert", "--model", "m", "--out", out], more].concat();
            assert_eq!(run(dir.path(), &args).ok().stdout, format!("{out}\n"));
        };
        convert("shards", &["--max-shard-size", "3000"]);
        assert!(dir.path().join("shards/model.safetensors.index.json").is_file());
        assert_eq!(logits(dir.path(), "shards").ok().stdout, whole, "{family}");
        convert("half", &["--dtype", "bf16"]);
        assert_eq!(json_of(&dir.path().join("half/config.json"))["dtype"], "bfloat16");
        assert_ne!(logits(dir.path(), "half").ok().stdout, whole, "{family}");
        // What bf16 holds, it holds: a second time changes nothing.
        let args = ["convert", "--model", "half", "--out", "again", "--dtype", "bf16"];
        run(dir.path(), &args).ok();
        let file = |m: &str| fs::read(dir.path().join(m).join("model.safetensors")).unwrap();
        assert_eq!(file("half"), file("again"), "{family}");
    }
}

#[test]
fn init_makes_a_classifier_where_the_config_names_one() {
    let class = r#""architectures":["LlamaForSequenceClassification"],"num_labels":3,"#;
    let dir = made(&LLAMA.replacen('{', &format!("{{{class}"), 1));
    fs::write(dir.path().join("in.jsonl"), "{\"input_ids\":[5,6]}\n{\"input_ids\":[7]}\n").unwrap();
    let done = run(dir.path(), &["score", "--model", "m", "--input", "in.jsonl"]).ok();
    let lines: Vec<Value> = done.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|l| l["logits"].as_array().unwrap().len() == 3), "{done:?}");
    // A config that says otherwise than the weights.
    let path = dir.path().join("m/config.json");
    let mut config = json_of(&path);
    config["num_labels"] = json!(2);
    fs::write(&path, config.to_string()).unwrap();
    run(dir.path(), &["score", "--model", "m", "--input", "in.jsonl"])
        .fails(1, "m/config.json: num_labels: expected 3, the rows of score.weight, found 2");
}

#[test]
fn init_refuses_a_model_beyond_memory() {
    let dir = tempfile::tempdir().unwrap();
    let init = |change: &str, message: &[&str]| {
        let config = LLAMA.replacen('{', &format!("{{{change},"), 1);
        fs::write(dir.path().join("config.json"), config).unwrap();
        run(dir.path(), &["init", "--config", "config.json", "--out", "m"]).fails_with(1, message);
        assert!(!dir.path().join("m").exists());
    };
    init(r#""hidden_act":"mish""#, &["config.json: hidden_act: expected silu, gelu", "found \"mish\""]);
    let config = LLAMA.replace("\"vocab_size\":300", "\"vocab_size\":1000000000000");
    fs::write(dir.path().join("config.json"), config).unwrap();
    run(dir.path(), &["init", "--config", "config.json", "--out", "m"])
        .fails(1, "config.json: vocab_size: expected at most 2147483648, found 1000000000000");
    // 2³¹ rows of 128: 2 TiB for the embedding and the head, and as much for their copies.
    let config = LLAMA
        .replace("\"vocab_size\":300", "\"vocab_size\":2147483648")
        .replace("\"hidden_size\":16", "\"hidden_size\":128");
    fs::write(dir.path().join("config.json"), config).unwrap();
    if cfg!(target_os = "linux") {
        run(dir.path(), &["init", "--config", "config.json", "--out", "m"]).fails_with(
            2,
            &["(sizes): expected a model whose weights fit twice into ", " MiB of memory, found ", " MiB"],
        );
    }
    assert!(!dir.path().join("m").exists());
}

#[test]
fn broken_folders() {
    let dir = made(LLAMA);
    let (weights, config) = (dir.path().join("m/model.safetensors"), dir.path().join("m/config.json"));
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    logits(dir.path(), "m")
        .fails_with(1, &["m/model.safetensors: tensor ", ": data_offsets: expected ", "found"]);
    fs::write(&weights, &whole[..5]).unwrap();
    logits(dir.path(), "m")
        .fails(1, "m/model.safetensors: header: expected 8 bytes of its length, found a file of 5 bytes");
    fs::remove_file(&weights).unwrap();
    logits(dir.path(), "m").fails(1, "m/model.safetensors: opening: No such file or directory (os error 2)");
    fs::write(&weights, &whole).unwrap();
    for (text, message) in [
        (
            r#"{"model_type":"mamba"}"#,
            "m/config.json: model_type: expected one of llama, mistral, qwen2, qwen3, gpt2, gpt_neox, gemma2, gemma3_text, found mamba",
        ),
        ("{}", "m/config.json: model_type: expected a text, found nothing"),
        (
            r#"{"model_type":"llama"}"#,
            "m/config.json: hidden_size: expected a positive number, found nothing",
        ),
        (
            r#"{"model_type":"llama","hidden_size":"16"}"#,
            "m/config.json: hidden_size: expected a positive number, found \"16\"",
        ),
    ] {
        fs::write(&config, text).unwrap();
        logits(dir.path(), "m").fails(1, message);
    }
    fs::write(&config, b"\xff{}").unwrap();
    logits(dir.path(), "m").fails(1, "m/config.json: line 1: expected UTF-8 text, found the byte 0xff");
    fs::write(&config, LLAMA.replace("300", "299")).unwrap();
    logits(dir.path(), "m").fails(1, "tensor lm_head.weight: expected [299, 16] in m, found [300, 16]");
}

#[test]
fn broken_inputs() {
    let dir = made(LLAMA);
    let ask = |bytes: &[u8]| {
        fs::write(dir.path().join("in.json"), bytes).unwrap();
        run(dir.path(), &["logits", "--model", "m", "--input", "in.json"])
    };
    ask(br#"{"input_ids":[[5,6],[7]]}"#).fails(
        1,
        "in.json:2: input_ids: expected rows of 2 tokens, as the first (attention_mask marks padding), found 1",
    );
    ask(br#"{"input_ids":[[5,6,7]],"attention_mask":[[1,0,1]]}"#)
        .fails(1, "in.json:1: attention_mask: expected padding before or behind a row only, found [1, 0, 1]");
    ask(br#"{"input_ids":[[5]],"attention_mask":[[2]]}"#)
        .fails(1, "in.json:1: attention_mask: expected 0 or 1, found 2");
    ask(b"{\n\"input_ids\":\xfe").fails(1, "in.json:2: (text): expected UTF-8, found the byte 0xfe");
    ask(br#"{"input_ids":[[-1]]}"#).fails_with(1, &["in.json:1: (file): expected {\"input_ids\"", "found "]);
    ask(br#"{"input_ids":[[4294967296]]}"#)
        .fails_with(1, &["in.json:1: (file): expected {\"input_ids\"", "found "]);
    ask(br#"{"input_ids":[[4294967295]]}"#)
        .fails(1, "in.json:1: input_ids: expected token ids below 300, found 4294967295");
    // A row that is padding alone has no logits, and no row has none either.
    assert_eq!(ask(br#"{"input_ids":[]}"#).ok().stdout, "{\"logits\":[]}\n");
    ask(br#"{"input_ids":[[5]],"attention_mask":[[0]]}"#).ok();
    fs::write(dir.path().join("in.jsonl"), b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n").unwrap();
    run(dir.path(), &["score", "--model", "m", "--input", "in.jsonl"])
        .fails(1, "in.jsonl:2: (text): expected UTF-8, found the byte 0xff");
}

#[test]
fn end_tokens_are_those_of_the_generation_config() {
    let dir = made(LLAMA);
    tokenizer(&dir.path().join("m"), 4);
    let ask = || {
        let args = ["generate", "--model", "m", "--prompt", "ab", "--max-new-tokens", "6", "--greedy"];
        let done = run(dir.path(), &args).ok();
        let line: Value = serde_json::from_str(&done.stdout).unwrap();
        line["token_ids"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect::<Vec<_>>()
    };
    let path = dir.path().join("m/generation_config.json");
    fs::write(&path, r#"{"eos_token_id":299}"#).unwrap();
    let whole = ask();
    let third = whole[2];
    let at = whole.iter().position(|t| *t == third).unwrap();
    fs::write(&path, json!({"eos_token_id": [298, third]}).to_string()).unwrap();
    assert_eq!(ask(), whole[..=at]);
    // Without the file, those of config.json.
    fs::remove_file(&path).unwrap();
    let config = dir.path().join("m/config.json");
    let mut value = json_of(&config);
    value["eos_token_id"] = json!(third);
    fs::write(&config, value.to_string()).unwrap();
    assert_eq!(ask(), whole[..=at]);
}

/// Writes a tokenizer of single letters and two special tokens, `n` letters in all.
fn tokenizer(dir: &Path, n: usize) {
    let mut vocab = serde_json::Map::new();
    vocab.insert("</s>".to_owned(), json!(0));
    vocab.insert("<pad>".to_owned(), json!(1));
    for i in 0..n {
        let letter = char::from_u32('a' as u32 + i as u32).unwrap();
        vocab.insert(letter.to_string(), json!(i + 2));
    }
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let file = json!({
        "version": "1.0",
        "added_tokens": [special(0, "</s>"), special(1, "<pad>")],
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    fs::write(dir.join("tokenizer.json"), file.to_string()).unwrap();
    fs::write(dir.join("tokenizer_config.json"), r#"{"eos_token":"</s>","pad_token":"<pad>"}"#).unwrap();
}

#[test]
fn a_tokenizer_that_does_not_fit_and_prompts_that_do_not() {
    let dir = made(&LLAMA.replace("300", "6"));
    let ask = |prompt: &str, new: &str| {
        run(
            dir.path(),
            &["generate", "--model", "m", "--prompt", prompt, "--max-new-tokens", new, "--greedy"],
        )
    };
    tokenizer(&dir.path().join("m"), 4);
    ask("abcd", "2").ok();
    ask("", "2")
        .fails(1, "prompt: expected at least one token (the tokenizer puts no start token), found none");
    ask(&"abc".repeat(11), "2")
        .fails(1, "prompt: expected at most 30 tokens (the context of 32 less --max-new-tokens), found 33");
    tokenizer(&dir.path().join("m"), 5);
    let message =
        "m/tokenizer.json: vocabulary: expected at most 6 tokens (vocab_size of m/config.json), found 7";
    ask("a", "2").fails(1, message);
    fs::write(dir.path().join("in.jsonl"), "{\"text\":\"a\"}\n").unwrap();
    run(dir.path(), &["score", "--model", "m", "--input", "in.jsonl"]).fails(1, message);
}

/// A post-processor that puts `</s>` before a text.
fn starting(dir: &Path) {
    let path = dir.join("tokenizer.json");
    let mut file = json_of(&path);
    let start = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [0], "tokens": ["</s>"]}}
    });
    fs::write(path, file.to_string()).unwrap();
    let config = r#"{"bos_token":"</s>","eos_token":"</s>","pad_token":"<pad>"}"#;
    fs::write(dir.join("tokenizer_config.json"), config).unwrap();
}

#[test]
fn texts_are_scored_as_transformers_tokenises_them() {
    let config = LLAMA
        .replace("300", "6")
        .replace('{', r#"{"architectures":["LlamaForSequenceClassification"],"num_labels":1,"#);
    let dir = made(&config);
    tokenizer(&dir.path().join("m"), 4);
    let score = |line: &str| {
        fs::write(dir.path().join("in.jsonl"), format!("{line}\n")).unwrap();
        run(dir.path(), &["score", "--model", "m", "--input", "in.jsonl"]).ok().stdout
    };
    // Letters are 2 to 5; a special token that a text spells is one token.
    assert_eq!(score(r#"{"text":"ab</s>"}"#), score(r#"{"input_ids":[2,3,0]}"#));
    assert_eq!(score(r#"{"prompt":"ab","completion":"c"}"#), score(r#"{"input_ids":[2,3,4]}"#));
    starting(&dir.path().join("m"));
    assert_eq!(score(r#"{"text":"ab"}"#), score(r#"{"input_ids":[0,2,3]}"#));
    assert_eq!(score(r#"{"prompt":"ab","completion":"c"}"#), score(r#"{"input_ids":[0,2,3,4]}"#));
    assert_eq!(score(r#"{"prompt":"</s>ab","completion":"c"}"#), score(r#"{"input_ids":[0,2,3,4]}"#));
    // Behind the text stands padding, which is not read.
    assert_eq!(score(r#"{"text":"ab<pad><pad>"}"#), score(r#"{"text":"ab"}"#));
    let template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}";
    fs::write(dir.path().join("m/chat_template.jinja"), template).unwrap();
    let chat = r#"{"messages":[{"role":"user","content":"ab"},{"role":"assistant","content":"c"}]}"#;
    assert_eq!(score(chat), score(r#"{"input_ids":[2,3,0,4,0]}"#));
    run(dir.path(), &["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "2"])
        .fails(1, "m/config.json: architectures: expected a language model, found a classifier");
}

#[test]
fn a_sample_depends_on_its_prompt_and_not_on_its_place() {
    let dir = made(&LLAMA.replace("300", "6"));
    tokenizer(&dir.path().join("m"), 4);
    let sampled = |prompts: &[&str]| -> Vec<Value> {
        let lines: Vec<String> = prompts.iter().map(|p| json!({ "prompt": p }).to_string()).collect();
        fs::write(dir.path().join("in.jsonl"), lines.join("\n")).unwrap();
        let args = ["generate", "--model", "m", "--input", "in.jsonl", "--max-new-tokens", "12"];
        let done = run(dir.path(), &args).ok();
        done.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let there = sampled(&["a", "bc", "d"]);
    let mut back = sampled(&["d", "bc", "a"]);
    back.reverse();
    assert_eq!(there, back);
    let twice = sampled(&["a", "a"]);
    assert_eq!(twice[0], there[0]);
    assert_ne!(twice[1]["token_ids"], twice[0]["token_ids"], "the same prompt again is another sample");
    let ask = |more: &[&str]| {
        let args = ["generate", "--model", "m", "--prompt", "a", "--max-new-tokens", "2"];
        run(dir.path(), &[&args[..], more].concat())
    };
    ask(&["--stop", ""]).fails(2, "command line: --stop: expected a text, found an empty one");
    ask(&["--num-return-sequences", "999999999999"])
        .fails(2, "command line: --num-return-sequences: expected 1 to 1000000, found 999999999999");
}
