//! A sample depends on the seed, its prompt and its number alone: its tokens, and on the CPU devices
//! its log-probabilities to the bit.

use burn::tensor::Device;
use rlhf_core::rng::stream;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Decoding, Generation, Rollout, generate};

use serde_json::json;

use crate::support::{decoder, devices, plain, rows, small, with};

/// Alone, the short ones stay below 256 attention scores a head, where the matrix product has code of
/// its own; beside the long one nothing does.
const LENGTHS: [usize; 8] = [1, 30, 4, 33, 4, 150, 12, 2];

/// Generates for the prompts named, each under its own name's random streams.
fn run(model: &Decoder, which: &[usize], how: &Generation, device: &Device) -> Vec<Rollout> {
    let all = rows(8, 32, &LENGTHS);
    let prompts: Vec<Vec<u32>> = which.iter().map(|i| all[*i].clone()).collect();
    let random = |p: usize, s: usize| stream(5, "streams", which[p] as u64, s as u64);
    let mut out = generate(model, &prompts, how, &random, device).expect("finite");
    for r in &mut out {
        r.prompt = which[r.prompt];
    }
    out.sort_by_key(|r| (r.prompt, r.sample));
    out
}

#[track_caller]
fn same(what: &str, found: &[Rollout], expected: &[Rollout]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert_eq!(a, b, "{what}: prompt {}, sample {}", a.prompt, a.sample);
    }
}

fn of(all: &[Rollout], prompt: usize) -> Vec<Rollout> {
    all.iter().filter(|r| r.prompt == prompt).cloned().collect()
}

/// Each way of decoding on each device it serves.
fn ways() -> Vec<(Decoding, Device)> {
    let tensors = devices().into_iter().map(|device| (Decoding::Tensor, device));
    tensors.chain([(Decoding::Host, devices()[0].clone())]).collect()
}

fn company_changes_nothing(model: &Decoder, decoding: Decoding, device: &Device) {
    // Room for the longest prompt.
    let how = |max_rows| Generation { decoding, context_length: 256, max_rows, ..plain(3, 40) };
    let straight = [0, 1, 2, 3, 4, 5, 6, 7];
    let together = run(model, &straight, &how(64), device);
    assert!(together.iter().any(|r| r.tokens.len() < 10) && together.iter().any(|r| r.tokens.len() == 40));
    for i in straight {
        same("alone", &run(model, &[i], &how(64), device), &of(&together, i));
    }
    let turned = run(model, &[5, 3, 7, 0, 6, 1, 4, 2], &how(64), device);
    same("in another order", &turned, &together);
    for max_rows in [1, 4, 7, 1000] {
        same(&format!("max_rows {max_rows}"), &run(model, &straight, &how(max_rows), device), &together);
    }
    let padded = Generation { pad_token_id: 9, ..how(5) };
    same("another pad token", &run(model, &straight, &padded, device), &together);
}

#[test]
fn company_and_order_and_batch_size_change_no_sample() {
    for (decoding, device) in ways() {
        company_changes_nothing(&decoder(&small(), 21, &device), decoding, &device);
        // A tied head, one key–value head for all, a width that fills more than one vector register.
        let changes = json!({"hidden_size": 64, "num_key_value_heads": 1, "tie_word_embeddings": true,
            "initializer_range": 0.15});
        let config = with(&small(), &changes);
        company_changes_nothing(&decoder(&config, 22, &device), decoding, &device);
    }
}

#[test]
fn more_samples_keep_the_first_ones() {
    for (decoding, device) in ways() {
        let model = decoder(&small(), 21, &device);
        let how = |n| Generation { decoding, ..plain(n, 20) };
        let many = run(&model, &[0, 1, 2], &how(5), &device);
        let few = run(&model, &[0, 1, 2], &how(2), &device);
        let first: Vec<Rollout> = many.iter().filter(|r| r.sample < 2).cloned().collect();
        same("two of five", &few, &first);
        assert!(
            many.iter().any(|r| r.sample > 0 && r.tokens != of(&many, r.prompt)[0].tokens),
            "samples differ"
        );
    }
}

#[test]
fn threads_change_no_sample() {
    // Wide enough that every product and the attention are shared out.
    let changes = json!({"hidden_size": 160, "intermediate_size": 320, "num_attention_heads": 10,
        "num_key_value_heads": 5, "vocab_size": 400, "initializer_range": 0.1});
    let model = decoder(&with(&small(), &changes), 23, &devices()[0]);
    let threads = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads");
        let how = Generation { decoding: Decoding::Host, context_length: 256, ..plain(3, 40) };
        pool.install(|| run(&model, &[0, 1, 2, 3, 5], &how, &devices()[0]))
    };
    let one = threads(1);
    for n in [2, 3] {
        same(&format!("{n} threads"), &threads(n), &one);
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    for (decoding, device) in ways() {
        let model = decoder(&small(), 21, &device);
        let call = || run(&model, &[3, 1, 6], &Generation { decoding, ..plain(3, 20) }, &device);
        assert_eq!(call(), call());
    }
}
