//! Sampling completions with a key–value cache.
//!
//! A prompt is computed once for all its samples, and a row that ends makes room for the next sample at
//! once. A sample depends on the model, its prompt and its random stream alone: each row has its own
//! stream and its own keys and values, and choices are made on the host.

use std::fmt;
use std::sync::Arc;

use burn::tensor::Device;
use rand_chacha::ChaCha12Rng;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::number::Prob;

use crate::decoder::Decoder;
use crate::engine::host::Host;
use crate::engine::mixture::Mixed;
use crate::engine::schedule::run;
use crate::engine::tensors::Tensors;
use crate::engine::{Engine, engine_serves};
use crate::error::Error;

/// The random numbers of each (prompt, sample).
pub type Streams<'a> = dyn Fn(usize, usize) -> ChaCha12Rng + Sync + 'a;

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
    /// Text that ends a completion.
    pub stop: Option<StopStrings>,
    /// Stands behind shorter prompts.
    pub pad_token_id: u32,
    /// Most positions the model has.
    pub context_length: usize,
    /// Most rows computed together.
    pub max_rows: usize,
    /// Only the blocks of these indices are computed, in that order.
    pub layers: Option<Vec<usize>>,
    /// What computes.
    pub decoding: Decoding,
}

impl Generation {
    /// The model's own distribution, one sample a prompt, nothing that ends it but the length; 64 rows
    /// together.
    pub fn plain(decoding: Decoding, context_length: usize, max_completion_length: usize) -> Self {
        Self {
            sampling: Sampling::plain(),
            max_completion_length,
            num_generations: 1,
            eos_token_ids: Vec::new(),
            stop: None,
            pad_token_id: 0,
            context_length,
            max_rows: 64,
            layers: None,
            decoding,
        }
    }
}

/// What computes the rows. Log-probabilities of the two differ by rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoding {
    /// The decoder's own tensors, on any device.
    Tensor,
    /// The engine for the CPU: parameters are copied into a form of its own at every call.
    Host,
}

impl Decoding {
    /// `Host` where parameters on `device` lie in the memory of the CPU that computes.
    pub fn for_device(device: &Device) -> Self {
        if engine_serves(device) { Self::Host } else { Self::Tensor }
    }
}

type Decode = dyn Fn(&[u32]) -> String + Send + Sync;

/// Text that ends a completion, and how tokens become text.
#[derive(Clone)]
pub struct StopStrings {
    strings: Vec<String>,
    decode: Arc<Decode>,
}

impl StopStrings {
    /// `decode` turns the tokens of a completion into text.
    pub fn new(strings: Vec<String>, decode: impl Fn(&[u32]) -> String + Send + Sync + 'static) -> Self {
        Self { strings, decode: Arc::new(decode) }
    }

    /// Whether the text of `tokens` contains one of the strings.
    pub(crate) fn is_in(&self, tokens: &[u32]) -> bool {
        let text = (self.decode)(tokens);
        self.strings.iter().any(|stop| text.contains(stop))
    }
}

impl fmt::Debug for StopStrings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopStrings").field("strings", &self.strings).finish_non_exhaustive()
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end token was drawn (it is the last of `tokens`).
    Eos,
    /// Its text contains a stop string; `tokens` are all that were drawn.
    Stop,
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

/// Samples `how.num_generations` completions of every prompt, in order of prompt and sample.
/// `stream(prompt, sample)` gives each its random numbers. `model` lives on the plain device.
///
/// # Errors
/// An empty prompt, a prompt that leaves no room in the context, a token outside the vocabulary, a block
/// that does not exist, logits that are not finite.
pub fn generate(
    model: &Decoder,
    prompts: &[Vec<u32>],
    how: &Generation,
    stream: &Streams<'_>,
    device: &Device,
) -> Result<Vec<Rollout>, Error> {
    check(model, prompts, how)?;
    if let Some(none) = nothing_to_sample(prompts, how) {
        return Ok(none);
    }
    let n_positions = n_positions(prompts, how);
    match how.decoding {
        // On a thread of the pool: its fellows stay awake from one step to the next.
        Decoding::Host => rayon::scope(|_| {
            let engine = Engine::new(model, how.layers.as_deref(), n_positions);
            run(&mut Host::new(engine), prompts, how, stream)
        }),
        Decoding::Tensor => {
            let mut machine = tensors(model, how, device, n_positions);
            run(&mut machine, prompts, how, stream)
        }
    }
}

/// Two models that are sampled as one, π^{1 − α} μ^α token by token: the opponent of Nash-MD.
#[derive(Debug, Clone, Copy)]
pub struct Mixture<'a> {
    /// π.
    pub policy: &'a Decoder,
    /// μ.
    pub reference: &'a Decoder,
    /// α, the weight of the reference: 0 samples the policy, 1 the reference.
    pub coef: Prob,
}

