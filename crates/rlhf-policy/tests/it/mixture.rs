//! Sampling from two models at once: the ends are its models, the middle their geometric mixture.

use burn::tensor::Device;
use rlhf_core::host::sampling::{Sampling, logp_of};
use rlhf_core::loss::nash_md::geometric_mixture_scalar;
use rlhf_core::number::Prob;
use rlhf_core::rng::stream;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::error::Error;
use rlhf_policy::generate::{Decoding, Generation, Mixture, Rollout, generate, generate_mixture};
use serde_json::json;

use crate::support::{close, decoder, devices, logits, plain, rows, small, with};

const LENGTHS: [usize; 5] = [1, 30, 4, 12, 2];

/// Each way of decoding on each device it serves.
fn ways() -> Vec<(Decoding, Device)> {
    let tensors = devices().into_iter().map(|device| (Decoding::Tensor, device));
    tensors.chain([(Decoding::Host, devices()[0].clone())]).collect()
}

fn coef(x: f64) -> Prob {
    Prob::new(x).expect("a share")
}

fn random(prompt: usize, sample: usize) -> rand_chacha::ChaCha12Rng {
    stream(5, "mixture", prompt as u64, sample as u64)
}

fn mixed(
    models: [&Decoder; 2],
    alpha: f64,
    how: &Generation,
    device: &Device,
) -> Result<Vec<Rollout>, Error> {
    let models = Mixture { policy: models[0], reference: models[1], coef: coef(alpha) };
    generate_mixture(&models, &rows(8, 32, &LENGTHS), how, &random, device)
}

/// Two models whose shapes differ in all but the vocabulary.
fn two(device: &Device) -> [Decoder; 2] {
    let changes = json!({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "initializer_range": 0.2});
    [decoder(&small(), 21, device), decoder(&with(&small(), &changes), 22, device)]
}

#[test]
fn the_ends_of_the_mixture_are_its_models_token_for_token() {
    for (decoding, device) in ways() {
        let [policy, reference] = two(&device);
        let how = Generation { decoding, max_rows: 4, ..plain(3, 20) };
        for (alpha, model) in [(0.0, &policy), (1.0, &reference)] {
            let found = mixed([&policy, &reference], alpha, &how, &device).expect("finite");
            let own = generate(model, &rows(8, 32, &LENGTHS), &how, &random, &device).expect("finite");
            assert_eq!(found, own, "{decoding:?}, α = {alpha}");
        }
        let half = mixed([&policy, &reference], 0.5, &how, &device).expect("finite");
        let own = generate(&policy, &rows(8, 32, &LENGTHS), &how, &random, &device).expect("finite");
        assert!(half.iter().zip(&own).any(|(a, b)| a.tokens != b.tokens), "a mixture is neither");
        // What is left of the policy when blocks are skipped; the reference stays whole.
        let short = Generation { layers: Some(vec![1]), ..how };
        let skipped = mixed([&policy, &reference], 0.0, &short, &device).expect("finite");
        let own = generate(&policy, &rows(8, 32, &LENGTHS), &short, &random, &device).expect("finite");
        assert_eq!(skipped, own, "{decoding:?}, one block");
    }
}

#[test]
fn log_probabilities_are_those_of_the_geometric_mixture() {
    for (decoding, device) in ways() {
        let [policy, reference] = two(&device);
        for (alpha, temperature) in [(0.125, 1.0), (0.5, 1.0), (0.7, 0.6)] {
            let sampling = Sampling { temperature, ..Sampling::plain() };
            let how = Generation { decoding, sampling, ..plain(2, 12) };
            let all = mixed([&policy, &reference], alpha, &how, &device).expect("finite");
            assert_eq!(all.len(), 2 * LENGTHS.len());
            let prompts = rows(8, 32, &LENGTHS);
            for rollout in &all {
                let prompt = &prompts[rollout.prompt];
                let row = [prompt.as_slice(), &rollout.tokens].concat();
                let (p, q) = (logits(&policy, &row, &device), logits(&reference, &row, &device));
                for (i, token) in rollout.tokens.iter().enumerate() {
                    let at = prompt.len() - 1 + i;
                    let mixture = geometric_mixture_scalar(coef(alpha), &p[at], &q[at]);
                    close("policy_logp", rollout.policy_logp[i], mixture[*token as usize], 1e-5);
                    let cold: Vec<f32> = mixture.iter().map(|x| (x / temperature) as f32).collect();
                    close("behavior_logp", rollout.behavior_logp[i], logp_of(&cold, *token), 1e-5);
                }
            }
        }
    }
}

#[test]
fn company_changes_no_sample_of_a_mixture() {
    for (decoding, device) in ways() {
        let [policy, reference] = two(&device);
        let how = |max_rows| Generation { decoding, max_rows, ..plain(3, 20) };
        let together = mixed([&policy, &reference], 0.4, &how(64), &device).expect("finite");
        assert!(together.iter().any(|r| r.tokens.len() < 20), "some end early");
        for max_rows in [1, 4, 7] {
            let found = mixed([&policy, &reference], 0.4, &how(max_rows), &device).expect("finite");
            assert_eq!(found, together, "{decoding:?}, {max_rows} rows");
        }
        let none = mixed([&policy, &reference], 0.4, &plain(2, 0), &device).expect("nothing to do");
        assert!(none.len() == 2 * LENGTHS.len() && none.iter().all(|r| r.tokens.is_empty()));
    }
}

#[test]
fn models_that_do_not_go_together_are_refused() {
    let device = devices()[0].clone();
    let policy = decoder(&small(), 21, &device);
    let other = decoder(&with(&small(), &json!({"vocab_size": 40})), 22, &device);
    let error = mixed([&policy, &other], 0.5, &plain(1, 4), &device).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "mixture: vocabulary of the reference: expected 32 tokens, as the policy's, found 40"
    );
    let short = json!({"model_type": "gpt2", "vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 2,
        "n_positions": 16});
    let short = rlhf_policy::config::DecoderConfig::parse(&short.to_string()).expect("valid");
    let short = decoder(&short, 23, &device);
    let error = mixed([&policy, &short], 0.5, &plain(1, 4), &device).expect_err("no room");
    assert_eq!(error.to_string(), "prompt 1: expected 1 to 12 tokens, found 30");
}
