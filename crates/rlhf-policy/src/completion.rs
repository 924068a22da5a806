//! Completions under a policy: the log-probability of every scored token, one row a sequence.
//!
//! What the trainers' gradients ([`preference`](crate::preference), [`kto`](crate::kto),
//! [`group`](crate::group)) have in common. Here and there a window is what one optimiser step sees;
//! it is cut into micro-batches for the memory at hand, and any cut gives the same gradient but for
//! rounding, unless a loss says otherwise.

use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rlhf_core::logp::{at_temperature, entropy};
use rlhf_core::mask;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Sequence};
use crate::decoder::Decoder;
use crate::optim::Grads;

/// How a window is cut and padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Examples in one forward pass, a pair being one; 0 counts as 1.
    pub micro_batch: usize,
    /// The token that fills rows.
    pub pad: u32,
    /// Whether the record says what the distributions were like.
    pub metrics: TokenMetrics,
}

/// Entropy, mean logit and accuracy at scored tokens: they take another pass through the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenMetrics {
    /// They are left out of the record.
    Off,
    /// They are in it.
    On,
}

impl Cut {
    /// The micro-batches of a window.
    pub(crate) fn of<T>(self, window: &[T]) -> std::slice::Chunks<'_, T> {
        window.chunks(self.micro_batch.max(1))
    }
}

/// Where the reference's log-probabilities come from. `T` is what is known of one example: the sum
/// over a completion's tokens, or two of a pair (chosen, rejected).
#[derive(Debug, Clone, Copy)]
pub enum Reference<'a, T> {
    /// A model on the plain device, asked beside the policy in every micro-batch.
    Model(&'a Decoder),
    /// What it said before, one entry an example of the window.
    Cached(&'a [T]),
    /// None: every completion is equally likely.
    Free,
}

/// Numbers of scored tokens, one row a sequence, one column a scored token of it.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `[B, C]`: log π in nats, 0 behind the mask.
    pub logp: Tensor<2>,
    /// `[B, C]`: `true` where the row has a token.
    pub mask: Tensor<2, Bool>,
}

impl Tokens {
    /// The log-probability of each completion, `[B]`.
    pub fn sums(&self) -> Tensor<1> {
        mask::sequence_sum(self.logp.clone(), &self.mask)
    }

    /// Scored tokens of each row, `[B]`.
    pub fn lengths(&self) -> Tensor<1> {
        mask::lengths(&self.mask)
    }

    /// `n` rows from `start`.
    #[must_use]
    pub fn narrow(&self, start: usize, n: usize) -> Self {
        Self { logp: self.logp.clone().narrow(0, start, n), mask: self.mask.clone().narrow(0, start, n) }
    }

    /// Numbers of the host, one slice a row, laid out like `logp`; 0 behind them.
    ///
    /// # Panics
    /// On another number of rows or a row that is longer than the table is wide.
    #[track_caller]
    pub fn table(&self, rows: &[&[f64]]) -> Tensor<2> {
        let [b, c] = self.logp.dims();
        assert_eq!(rows.len(), b, "tokens: expected one list of numbers a row");
        let mut table = vec![0.0f32; b * c];
        for (row, numbers) in rows.iter().enumerate() {
            assert!(numbers.len() <= c, "tokens: row {row}: expected at most {c} numbers");
            for (into, x) in table[row * c..].iter_mut().zip(*numbers) {
                *into = *x as f32;
            }
        }
        Tensor::from_data(TensorData::new(table, [b, c]), &self.logp.device())
    }
}

/// A batch of sequences under a policy.
#[derive(Debug, Clone)]
pub struct Completions {
    /// The scored tokens, with the policy's gradient.
    pub tokens: Tokens,
    /// Tokens read, prompts included, padding not.
    pub n_read: usize,
    /// Scored tokens of each row.
    pub counts: Vec<usize>,
    /// `[M, hidden]` without gradient: what the head read.
    hidden: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
}

/// What the distributions at scored tokens are like; one number a token, in the order of the rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenStats {
    /// Entropy in nats.
    pub entropy: Vec<f64>,
    /// Mean of the logits.
    pub mean_logit: Vec<f64>,
    /// 1 where the token is the likeliest, else 0.
    pub top1: Vec<f64>,
}

/// Rows of logits that exist at once where only their statistics are wanted.
const ROWS: usize = 256;

impl Completions {
    /// Reads `sequences` under `policy`, whose logits are divided by `temperature`. A row without a
    /// scored token has an empty mask.
    ///
    /// # Panics
    /// As [`Batch::new`], and unless `temperature` is positive and finite.
    #[track_caller]
    pub fn new(policy: &Decoder, sequences: &[&Sequence], temperature: f64, pad: u32) -> Self {
        let all: Vec<usize> = (0..policy.model.layers.len()).collect();
        Self::through(policy, &all, sequences, temperature, pad)
    }