/// As [`generate`], from a mixture: a rollout's `policy_logp` is under the mixture at temperature 1, whose
/// definition is [`geometric_mixture_scalar`](rlhf_core::loss::nash_md::geometric_mixture_scalar).
/// `how.layers` are the policy's; the reference is computed whole.
///
/// # Errors
/// As [`generate`], of either model; models of different vocabularies.
pub fn generate_mixture(
    models: &Mixture<'_>,
    prompts: &[Vec<u32>],
    how: &Generation,
    stream: &Streams<'_>,
    device: &Device,
) -> Result<Vec<Rollout>, Error> {
    let Mixture { policy, reference, coef } = *models;
    let whole = Generation { layers: None, ..how.clone() };
    check_vocabularies(policy, reference)?;
    check(policy, prompts, how)?;
    check(reference, prompts, &whole)?;
    if let Some(none) = nothing_to_sample(prompts, how) {
        return Ok(none);
    }
    let (n_positions, coef) = (n_positions(prompts, how), coef.get());
    match how.decoding {
        Decoding::Host => rayon::scope(|_| {
            let policy = Host::new(Engine::new(policy, how.layers.as_deref(), n_positions));
            let reference = Host::new(Engine::new(reference, None, n_positions));
            run(&mut Mixed::new(policy, reference, coef), prompts, how, stream)
        }),
        Decoding::Tensor => {
            let policy = tensors(policy, how, device, n_positions);
            let reference = tensors(reference, &whole, device, n_positions);
            run(&mut Mixed::new(policy, reference, coef), prompts, how, stream)
        }
    }
}

/// The result where no token is drawn.
fn nothing_to_sample(prompts: &[Vec<u32>], how: &Generation) -> Option<Vec<Rollout>> {
    if prompts.is_empty() || how.num_generations == 0 {
        return Some(Vec::new());
    }
    let sample = |prompt| (0..how.num_generations).map(move |sample| nothing(prompt, sample));
    (how.max_completion_length == 0).then(|| (0..prompts.len()).flat_map(sample).collect())
}

/// Positions of the longest row there can be.
fn n_positions(prompts: &[Vec<u32>], how: &Generation) -> usize {
    prompts.iter().map(Vec::len).max().unwrap_or(0) + how.max_completion_length
}

fn tensors<'a>(model: &'a Decoder, how: &Generation, device: &'a Device, n_positions: usize) -> Tensors<'a> {
    let all = || (0..model.model.layers.len()).collect();
    Tensors::new(model, device, how.layers.clone().unwrap_or_else(all), how.pad_token_id, n_positions)
}

fn check_vocabularies(policy: &Decoder, reference: &Decoder) -> Result<(), Error> {
    let [expected, found] = [policy, reference].map(|m| m.model.architecture().vocab_size);
    if expected == found {
        return Ok(());
    }
    Err(Error::Request {
        what: "mixture: vocabulary of the reference".to_owned(),
        expected: format!("{expected} tokens, as the policy's"),
        found: found.to_string(),
    })
}

fn nothing(prompt: usize, sample: usize) -> Rollout {
    Rollout {
        prompt,
        sample,
        tokens: Vec::new(),
        behavior_logp: Vec::new(),
        policy_logp: Vec::new(),
        finish: Finish::Length,
    }
}

fn check(model: &Decoder, prompts: &[Vec<u32>], how: &Generation) -> Result<(), Error> {
    let it = model.model.architecture();
    let learned = model.model.embed_positions.as_ref().map(|table| table.weight.val().dims()[0]);
    let context = how.context_length.min(learned.unwrap_or(usize::MAX));
    let limit = context.saturating_sub(how.max_completion_length);
    for (index, prompt) in prompts.iter().enumerate() {
        let length = prompt.len();
        if !(1..=limit).contains(&length) {
            return Err(Error::Prompt { index, length, limit });
        }
        if let Some(place) = prompt.iter().position(|t| *t as usize >= it.vocab_size) {
            return Err(Error::Request {
                what: format!("prompt {index}, token {place}"),
                expected: format!("token ids below {}", it.vocab_size),
                found: prompt[place].to_string(),
            });
        }
    }
    let Some(layers) = &how.layers else { return Ok(()) };
    let wrong = |found: String| Error::Request {
        what: "layers".to_owned(),
        expected: format!("at least one index, each below {}", it.layers.len()),
        found,
    };
    match layers.iter().find(|i| **i >= it.layers.len()) {
        Some(i) => Err(wrong(i.to_string())),
        None if layers.is_empty() => Err(wrong("none".to_owned())),
        None => Ok(()),
    }
}
