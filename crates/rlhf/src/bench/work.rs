//! What one repetition of each workload does.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rlhf_core::host::advantage::group_advantages;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::loss::dpo::{DpoConfig, dpo};
use rlhf_core::number::Beta;
use rlhf_core::preset::trl;
use rlhf_core::rng::stream;
use rlhf_policy::batch::{Batch, Sequence};
use rlhf_policy::classifier::Classifier;
use rlhf_policy::completion::{Cut, Reference, TokenMetrics};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{self, Decoding, Generation, generate};
use rlhf_policy::group::{GrpoStep, Rollout, grpo_gradients};
use rlhf_policy::optim::{AdamW, AdamWConfig, Grads};
use rlhf_policy::preference::{self, Pair};
use rlhf_policy::reward_model::{self, RewardPair};
use rlhf_policy::sft;

use super::Workload;
use super::deep::{Deep, SKIPPED};
use super::start::Start;
use crate::error::Error;
use crate::pipeline::models::{classifier_from, load_decoder, scratch_decoder};

/// Sequences or pairs of a step, their tokens, and those of a pair's prompt.
const ROWS: usize = 8;
const LENGTH: usize = 256;
const PROMPT: usize = 64;

/// Prompts of `generate`, their tokens, and new ones.
const PROMPTS: usize = 16;
const PROMPT_TOKENS: usize = 32;
const NEW_TOKENS: usize = 64;

/// Learning rates, as the peers' scripts have them.
const LR: f64 = 1e-4;
const LR_PAIRS: f64 = 1e-6;

/// What one repetition did.
pub(super) struct Done {
    pub(super) tokens: usize,
    /// What counts, where that is less than the whole repetition.
    pub(super) seconds: Option<f64>,
}

/// The models and what they have learned so far; made when first asked for.
pub(super) struct Bench {
    config: DecoderConfig,
    start_policy: Decoder,
    trained: Option<(Decoder, AdamW)>,
    reward: Option<(Classifier, AdamW)>,
    start: Option<Start>,
    deep: Option<Deep>,
    device: Device,
    step: u64,
}

impl Bench {
    pub(super) fn new(model: Option<&Path>, device: &Device) -> Result<Self, Error> {
        let config = match model {
            Some(dir) => DecoderConfig::load(dir)?,
            None => shape()?,
        };
        let start_policy = match model {
            Some(dir) => load_decoder(dir, &config, device)?,
            None => scratch_decoder(&config, 0, device)?,
        };
        let device = device.clone();
        let (trained, reward, start, deep) = (None, None, None, None);
        Ok(Self { config, start_policy, trained, reward, start, deep, device, step: 0 })
    }

    pub(super) fn once(&mut self, workload: Workload) -> Result<Done, Error> {
        self.step += 1;
        let tokens = match workload {
            Workload::Sft => self.sft()?,
            Workload::Dpo => self.dpo(true)?,
            Workload::DpoCached => self.dpo(false)?,
            Workload::Reward => self.reward()?,
            Workload::Logprobs => self.logprobs(),
            Workload::Generate => self.generate(1.0)?,
            Workload::GenerateGreedy => self.generate(0.0)?,
            Workload::GenerateShared => self.generate_shared()?,
            Workload::Grpo => self.grpo()?,
            Workload::GenerateDeep => {
                let step = self.step;
                self.deep()?.generate(0, step)?
            }
            Workload::GenerateNested => {
                let step = self.step;
                self.deep()?.generate(SKIPPED, step)?
            }
            Workload::Start => {
                if self.start.is_none() {
                    self.start = Some(Start::new(&self.config, &self.start_policy)?);
                }
                let seconds = self.start.as_ref().map(Start::once).transpose()?;
                return Ok(Done { tokens: 1, seconds });
            }
        };
        Ok(Done { tokens, seconds: None })
    }

    /// The deep model, made when first asked for.
    fn deep(&mut self) -> Result<&Deep, Error> {
        let deep = match self.deep.take() {
            Some(deep) => deep,
            None => Deep::new(&self.device)?,
        };
        Ok(self.deep.insert(deep))
    }

