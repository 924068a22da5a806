//! How fast the parts of a pipeline are, in tokens a second.

use std::fmt;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::loss::superhf::{KlPositions, KlReduction, SuperhfConfig};
use rlhf_core::number::Weight;
use rlhf_core::rng::stream;
use rlhf_policy::batch::Sequence;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Generation, generate};
use rlhf_policy::hf::DecoderConfig;
use rlhf_policy::optim::{AdamW, AdamWConfig};
use rlhf_policy::superhf::gradients;
use serde::Serialize;

use crate::error::Error;
use crate::pipeline::models::{classifier_from, scratch_decoder};

/// The parts, in the order of a round.
const WORKLOADS: [&str; 3] = ["generate", "score", "update"];

/// Tokens of a prompt and of a completion.
const LENGTHS: (usize, usize) = (16, 40);

/// Rows generated or scored together, and rows of an update.
const ROWS: (usize, usize) = (128, 32);

/// One workload's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// The part.
    pub workload: String,
    /// Tokens of one repetition.
    pub tokens: usize,
    /// Tokens a second: the median repetition.
    pub median: f64,
    /// The slowest.
    pub min: f64,
    /// The fastest.
    pub max: f64,
    /// Repetitions.
    pub runs: usize,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<10} {:>8.0} tokens/s  ({:.0} to {:.0}, {} runs of {} tokens)",
            self.workload, self.median, self.min, self.max, self.runs, self.tokens
        )
    }
}

/// Measures the named workloads, or all, on the embedded pipeline's model: repetitions interleaved
/// after one warm-up each.
///
/// # Errors
/// An unknown workload, or no repetition.
pub fn run(names: &[String], runs: usize, device: &Device) -> Result<Vec<Speed>, Error> {
    if let Some(unknown) = names.iter().find(|n| !WORKLOADS.contains(&n.as_str())) {
        return Err(Error::config("command line", "WORKLOAD", WORKLOADS.join(", "), unknown.as_str()));
    }
    if runs == 0 {
        return Err(Error::config("command line", "--runs", "at least 1", "0"));
    }
    let chosen: Vec<&str> =
        WORKLOADS.into_iter().filter(|w| names.is_empty() || names.iter().any(|n| n == w)).collect();
    let mut bench = Bench::new(&embedded()?, device)?;
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); chosen.len()];
    let mut tokens = vec![0; chosen.len()];
    for repetition in 0..=runs {
        for (i, name) in chosen.iter().enumerate() {
            let started = Instant::now();
            tokens[i] = bench.once(name)?;
            let rate = tokens[i] as f64 / started.elapsed().as_secs_f64();
            if repetition > 0 {
                rates[i].push(rate);
            }
        }
    }
    let speed = |(name, (mut rates, tokens)): (&&str, (Vec<f64>, usize))| {
        rates.sort_by(f64::total_cmp);
        Speed {
            workload: (*name).to_owned(),
            tokens,
            median: rates[rates.len() / 2],
            min: rates[0],
            max: rates[rates.len() - 1],
            runs,
        }
    };
    Ok(chosen.iter().zip(rates.into_iter().zip(tokens)).map(speed).collect())
}

/// The model of `pipelines/superhf.toml`.
fn embedded() -> Result<DecoderConfig, Error> {
    let json = r#"{"model_type":"llama","vocab_size":512,"hidden_size":96,"intermediate_size":256,
        "num_hidden_layers":3,"num_attention_heads":4,"max_position_embeddings":128}"#;
    Ok(DecoderConfig::parse(json)?)
}

/// A model of a shape, ready to be timed.
pub(crate) struct Bench {
    config: DecoderConfig,
    policy: Decoder,
    prior: Decoder,
    optim: AdamW,
    device: Device,
}

impl Bench {
    pub(crate) fn new(config: &DecoderConfig, device: &Device) -> Result<Self, Error> {
        let prior = scratch_decoder(config, 0, device)?;
        let policy = scratch_decoder(config, 0, &device.clone().autodiff())?;
        let optim = AdamW::new(AdamWConfig::torch());
        Ok(Self { config: config.clone(), policy, prior, optim, device: device.clone() })
    }

    /// Does one repetition and says how many tokens it was: new ones of a rollout, read ones of a
    /// scoring, read ones of an update.
    pub(crate) fn once(&mut self, workload: &str) -> Result<usize, Error> {
        match workload {
            "generate" => self.generate(),
            "score" => self.score(),
            _ => Ok(self.update()),
        }
    }

    fn row(&self, i: usize, len: usize) -> Vec<u32> {
        (0..len).map(|t| ((i * 31 + t * 7) % (self.config.vocab_size - 2)) as u32 + 2).collect()
    }

    fn generate(&self) -> Result<usize, Error> {
        let prompts: Vec<Vec<u32>> = (0..ROWS.0 / 16).map(|i| self.row(i, LENGTHS.0)).collect();
        let how = Generation {
            sampling: Sampling { top_p: 0.95, ..Sampling::plain() },
            max_completion_length: LENGTHS.1,
            num_generations: 16,
            eos_token_ids: Vec::new(),
            pad_token_id: 0,
            context_length: self.config.max_position_embeddings,
            max_rows: ROWS.0,
        };
        let random = |p: usize, s: usize| stream(0, "bench", p as u64, s as u64);
        let rollouts = generate(&self.policy.valid(), &prompts, &how, &random, &self.device)?;
        Ok(rollouts.iter().map(|r| r.tokens.len()).sum())
    }

    fn score(&self) -> Result<usize, Error> {
        let model = classifier_from(&self.config, None, 0, &self.device)?;
        let rows: Vec<Vec<u32>> = (0..ROWS.0).map(|i| self.row(i, LENGTHS.0 + LENGTHS.1)).collect();
        let scores = model.score_rows(&rows, 0, 64);
        debug_assert_eq!(scores.len(), rows.len());
        Ok(rows.iter().map(Vec::len).sum())
    }

    fn update(&mut self) -> usize {
        let loss = SuperhfConfig {
            beta: Weight::ZERO,
            reduction: KlReduction::Mean,
            positions: KlPositions::Aligned,
            inverse_loss: Weight::ZERO,
        };
        let rows: Vec<Sequence> = (0..ROWS.1)
            .map(|i| Sequence::new(&self.row(i, LENGTHS.0), &self.row(i + 1, LENGTHS.1)))
            .collect();
        let rows: Vec<&Sequence> = rows.iter().collect();
        let (grads, _) = gradients(&self.policy, &self.prior, &rows, &loss, 0);
        self.policy = self.optim.step(1e-4, self.policy.clone(), grads).0;
        rows.iter().map(|r| r.tokens.len()).sum()
    }
}
