//! The same targets on a stable compiler: seeded mutations of right files, without coverage.
//!
//! `mutate TARGET SECONDS [SEED]` prints the number of inputs; of the inputs that panic at one place in the
//! code the first is kept in `fuzz/artifacts/TARGET/` and named. `mutate TARGET FILE` runs one input.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// Where and why the last panic was.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Longest an input may take.
const SLOW: Duration = Duration::from_secs(2);

/// What a mutated file is likely to be read as.
const WORDS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1",
    b"2",
    b"18446744073709551615",
    b"9223372036854775808",
    b"4294967296",
    b"1e308",
    b"0.5",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\"\"",
    b"\"F32\"",
    b"\"F16\"",
    b"\"BF16\"",
    b"\"I64\"",
    b"\"llama3\"",
    b"\"linear\"",
    b"\"type\"",
    b"\"sliding_attention\"",
    b"\"full_attention\"",
    b"\"gelu\"",
    b"\"BPE\"",
    b"\"Unigram\"",
    b"\"WordPiece\"",
    b"\"WordLevel\"",
    b"\"Sequence\"",
    b"\"Split\"",
    b"\"Regex\"",
    b"[0,8]",
    b"[2,2]",
    b"\xff",
    b"\\u0000",
    b",",
    b":",
    b"__metadata__",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "safetensors" => vec![
            file(
                r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[16,20]}}"#,
                20,
            ),
            file(
                r#"{"__metadata__":{"format":"pt"},"wte.weight":{"dtype":"F16","shape":[4,1],"data_offsets":[0,8]},"h.0.mlp.c_fc.weight":{"dtype":"F16","shape":[1,4],"data_offsets":[8,16]}}"#,
                16,
            ),
            br#"{"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00001.safetensors"}}"#
                .to_vec(),
        ],
        "config" => ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gemma2", "gemma3_text", "gpt2"]
            .map(config)
            .to_vec(),
        _ => vec![rlhf_fuzz::TOKENIZER.to_vec()],
    }
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 63);
    bytes
}

fn config(family: &str) -> Vec<u8> {
    let sizes = if family == "gpt2" {
        r#""n_embd":8,"n_head":2,"n_layer":2,"n_positions":8,"n_inner":null"#
    } else {
        r#""hidden_size":8,"intermediate_size":8,"num_hidden_layers":2,"num_attention_heads":2,
        "num_key_value_heads":1,"head_dim":4,"max_position_embeddings":8"#
    };
    let rope = if family == "gemma3_text" {
        r#"{"full_attention":{"rope_type":"linear","factor":8,"rope_theta":1e6},"sliding_attention":{"rope_type":"default"}}"#
    } else {
        r#"{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,
        "original_max_position_embeddings":8,"rope_theta":1e4}"#
    };
    format!(
        r#"{{"model_type":"{family}","architectures":["XForSequenceClassification"],"vocab_size":8,{sizes},
        "sliding_window":4,"use_sliding_window":true,"layer_types":["full_attention","sliding_attention"],
        "max_window_layers":1,"tie_word_embeddings":false,"eos_token_id":[1,2],"pad_token_id":0,
        "id2label":{{"0":"A"}},"attn_logit_softcapping":50.0,"query_pre_attn_scalar":4,"rms_norm_eps":1e-6,
        "rotary_pct":0.5,"rope_parameters":{rope}}}"#
    )
    .into_bytes()
}

fn mutated(seed: &[u8], rng: &mut ChaCha12Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..=6) {
        let n = bytes.len();
        let at = rng.random_range(0..=n);
        match rng.random_range(0..8) {
            0 if n > 0 => bytes[at.min(n - 1)] ^= 1 << rng.random_range(0..8),
            1 if n > 0 => bytes[at.min(n - 1)] = rng.random(),
            2 => bytes.truncate(at),
            3 => {
                let to = rng.random_range(at..=n);
                bytes.drain(at..to.min(at + 40));
            }
            4 => {
                let to = rng.random_range(at..=n).min(at + 200);
                let copy = bytes[at..to].to_vec();
                let place = rng.random_range(0..=n);
                bytes.splice(place..place, copy);
            }
            // A word in the place of a value, or beside it.
            5 | 6 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                let end = bytes[at..].iter().position(|b| b",}]:".contains(b)).map_or(n, |i| at + i);
                let begin = bytes[..at].iter().rposition(|b| b",{[:".contains(b)).map_or(0, |i| i + 1);
                bytes.splice(begin..end.max(begin), word.iter().copied());
            }
            _ => {
                // Another header length.
                if n >= 8 {
                    let new = rng.random_range(0..(2 * n as u64));
                    bytes[..8].copy_from_slice(&new.to_le_bytes());
                }
            }
        }
    }
    bytes
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run: fn(&[u8]) = match arguments.first().map(String::as_str) {
        Some("safetensors") => rlhf_fuzz::safetensors,
        Some("config") => rlhf_fuzz::config,
        Some("tokenizer") => rlhf_fuzz::tokenizer,
        _ => {
            eprintln!("expected safetensors, config or tokenizer, then seconds, then a seed");
            return ExitCode::from(2);
        }
    };
    let target = arguments[0].as_str();
    if let Some(input) = arguments.get(1).and_then(|path| fs::read(path).ok()) {
        run(&input);
        return ExitCode::SUCCESS;
    }
    let number = |i: usize, default: u64| arguments.get(i).and_then(|s| s.parse().ok()).unwrap_or(default);
    let (seconds, seed) = (number(1, 60), number(2, 0));
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        if let Ok(mut last) = LAST.lock() {
            *last = place;
        }
    }));
    let (seeds, start) = (seeds(target), Instant::now());
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let (mut n, mut places) = (0u64, BTreeSet::new());
    while start.elapsed() < Duration::from_secs(seconds) {
        let input = mutated(&seeds[rng.random_range(0..seeds.len())], &mut rng);
        let began = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&input)));
        n += 1;
        let place = match outcome {
            Err(_) => LAST.lock().map(|last| last.clone()).unwrap_or_default(),
            Ok(()) if began.elapsed() > SLOW => "slow".to_owned(),
            Ok(()) => continue,
        };
        if places.insert(place.clone()) {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(target);
            let path = folder.join(format!("fault-{}", places.len()));
            fs::create_dir_all(&folder).and_then(|()| fs::write(&path, &input)).expect("room for the input");
            eprintln!("{}: {place}", path.display());
        }
    }
    println!("{target}: {n} inputs, {} faults, {:.0} s", places.len(), start.elapsed().as_secs_f64());
    if places.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