    /// Random tokens above the special ones.
    fn row(&self, index: usize, len: usize) -> Vec<u32> {
        use rand::RngExt as _;
        let mut rng = stream(0, "bench", self.step % 4, index as u64);
        (0..len).map(|_| rng.random_range(3..self.config.vocab_size() as u32)).collect()
    }

    fn cut() -> Cut {
        Cut { micro_batch: ROWS, pad: 0, metrics: TokenMetrics::Off }
    }

    /// The policy with gradients and its optimiser.
    fn take_policy(&mut self) -> Result<(Decoder, AdamW), Error> {
        match self.trained.take() {
            Some(it) => Ok(it),
            None => {
                let policy = scratch_decoder(&self.config, 0, &self.device.clone().autodiff())?;
                Ok((policy, AdamW::new(AdamWConfig::torch())))
            }
        }
    }

    fn apply(&mut self, (policy, mut optim): (Decoder, AdamW), lr: f64, grads: Grads) {
        let (policy, _) = optim.step(lr, policy, grads);
        self.trained = Some((policy, optim));
    }

    fn sft(&mut self) -> Result<usize, Error> {
        let rows: Vec<Sequence> = (0..ROWS).map(|i| Sequence::new(&[], &self.row(i, LENGTH))).collect();
        let rows: Vec<&Sequence> = rows.iter().collect();
        let trained = self.take_policy()?;
        let (grads, _) = sft::gradients(&trained.0, &rows, ROWS, 0);
        self.apply(trained, LR, grads);
        Ok(ROWS * LENGTH)
    }

    fn pairs(&self) -> Vec<Pair> {
        let answer = |i: usize, side: usize| self.row(100 * (side + 1) + i, LENGTH - PROMPT);
        let pair = |i: usize| {
            let prompt = self.row(i, PROMPT);
            Pair {
                chosen: Sequence::new(&prompt, &answer(i, 0)),
                rejected: Sequence::new(&prompt, &answer(i, 1)),
            }
        };
        (0..ROWS).map(pair).collect()
    }

    fn dpo(&mut self, asks_reference: bool) -> Result<usize, Error> {
        let pairs = self.pairs();
        let pairs: Vec<&Pair> = pairs.iter().collect();
        let trained = self.take_policy()?;
        let reference = &self.start_policy;
        let nats = -((LENGTH - PROMPT) as f64) * 8.3;
        let cached = vec![[nats; 2]; ROWS];
        let reference = if asks_reference { Reference::Model(reference) } else { Reference::Cached(&cached) };
        let config = DpoConfig::new(Beta::new(0.1).map_err(|e| Error::Failed(e.to_string()))?);
        let (grads, _) = preference::gradients(&trained.0, &reference, &pairs, &Self::cut(), &mut |batch| {
            dpo(config, batch.policy.clone(), batch.reference.clone())
        });
        self.apply(trained, LR_PAIRS, grads);
        Ok(2 * ROWS * LENGTH)
    }

    fn reward(&mut self) -> Result<usize, Error> {
        let pairs: Vec<RewardPair> = (0..ROWS)
            .map(|i| RewardPair {
                chosen: self.row(i, LENGTH),
                rejected: self.row(100 + i, LENGTH),
                margin: 0.0,
            })
            .collect();
        let pairs: Vec<&RewardPair> = pairs.iter().collect();
        let (model, mut optim) = match self.reward.take() {
            Some(it) => it,
            None => {
                let device = self.device.clone().autodiff();
                (classifier_from(&self.config, 1, None, 0, &device)?, AdamW::new(AdamWConfig::torch()))
            }
        };
        let (grads, _) = reward_model::gradients(&model, &pairs, BradleyTerryConfig::default(), &Self::cut());
        let (model, _) = optim.step(1e-5, model, grads);
        self.reward = Some((model, optim));
        Ok(2 * ROWS * LENGTH)
    }

