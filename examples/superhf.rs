//! SuperHF on a toy: a small decoder learns to repeat the letter it is shown.
//!
//! ```text
//! cargo run --release -p rlhf-examples --bin superhf            # 2 cores: 5 seconds
//! cargo run --release -p rlhf-examples --bin superhf -- --smoke # three rounds
//! ```
//!
//! The reward is the share of a completion's letters that equal the prompt's. One JSON line a round:
//! `reward` is the mean over all samples of the round and rises from 0.04 (one letter in 26) past 0.95
//! within 120 rounds; `reward/kept` is that of the best of 16; `loss` is `nll + β · kl`; `kl` is the
//! per-token KL of the start policy to the policy, in nats.

use std::error::Error;
use std::io::Write;

use burn::module::Module;
use burn::tensor::Device;
use rlhf::core::loss::superhf::{KlPositions, KlReduction, SuperhfConfig};
use rlhf::core::number::Weight;
use rlhf::core::rng::stream;
use rlhf::policy::batch::Sequence;
use rlhf::policy::config::{DecoderConfig, ModelKind};
use rlhf::policy::decoder::Decoder;
use rlhf::policy::generate::{Decoding, Generation, Rollout, generate};
use rlhf::policy::hf;
use rlhf::policy::optim::{AdamW, AdamWConfig};
use rlhf::policy::superhf::{gradients, keep_best};
use rlhf::policy::weights::{parameters, scratch};

const SEED: u64 = 0;
const LETTERS: u32 = 26;
const PAD: u32 = 26;
const N: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let smoke = std::env::args().any(|a| a == "--smoke");
    let n_rounds = if smoke { 3 } else { 120 };
    let plain = device()?;
    let config = DecoderConfig::parse(
        r#"{"model_type":"llama","vocab_size":27,"hidden_size":32,"intermediate_size":64,
            "num_hidden_layers":2,"num_attention_heads":2,"max_position_embeddings":16,"pad_token_id":26}"#,
    )?;
    let mut policy = Decoder::build(&config, &mut scratch(SEED, &config), &plain.clone().autodiff())?;
    let prior = policy.valid();
    let mut optim = AdamW::new(AdamWConfig { max_grad_norm: f64::INFINITY, ..AdamWConfig::torch() });
    let loss = SuperhfConfig {
        beta: Weight::new(0.01)?,
        reduction: KlReduction::Mean,
        positions: KlPositions::Aligned,
        inverse_loss: Weight::ZERO,
    };
    let how = Generation {
        num_generations: N,
        pad_token_id: PAD,
        max_rows: 512,
        ..Generation::plain(Decoding::for_device(&plain), config.max_position_embeddings(), 8)
    };

    // prompts
    let prompts: Vec<Vec<u32>> = (0..LETTERS).map(|letter| vec![letter]).collect();
    let mut out = std::io::stdout().lock();
    for round in 0..n_rounds {
        // rollouts
        let random = |p: usize, s: usize| stream(SEED, "rollout", round, (p * N + s) as u64);
        let rollouts = generate(&policy.valid(), &prompts, &how, &random, &plain)?;
        // rewards
        let rewards: Vec<f64> = rollouts.iter().map(|r| reward(&prompts[r.prompt], r)).collect();
        // advantages: the best of each prompt's samples is kept, the others are dropped
        let texts: Vec<String> = rollouts.iter().map(|r| spell(&r.tokens)).collect();
        let mut kept = Vec::new();
        for (g, scores) in rewards.chunks(N).enumerate() {
            let texts: Vec<&str> = texts[g * N..][..N].iter().map(String::as_str).collect();
            kept.extend(keep_best(&texts, scores, 1).into_iter().map(|i| g * N + i));
        }
        // loss and step: one for each minibatch of two
        let rows: Vec<Sequence> =
            kept.iter().map(|i| Sequence::new(&prompts[rollouts[*i].prompt], &rollouts[*i].tokens)).collect();
        let (mut mean_loss, mut mean_kl) = (0.0, 0.0);
        for minibatch in rows.chunks(2) {
            let minibatch: Vec<&Sequence> = minibatch.iter().collect();
            let (grads, shown) = gradients(&policy, &prior, &minibatch, &loss, PAD);
            policy = optim.step(2e-3, policy, grads).0;
            mean_loss += shown.loss * 2.0 / rows.len() as f64;
            mean_kl += shown.kl * 2.0 / rows.len() as f64;
        }
        // report
        let mean = |x: &mut dyn Iterator<Item = f64>, n: usize| x.sum::<f64>() / n as f64;
        let line = serde_json::json!({
            "step": round + 1,
            "reward": mean(&mut rewards.iter().copied(), rewards.len()),
            "reward/kept": mean(&mut kept.iter().map(|i| rewards[*i]), kept.len()),
            "loss": mean_loss,
            "kl": mean_kl,
        });
        writeln!(out, "{line}")?;
    }
    // checkpoint
    let dir = std::path::Path::new("runs/example-superhf");
    hf::save(dir, &config, ModelKind::Causal, &parameters(&policy))?;
    Ok(())
}

/// Share of the letters that equal the prompt's.
fn reward(prompt: &[u32], rollout: &Rollout) -> f64 {
    let right = rollout.tokens.iter().filter(|t| **t == prompt[0]).count();
    right as f64 / rollout.tokens.len() as f64
}

fn spell(tokens: &[u32]) -> String {
    tokens.iter().filter_map(|t| char::from_u32('a' as u32 + t)).collect()
}

/// The first that was built.
fn device() -> Result<Device, rlhf::error::Error> {
    let built = [
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "wgpu"), "wgpu"),
        (cfg!(feature = "flex"), "flex"),
    ];
    rlhf::device::named(built.iter().find(|(built, _)| *built).map_or("ndarray", |(_, name)| name))
}
