//! Sampling completions with a key–value cache.
//!
//! The prompt is computed once for all its samples; rows that end make room. A sample depends on
//! the model, its prompt and its random stream alone: each row has its own stream and its own
//! columns in the cache, and choices are made on the host.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha12Rng;
use rayon::prelude::*;
use rlhf_core::host::sampling::{Sampling, logp_of};

use crate::cache::KvCache;
use crate::decoder::Decoder;
use crate::error::Error;

/// What to sample.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Temperature, top-p and so on.
    pub sampling: Sampling,
    /// Most tokens of a completion, the end token included.
    pub max_completion_length: usize,
    /// Samples a prompt.
    pub num_generations: usize,
    /// Tokens that end a completion.
    pub eos_token_ids: Vec<u32>,
    /// Stands behind shorter prompts.
    pub pad_token_id: u32,
    /// Most positions the model has.
    pub context_length: usize,
    /// Most rows computed together.
    pub max_rows: usize,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end token was drawn (it is the last of `tokens`).
    Eos,
    /// `max_completion_length` was reached.
    Length,
}

/// One sampled completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Index of the prompt.
    pub prompt: usize,
    /// Which of the prompt's samples.
    pub sample: usize,
    /// The tokens drawn, with the end token where there is one.
    pub tokens: Vec<u32>,
    /// Log-probability of each token under the distribution it was drawn from, in nats.
    pub behavior_logp: Vec<f64>,
    /// Log-probability of each token under the model at temperature 1, in nats.
    pub policy_logp: Vec<f64>,
    /// Why it ended.
    pub finish: Finish,
}

struct Row {
    rng: ChaCha12Rng,
    history: Vec<u32>,
    out: Rollout,
}

/// Samples `how.num_generations` completions of every prompt, in order of prompt and sample.
/// `stream(prompt, sample)` gives each its random numbers. `model` lives on the plain device.
///
/// # Errors
/// An empty prompt, a prompt that leaves no room in the context, logits that are not finite.
pub fn generate(
    model: &Decoder,
    prompts: &[Vec<u32>],
    how: &Generation,
    stream: &dyn Fn(usize, usize) -> ChaCha12Rng,
    device: &Device,
) -> Result<Vec<Rollout>, Error> {
    for (i, prompt) in prompts.iter().enumerate() {
        let room = how.context_length.saturating_sub(how.max_completion_length);
        if prompt.is_empty() || prompt.len() > room {
            return Err(Error::Prompt { index: i, length: prompt.len(), limit: room });
        }
    }
    let per_chunk = (how.max_rows / how.num_generations.max(1)).max(1);
    // Prompts of like length go together; the order of the result does not depend on it.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|i| prompts[*i].len());
    let mut done = Vec::with_capacity(prompts.len() * how.num_generations);
    for chunk in order.chunks(per_chunk) {
        done.extend(generate_chunk(model, prompts, chunk, how, stream, device)?);
    }
    done.sort_by_key(|r| (r.prompt, r.sample));
    Ok(done)
}

fn generate_chunk(
    model: &Decoder,
    prompts: &[Vec<u32>],
    chunk: &[usize],
    how: &Generation,
    stream: &dyn Fn(usize, usize) -> ChaCha12Rng,
    device: &Device,
) -> Result<Vec<Rollout>, Error> {
    let layers = model.model.layers.len();
    let longest = chunk.iter().map(|i| prompts[*i].len()).max().unwrap_or(0);
    let mut cache = KvCache::new(layers, chunk.len(), longest + how.max_completion_length);
    let mut logits = prefill(model, prompts, chunk, how, &mut cache, device);
    let mut rows = Vec::with_capacity(chunk.len() * how.num_generations);
    let mut expand = Vec::with_capacity(rows.capacity());
    for (place, &prompt) in chunk.iter().enumerate() {
        for sample in 0..how.num_generations {
            expand.push(place);
            rows.push(Row::new(prompt, sample, &prompts[prompt], stream(prompt, sample)));
        }
    }
    cache.select(&expand);
    logits = pick(logits, &expand);
    let mut done = Vec::with_capacity(rows.len());
    loop {
        draw(&mut rows, logits, how)?;
        let alive: Vec<usize> = (0..rows.len()).filter(|i| !rows[*i].ended(how)).collect();
        if alive.len() < rows.len() {
            cache.select(&alive);
            let (keep, ended): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|r| !r.ended(how));
            done.extend(ended.into_iter().map(|r| r.out));
            rows = keep;
        }
        if rows.is_empty() {
            return Ok(done);
        }
        logits = decode(model, &rows, &mut cache, device);
    }
}