    fn logprobs(&self) -> usize {
        let rows: Vec<Sequence> = (0..ROWS).map(|i| Sequence::new(&[], &self.row(i, LENGTH))).collect();
        let batch = Batch::new(&rows.iter().collect::<Vec<_>>(), 0, 1, &self.device);
        let losses: Tensor<1> = sft::token_losses(&self.start_policy, &batch);
        debug_assert_eq!(losses.into_data().num_elements(), batch.n_targets());
        ROWS * LENGTH
    }

    fn rollouts(
        &self,
        policy: &Decoder,
        prompts: &[Vec<u32>],
        samples: usize,
        temperature: f64,
    ) -> Result<Vec<generate::Rollout>, Error> {
        let how = Generation {
            sampling: Sampling { temperature, ..Sampling::plain() },
            num_generations: samples,
            ..Generation::plain(
                Decoding::for_device(&self.device),
                self.config.max_position_embeddings(),
                NEW_TOKENS,
            )
        };
        let random = |p: usize, s: usize| stream(self.step, "bench/sample", p as u64, s as u64);
        Ok(generate(policy, prompts, &how, &random, &self.device)?)
    }

    fn generate(&self, temperature: f64) -> Result<usize, Error> {
        let prompts: Vec<Vec<u32>> = (0..PROMPTS).map(|i| self.row(i, PROMPT_TOKENS)).collect();
        let all = self.rollouts(&self.start_policy, &prompts, 1, temperature)?;
        Ok(all.iter().map(|r| r.tokens.len()).sum())
    }

    fn generate_shared(&self) -> Result<usize, Error> {
        let prompts: Vec<Vec<u32>> = (0..4).map(|i| self.row(i, LENGTH)).collect();
        let all = self.rollouts(&self.start_policy, &prompts, 16, 1.0)?;
        Ok(all.iter().map(|r| r.tokens.len()).sum())
    }

    /// Two prompts, eight samples each; the reward is the share of even tokens.
    fn grpo(&mut self) -> Result<usize, Error> {
        let prompts: Vec<Vec<u32>> = (0..2).map(|i| self.row(i, PROMPT_TOKENS)).collect();
        let trained = self.take_policy()?;
        let all = self.rollouts(&trained.0.valid(), &prompts, 8, 1.0)?;
        let even = |r: &generate::Rollout| r.tokens.iter().filter(|t| **t % 2 == 0).count() as f64;
        let rewards: Vec<f64> = all.iter().map(|r| even(r) / r.tokens.len() as f64).collect();
        let recipe = trl::grpo();
        let sequences: Vec<Sequence> =
            all.iter().map(|r| Sequence::new(&prompts[r.prompt], &r.tokens)).collect();
        let groups: Vec<&[f64]> = rewards.chunks(8).collect();
        let advantages = group_advantages(recipe.advantage, &groups).advantages.concat();
        let window: Vec<Rollout<'_>> = sequences
            .iter()
            .zip(advantages)
            .map(|(sequence, advantage)| Rollout {
                sequence,
                old_logp: None,
                reference_logp: None,
                weight: None,
                advantage,
            })
            .collect();
        let step = GrpoStep {
            loss: recipe.loss.into(),
            normaliser: recipe.normaliser,
            max_completion_length: NEW_TOKENS,
            temperature: 1.0,
        };
        let cut = Cut { micro_batch: 16, ..Self::cut() };
        let (grads, _) =
            grpo_gradients(&trained.0, &window, &step, &cut).map_err(|e| Error::Failed(e.to_string()))?;
        self.apply(trained, LR_PAIRS, grads);
        Ok(all.iter().map(|r| r.tokens.len()).sum())
    }
}

/// The built-in shape: 9,965,824 parameters.
fn shape() -> Result<DecoderConfig, Error> {
    let json = r#"{"model_type":"llama","vocab_size":4096,"hidden_size":256,"intermediate_size":1024,
        "num_hidden_layers":8,"num_attention_heads":8,"num_key_value_heads":4,"rms_norm_eps":1e-5,
        "max_position_embeddings":512,"pad_token_id":0,"bos_token_id":1,"eos_token_id":2}"#;
    Ok(DecoderConfig::parse(json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_that_of_the_published_workloads() {
        assert_eq!(shape().expect("valid").architecture().n_parameters(), Some(9_965_824));
    }
}