    /// As [`Completions::new`], through the blocks of these indices only, in the order given.
    ///
    /// # Panics
    /// As [`Completions::new`], and on an index of no block.
    #[track_caller]
    pub fn through(
        policy: &Decoder,
        blocks: &[usize],
        sequences: &[&Sequence],
        temperature: f64,
        pad: u32,
    ) -> Self {
        let device = policy.device();
        let batch = Batch::new(sequences, pad, 1, &device);
        let hidden = batch.scored(policy.flat_hidden_through(batch.tokens.clone(), blocks));
        let logp = policy.target_logps(hidden.clone(), batch.targets.clone(), temperature);
        let on_graph = device.is_autodiff();
        Self {
            tokens: laid_out(logp, &batch.counts),
            n_read: sequences.iter().map(|s| s.tokens.len()).sum(),
            counts: batch.counts,
            hidden: if on_graph { hidden.inner() } else { hidden },
            targets: if on_graph { batch.targets.inner() } else { batch.targets },
            temperature,
        }
    }

    /// What the distributions are like: another pass through the head of `policy`, the one that
    /// these were read under, in blocks of rows.
    pub fn stats(&self, policy: &Decoder) -> TokenStats {
        let plain = if policy.device().is_autodiff() { policy.valid() } else { policy.clone() };
        let [m, _] = self.hidden.dims();
        let mut stats = TokenStats::default();
        for start in (0..m).step_by(ROWS) {
            let n = ROWS.min(m - start);
            let logits = tempered(plain.head(self.hidden.clone().narrow(0, start, n)), self.temperature);
            let best = logits.clone().argmax(1).reshape([n]);
            let is_best = best.equal(self.targets.clone().narrow(0, start, n));
            stats.top1.extend(host(is_best.float()));
            stats.mean_logit.extend(host(logits.clone().mean_dim(1)));
            stats.entropy.extend(host(entropy(logits)));
        }
        stats
    }

    /// [`stats`](Self::stats) where they are asked for.
    pub(crate) fn watched(&self, policy: &Decoder, cut: &Cut) -> Option<TokenStats> {
        (cut.metrics == TokenMetrics::On).then(|| self.stats(policy))
    }

    /// The log-probability of each scored token of each row, on the host.
    pub fn host_logp(&self) -> Vec<Vec<f64>> {
        let [_, c] = self.tokens.logp.dims();
        let all = host(self.tokens.logp.clone());
        all.chunks(c).zip(&self.counts).map(|(row, n)| row[..*n].to_vec()).collect()
    }

    /// Scored tokens of the first `n` rows.
    pub fn n_scored(&self, n: usize) -> usize {
        self.counts[..n].iter().sum()
    }
}

fn tempered(logits: Tensor<2>, temperature: f64) -> Tensor<2> {
    // A pass over all logits is saved where nothing is divided.
    if temperature.to_bits() == 1f64.to_bits() { logits } else { at_temperature(logits, temperature) }
}

/// `[M]` in row order to `[B, C]`.
fn laid_out(logp: Tensor<1>, counts: &[usize]) -> Tokens {
    let (b, c) = (counts.len(), counts.iter().copied().max().unwrap_or(0));
    let (mut from, mut on) = (vec![0i64; b * c], vec![0i64; b * c]);
    let mut next = 0;
    for (row, n) in counts.iter().enumerate() {
        for column in 0..*n {
            from[row * c + column] = next;
            on[row * c + column] = 1;
            next += 1;
        }
    }
    let device = logp.device();
    let from = Tensor::<1, Int>::from_data(TensorData::new(from, [b * c]), &device);
    let mask = Tensor::<2, Int>::from_data(TensorData::new(on, [b, c]), &device).equal_elem(1);
    let logp = mask::masked("completions", logp.select(0, from).reshape([b, c]), &mask);
    Tokens { logp, mask }
}

/// The log-probability of each scored token of each sequence: what a policy that drew them, or a
/// reference, says once and for all. `policy` lives on the plain device.
///
/// # Panics
/// As [`Completions::new`].
#[track_caller]
pub fn logps(policy: &Decoder, sequences: &[&Sequence], temperature: f64, cut: &Cut) -> Vec<Vec<f64>> {
    let of = |rows: &[&Sequence]| Completions::new(policy, rows, temperature, cut.pad).host_logp();
    cut.of(sequences).flat_map(of).collect()
}

/// As [`logps`], through the blocks of these indices only: what a rollout of a part of the model drew from.
///
/// # Panics
/// As [`Completions::through`].
#[track_caller]
pub fn logps_through(
    policy: &Decoder,
    blocks: &[usize],
    sequences: &[&Sequence],
    temperature: f64,
    cut: &Cut,
) -> Vec<Vec<f64>> {
    let of =
        |rows: &[&Sequence]| Completions::through(policy, blocks, rows, temperature, cut.pad).host_logp();
    cut.of(sequences).flat_map(of).collect()
}

/// A module's gradients of a loss.
pub(crate) fn backward<M: Module>(module: &M, loss: &Tensor<1>) -> Grads {
    Grads::of(module, &loss.backward())
}

/// A tensor's numbers on the host, row by row.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_into_vec().expect("converted to f64")
}

/// Numbers of the host as `[n]`.
pub fn vector(values: impl Iterator<Item = f64>, device: &Device) -> Tensor<1> {
    let values: Vec<f32> = values.map(|x| x as f32).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// The mean; none of nothing.
pub fn mean_of(x: &[f64]) -> Option<f64> {
    (!x.is_empty()).then(|| mean(x))
}

/// NaN of nothing.
pub(crate) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}
