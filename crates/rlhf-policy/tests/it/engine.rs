//! The engine for the CPU against the decoder's own tensors, and what both promise about requests.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rlhf_core::host::sampling::{Sampling, logp_of};
use rlhf_core::rng::stream;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::engine::Engine;
use rlhf_policy::generate::{Decoding, Finish, Generation, Rollout, StopStrings, generate};
use rlhf_policy::hf::load_decoder;
use rlhf_policy::lora::Lora;
use rlhf_policy::projection::TiedAdapter;
use rlhf_policy::weights::{parameters, replaced};

use crate::expected::{CAUSAL, Expected, golden};
use crate::support::{close, decoder, devices, logits, plain, rows, small};

const BOTH: [Decoding; 2] = [Decoding::Host, Decoding::Tensor];

/// Sizes that fill no vector and no panel, windows shorter than the rows.
const FAMILIES: [&str; 9] = [
    r#"{"model_type":"llama","vocab_size":33,"hidden_size":18,"intermediate_size":70,"num_hidden_layers":2,
        "num_attention_heads":3,"num_key_value_heads":1,"max_position_embeddings":80,"mlp_bias":true,
        "rope_parameters":{"rope_type":"llama3","rope_theta":10000.0,"factor":8.0,"low_freq_factor":1.0,
        "high_freq_factor":4.0,"original_max_position_embeddings":16}}"#,
    r#"{"model_type":"mistral","vocab_size":33,"hidden_size":30,"intermediate_size":41,"num_hidden_layers":2,
        "num_attention_heads":3,"num_key_value_heads":1,"max_position_embeddings":80,"sliding_window":4}"#,
    r#"{"model_type":"mistral","vocab_size":33,"hidden_size":24,"intermediate_size":41,"num_hidden_layers":2,
        "num_attention_heads":7,"num_key_value_heads":1,"head_dim":34,"max_position_embeddings":80,
        "sliding_window":35}"#,
    r#"{"model_type":"qwen2","vocab_size":133,"hidden_size":66,"intermediate_size":130,"num_hidden_layers":2,
        "num_attention_heads":3,"num_key_value_heads":1,"max_position_embeddings":80,
        "tie_word_embeddings":true}"#,
    r#"{"model_type":"qwen3","vocab_size":33,"hidden_size":20,"intermediate_size":30,"num_hidden_layers":2,
        "num_attention_heads":6,"num_key_value_heads":2,"head_dim":8,"max_position_embeddings":80}"#,
    r#"{"model_type":"gpt2","vocab_size":33,"n_embd":21,"n_head":3,"n_layer":2,"n_positions":80}"#,
    r#"{"model_type":"gpt_neox","vocab_size":33,"hidden_size":24,"intermediate_size":50,"num_hidden_layers":2,
        "num_attention_heads":3,"max_position_embeddings":80}"#,
    r#"{"model_type":"gemma2","vocab_size":33,"hidden_size":25,"intermediate_size":40,"num_hidden_layers":2,
        "num_attention_heads":3,"num_key_value_heads":1,"head_dim":10,"max_position_embeddings":80,
        "sliding_window":4,"attn_logit_softcapping":5.0,"final_logit_softcapping":3.0,
        "query_pre_attn_scalar":24}"#,
    r#"{"model_type":"gemma3_text","vocab_size":33,"hidden_size":25,"intermediate_size":40,
        "num_hidden_layers":3,"num_attention_heads":3,"num_key_value_heads":1,"head_dim":10,
        "max_position_embeddings":80,"sliding_window":4,"sliding_window_pattern":2,
        "query_pre_attn_scalar":24}"#,
];

fn flex() -> Device {
    devices()[0].clone()
}

/// A scratch model none of whose norms and biases is trivial.
fn model(text: &str, device: &Device) -> Decoder {
    let config = DecoderConfig::parse(text).expect("valid").with("initializer_range", 0.1).expect("valid");
    let model = decoder(&config, 11, device);
    let mut all = parameters(&model);
    for (i, tensor) in all.values_mut().enumerate() {
        let mut rng = stream(13, "shake", i as u64, 0);
        for x in &mut tensor.data {
            *x += 0.1 * (rand::RngExt::random::<f32>(&mut rng) - 0.5);
        }
    }
    replaced(model, &all).expect("same shapes")
}

