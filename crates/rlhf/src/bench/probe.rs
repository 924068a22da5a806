//! What a few seconds of a pipeline's own work show: the figures behind `rlhf plan`.

use burn::module::Module;
use burn::tensor::Device;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::loss::superhf::{KlPositions, KlReduction, SuperhfConfig};
use rlhf_core::number::Weight;
use rlhf_core::rng::stream;
use rlhf_policy::batch::Sequence;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Decoding, Generation, generate};
use rlhf_policy::optim::{AdamW, AdamWConfig};
use rlhf_policy::superhf::gradients;

use crate::error::Error;
use crate::pipeline::models::{classifier_from, scratch_decoder};

/// Tokens of a prompt and of a completion.
const LENGTHS: (usize, usize) = (16, 40);

/// Rows generated or scored together, and rows of an update.
const ROWS: (usize, usize) = (128, 32);

/// Peak resident memory of this process, MiB, where the system tells.
pub(crate) fn peak_mib() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib >> 10)
}

/// A model of a shape, ready to be timed.
pub(crate) struct Probe {
    config: DecoderConfig,
    policy: Decoder,
    prior: Decoder,
    optim: AdamW,
    device: Device,
}

impl Probe {
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
        (0..len).map(|t| ((i * 31 + t * 7) % (self.config.vocab_size() - 2)) as u32 + 2).collect()
    }

    fn generate(&self) -> Result<usize, Error> {
        let prompts: Vec<Vec<u32>> = (0..ROWS.0 / 16).map(|i| self.row(i, LENGTHS.0)).collect();
        let how = Generation {
            sampling: Sampling { top_p: 0.95, ..Sampling::plain() },
            max_completion_length: LENGTHS.1,
            num_generations: 16,
            eos_token_ids: Vec::new(),
            pad_token_id: 0,
            context_length: self.config.max_position_embeddings(),
            max_rows: ROWS.0,
            stop: None,
            layers: None,
            decoding: Decoding::for_device(&self.device),
        };
        let random = |p: usize, s: usize| stream(0, "bench", p as u64, s as u64);
        let rollouts = generate(&self.policy.valid(), &prompts, &how, &random, &self.device)?;
        Ok(rollouts.iter().map(|r| r.tokens.len()).sum())
    }

    fn score(&self) -> Result<usize, Error> {
        let model = classifier_from(&self.config, 1, None, 0, &self.device)?;
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