/// `[P, V]`: the logits after each prompt.
fn prefill(
    model: &Decoder,
    prompts: &[Vec<u32>],
    chunk: &[usize],
    how: &Generation,
    cache: &mut KvCache,
    device: &Device,
) -> Tensor<2> {
    let t = chunk.iter().map(|i| prompts[*i].len()).max().unwrap_or(0);
    let mut tokens = vec![i64::from(how.pad_token_id); chunk.len() * t];
    let mut last = Vec::with_capacity(chunk.len());
    let mut lengths = Vec::with_capacity(chunk.len());
    for (row, &i) in chunk.iter().enumerate() {
        for (j, token) in prompts[i].iter().enumerate() {
            tokens[row * t + j] = i64::from(*token);
        }
        last.push((row * t + prompts[i].len() - 1) as i64);
        lengths.push(prompts[i].len());
    }
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [chunk.len(), t]), device);
    let hidden = model.hidden_cached(tokens, cache);
    cache.set_lengths(&lengths);
    let d = hidden.dims()[2];
    let last = Tensor::<1, Int>::from_data(TensorData::new(last, [chunk.len()]), device);
    model.head(hidden.reshape([chunk.len() * t, d]).select(0, last))
}

fn decode(model: &Decoder, rows: &[Row], cache: &mut KvCache, device: &Device) -> Tensor<2> {
    let tokens: Vec<i64> = rows.iter().map(|r| i64::from(r.history[r.history.len() - 1])).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [rows.len(), 1]), device);
    let hidden = model.hidden_cached(tokens, cache);
    let [b, _, d] = hidden.dims();
    model.head(hidden.reshape([b, d]))
}

fn pick(x: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let index: Vec<i64> = rows.iter().map(|r| *r as i64).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), &x.device());
    x.select(0, index)
}

fn draw(rows: &mut [Row], logits: Tensor<2>, how: &Generation) -> Result<(), Error> {
    let [_, v] = logits.dims();
    let mut logits: Vec<f32> = logits.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
    rows.par_iter_mut().zip(logits.par_chunks_mut(v)).try_for_each(|(row, logits)| row.draw(logits, how))
}

impl Row {
    fn new(prompt: usize, sample: usize, tokens: &[u32], rng: ChaCha12Rng) -> Self {
        Self {
            rng,
            history: tokens.to_vec(),
            out: Rollout {
                prompt,
                sample,
                tokens: Vec::new(),
                behavior_logp: Vec::new(),
                policy_logp: Vec::new(),
                finish: Finish::Length,
            },
        }
    }

    fn draw(&mut self, logits: &mut [f32], how: &Generation) -> Result<(), Error> {
        let raw = logits.to_vec();
        let n_new = self.out.tokens.len();
        let eos = &how.eos_token_ids;
        let drawn = how.sampling.choose(logits, &self.history, eos, n_new, &mut self.rng);
        if !drawn.logp.is_finite() {
            let what = format!("logits of prompt {}, sample {}", self.out.prompt, self.out.sample);
            return Err(Error::NotFinite { what, value: drawn.logp });
        }
        self.history.push(drawn.token);
        self.out.tokens.push(drawn.token);
        self.out.behavior_logp.push(drawn.logp);
        self.out.policy_logp.push(logp_of(&raw, drawn.token));
        if how.eos_token_ids.contains(&drawn.token) {
            self.out.finish = Finish::Eos;
        }
        Ok(())
    }

    fn ended(&self, how: &Generation) -> bool {
        self.out.finish == Finish::Eos || self.out.tokens.len() >= how.max_completion_length
    }
}