fn random(prompt: usize, sample: usize) -> rand_chacha::ChaCha12Rng {
    stream(5, "engine", prompt as u64, sample as u64)
}

fn run(model: &Decoder, prompts: &[Vec<u32>], how: &Generation) -> Vec<Rollout> {
    generate(model, prompts, how, &random, &flex()).expect("finite")
}

#[track_caller]
fn same_logits(model: &Decoder, row: &[u32]) {
    let found = Engine::new(model, None, 80).logits(row);
    let expected = logits(model, row, &flex());
    assert_eq!(found.len(), expected.iter().map(Vec::len).sum::<usize>());
    for (f, e) in found.iter().zip(expected.iter().flatten()) {
        close("logit", f64::from(*f), *e, 2e-5);
    }
}

#[test]
fn every_family_has_the_logits_of_its_tensors() {
    for text in FAMILIES {
        let model = model(text, &flex());
        for row in rows(3, 33, &[1, 31, 32, 75]) {
            same_logits(&model, &row);
        }
    }
}

/// Tokens equal, log-probabilities but for rounding.
#[track_caller]
fn same_samples(a: &[Rollout], b: &[Rollout]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!((a.prompt, a.sample, &a.tokens, a.finish), (b.prompt, b.sample, &b.tokens, b.finish));
        let all = |r: &Rollout| [r.behavior_logp.clone(), r.policy_logp.clone()].concat();
        for (x, y) in all(a).iter().zip(all(b)) {
            close("log-probability", *x, y, 2e-5);
        }
    }
}

#[test]
fn every_family_says_what_its_tensors_say() {
    let prompts = rows(4, 33, &[1, 33, 6, 40]);
    for text in FAMILIES {
        let model = model(text, &flex());
        for sampling in [Sampling::greedy(), Sampling { temperature: 0.7, top_k: 9, ..Sampling::plain() }] {
            let [host, tensor] = BOTH.map(|decoding| {
                let how = Generation { sampling, decoding, max_rows: 3, ..plain(2, 36) };
                run(&model, &prompts, &how)
            });
            same_samples(&host, &tensor);
        }
    }
}

#[test]
fn recorded_log_probabilities_are_those_of_the_whole_row_to_the_bit() {
    for text in FAMILIES {
        let model = model(text, &flex());
        let engine = Engine::new(&model, None, 80);
        let prompts = rows(4, 33, &[1, 33, 40]);
        let sampling = Sampling { temperature: 0.9, ..Sampling::plain() };
        for r in run(&model, &prompts, &Generation { sampling, decoding: Decoding::Host, ..plain(2, 36) }) {
            let whole = [prompts[r.prompt].as_slice(), &r.tokens].concat();
            let logits = engine.logits(&whole);
            let v = logits.len() / whole.len();
            for (i, token) in r.tokens.iter().enumerate() {
                let row = &logits[(prompts[r.prompt].len() + i - 1) * v..][..v];
                assert_eq!(r.policy_logp[i].to_bits(), logp_of(row, *token).to_bits());
            }
        }
    }
}

fn adapter(name: &str, shape: [usize; 3]) -> Lora {
    let [inputs, rank, outputs] = shape;
    let param = |part: u64, shape: [usize; 2]| {
        let mut rng = stream(17, name, part, 0);
        let numbers: Vec<f32> =
            (0..shape[0] * shape[1]).map(|_| rand::RngExt::random::<f32>(&mut rng) - 0.5).collect();
        Param::<Tensor<2>>::from_data(TensorData::new(numbers, shape), &flex())
    };
    Lora { a: param(0, [inputs, rank]), b: param(1, [rank, outputs]), scale: 0.7 }
}

#[test]
fn adapters_are_merged_wherever_they_stand() {
    let plain_one = model(FAMILIES[0], &flex());
    let mut adapted = plain_one.clone();
    let block = &mut adapted.model.layers[1];
    block.self_attn.q_proj.as_mut().expect("separate").lora = Some(adapter("q", [18, 2, 18]));
    block.self_attn.o_proj.lora = Some(adapter("o", [18, 3, 18]));
    block.mlp.down_proj.lora = Some(adapter("down", [70, 1, 18]));
    adapted.model.embed_tokens.lora = Some(adapter("embed", [33, 2, 18]));
    adapted.lm_head.as_mut().expect("untied").lora = Some(adapter("head", [18, 2, 33]));
    let row = &rows(3, 33, &[20])[0];
    same_logits(&adapted, row);
    let change = |m: &Decoder| logits(m, row, &flex())[19][4];
    assert!((change(&adapted) - change(&plain_one)).abs() > 0.05, "the adapters matter");
    let mut tied = model(FAMILIES[3], &flex());
    // A tied head leaves the embedding's adapter alone, follows it, or has its own.
    tied.model.embed_tokens.lora = Some(adapter("embed", [133, 2, 66]));
    same_logits(&tied, row);
    tied.model.embed_tokens.tied = TiedAdapter::Shared;
    same_logits(&tied, row);
    tied.model.embed_tokens.head = Some(adapter("head", [66, 3, 133]));
    same_logits(&tied, row);
    let mut fused = model(FAMILIES[6], &flex());
    fused.model.layers[0].self_attn.qkv_proj.as_mut().expect("fused").lora =
        Some(adapter("qkv", [24, 2, 72]));
    same_logits(&fused, row);
}

#[test]
fn some_blocks_alone_are_another_model() {
    let model = model(FAMILIES[8], &flex());
    let row = &rows(3, 33, &[9])[0];
    let tokens: Vec<i64> = row.iter().map(|t| i64::from(*t)).collect();
    let tokens = Tensor::<2, burn::tensor::Int>::from_data(TensorData::new(tokens, [1, 9]), &flex());
    let expected = model.head(model.model.hidden_through(tokens, &[0, 2]));
    let expected: Vec<f64> = expected.into_data().convert::<f64>().try_into_vec().expect("f64");
    for (f, e) in Engine::new(&model, Some(&[0, 2]), 80).logits(row).iter().zip(&expected) {
        close("logit", f64::from(*f), *e, 2e-5);
    }
    let first = (0..33).max_by(|a, b| expected[8 * 33 + a].total_cmp(&expected[8 * 33 + b])).expect("33");
    let [host, tensor] = BOTH.map(|decoding| {
        let sampling = Sampling::greedy();
        let how = Generation { sampling, decoding, layers: Some(vec![0, 2]), ..plain(1, 12) };
        run(&model, std::slice::from_ref(row), &how)
    });
    same_samples(&host, &tensor);
    assert_eq!(host[0].tokens[0] as usize, first);
    let how = Generation { sampling: Sampling::greedy(), ..plain(1, 12) };
    assert_ne!(run(&model, std::slice::from_ref(row), &how)[0].policy_logp, host[0].policy_logp);
}

#[test]
fn a_stop_string_ends_a_row_with_the_token_that_completes_it() {
    let model = decoder(&small(), 3, &flex());
    let text = |tokens: &[u32]| tokens.iter().map(|t| format!("{t};")).collect::<String>();
    for decoding in BOTH {
        let long = Generation { decoding, eos_token_ids: vec![], ..plain(2, 30) };
        let free = run(&model, &rows(2, 32, &[4, 9]), &long);
        // The fourth and fifth token of the first row, across their border.
        let stop = format!("{};{};", free[0].tokens[3], free[0].tokens[4]);
        let strings = vec!["never".to_owned(), stop.clone()];
        let how = Generation { stop: Some(StopStrings::new(strings, text)), ..long };
        for (r, free) in run(&model, &rows(2, 32, &[4, 9]), &how).iter().zip(&free) {
            let end = (1..=30).find(|n| text(&free.tokens[..*n]).contains(&stop));
            assert_eq!(r.tokens, free.tokens[..end.unwrap_or(30)]);
            assert_eq!(r.finish, if end.is_some() { Finish::Stop } else { Finish::Length });
        }
        assert_eq!(run(&model, &rows(2, 32, &[4, 9]), &how)[0].finish, Finish::Stop);
        assert_eq!(
            format!("{:?}", how.stop.expect("some")),
            format!("StopStrings {{ strings: [\"never\", {stop:?}], .. }}")
        );
    }
}

#[test]
fn wrong_requests_are_named_and_empty_ones_are_empty() {
    let model = decoder(&small(), 3, &flex());
    for decoding in BOTH {
        let how = Generation { decoding, ..plain(2, 8) };
        let error = |how: &Generation, prompts: &[Vec<u32>]| {
            generate(&model, prompts, how, &random, &flex()).expect_err("refused").to_string()
        };
        let found = error(&how, &[vec![1], vec![3, 32]]);
        assert_eq!(found, "prompt 1, token 1: expected token ids below 32, found 32");
        let with = |layers: Vec<usize>| Generation { layers: Some(layers), ..how.clone() };
        let expected = "layers: expected at least one index, each below 2, found";
        assert_eq!(error(&with(vec![0, 2]), &[vec![1]]), format!("{expected} 2"));
        assert_eq!(error(&with(vec![]), &[vec![1]]), format!("{expected} none"));
        let none = Generation { max_completion_length: 0, ..how.clone() };
        let found = run(&model, &[vec![1], vec![2; 128]], &none);
        assert_eq!(
            found.iter().map(|r| (r.prompt, r.sample)).collect::<Vec<_>>(),
            [(0, 0), (0, 1), (1, 0), (1, 1)]
        );
        assert!(found.iter().all(|r| r.tokens.is_empty() && r.finish == Finish::Length));
        assert!(run(&model, &[vec![1]], &Generation { num_generations: 0, ..how.clone() }).is_empty());
        // One row at a time when none is allowed.
        same_samples(
            &run(&model, &[vec![1]], &Generation { max_rows: 0, ..how.clone() }),
            &run(&model, &[vec![1]], &how),
        );
    }
}

#[test]
fn the_device_says_what_computes() {
    assert_eq!(Decoding::for_device(&flex()), Decoding::Host);
    assert_eq!(Decoding::for_device(&flex().autodiff()), Decoding::Host);
    assert_eq!(Decoding::for_device(&devices()[1]), Decoding::Tensor);
}

#[test]
fn every_rule_of_sampling_reaches_both() {
    let model = decoder(&small(), 3, &flex());
    let p = Sampling::plain();
    let rules = [
        Sampling { top_p: 0.6, ..p },
        Sampling { min_p: 0.2, ..p },
        Sampling { repetition_penalty: 1.7, ..p },
        Sampling { repetition_penalty: 1.7, ..Sampling::greedy() },
        Sampling { no_repeat_ngram_size: 2, min_new_tokens: 9, ..p },
        Sampling { temperature: 1.6, typical_p: 0.8, epsilon_cutoff: 0.01, ..p },
    ];
    let prompts = rows(2, 32, &[4, 9, 33]);
    for sampling in rules {
        let [host, tensor] =
            BOTH.map(|decoding| run(&model, &prompts, &Generation { sampling, decoding, ..plain(2, 20) }));
        same_samples(&host, &tensor);
        for r in &host {
            // What was drawn has a probability under the rule, at least the model's own or not.
            assert!(r.behavior_logp.iter().all(|l| *l <= 0.0) && r.policy_logp.iter().all(|l| *l < 0.0));
            assert_ne!(r.behavior_logp, r.policy_logp, "{sampling:?}");
        }
    }
}

#[test]
fn greedy_continuations_of_all_families_equal_those_of_transformers() {
    for dir in CAUSAL.iter().filter_map(|name| golden(name)) {
        let config = DecoderConfig::load(&dir).expect("config");
        let model = load_decoder(&dir, &config, &flex()).expect("loads");
        let expected = Expected::open(&dir);
        let (prompts, tokens) = (expected.rows(), expected.tokens("greedy"));
        for decoding in BOTH {
            let sampling = Sampling::greedy();
            let how = Generation { sampling, ..Generation::plain(decoding, 128, 20) };
            let found: Vec<Vec<u32>> = run(&model, &prompts, &how).into_iter().map(|r| r.tokens).collect();
            assert_eq!(found, tokens, "{}", dir.display());
        }
        let steps = expected.floats("greedy_logits_step0_and_19");
        let v = steps.len() / prompts.len() / 2;
        let engine = Engine::new(&model, None, 128);
        for ((prompt, said), steps) in prompts.iter().zip(&tokens).zip(steps.chunks(2 * v)) {
            let logits = engine.logits(&[prompt.as_slice(), &said[..19]].concat());
            for (step, at) in steps.chunks(v).zip([prompt.len() - 1, prompt.len() + 18]) {
                for (f, e) in logits[at * v..][..v].iter().zip(step) {
                    close("logit", f64::from(*f), *e, 1e-4);
                }
            }
        }
    }
}
