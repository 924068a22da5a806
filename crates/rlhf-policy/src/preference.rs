//! The gradient of a window of preference pairs, for any loss on pairs.
//!
//! The loss is a closure from what a micro-batch shows, [`PairBatch`], to one number a pair, so
//! that every loss of [`rlhf_core::loss`] fits and sums of several do:
//!
//! ```
//! use rlhf_core::loss::dpo::{DpoConfig, dpo};
//! use rlhf_core::number::Beta;
//! use rlhf_policy::completion::{Cut, Reference, TokenMetrics};
//! use rlhf_policy::decoder::Decoder;
//! use rlhf_policy::optim::Grads;
//! use rlhf_policy::preference::{Pair, PairRecord, gradients};
//!
//! fn one_window(policy: &Decoder, reference: &Decoder, window: &[&Pair], beta: Beta) -> (Grads, PairRecord) {
//!     let cut = Cut { micro_batch: 8, pad: 0, metrics: TokenMetrics::Off };
//!     gradients(policy, &Reference::Model(reference), window, &cut, &mut |pairs| {
//!         dpo(DpoConfig::new(beta), pairs.policy.clone(), pairs.reference.clone())
//!     })
//! }
//! ```
//!
//! A likelihood term on whole sequences, as TRL's ORPO has it, is
//! [`sft::gradients`](crate::sft::gradients) of them, added with [`Grads::plus`].

use std::ops::Range;

use burn::tensor::Tensor;
use rlhf_core::pair::{PairLoss, reference_free};
use serde::Serialize;

use crate::batch::Sequence;
use crate::completion::{
    Completions, Cut, Reference, TokenStats, Tokens, backward, host, mean, mean_of, vector,
};
use crate::decoder::Decoder;
use crate::optim::Grads;

/// Two completions of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Prompt and the completion that was preferred, which is scored.
    pub chosen: Sequence,
    /// Prompt and the other one.
    pub rejected: Sequence,
}

/// What a loss is told of a micro-batch of B pairs; entries 0 and 1 are chosen and rejected.
#[derive(Debug, Clone)]
pub struct PairBatch {
    /// `[B]`: log π of the completions, with gradient.
    pub policy: [Tensor<1>; 2],
    /// `[B]`: log π_ref of them.
    pub reference: [Tensor<1>; 2],
    /// `[B]`: their tokens.
    pub lengths: [Tensor<1>; 2],
    /// The same token by token, for losses that weight tokens.
    pub tokens: [Tokens; 2],
    /// Which pairs of the window these are, for what a loss is told of each beside its tokens.
    pub range: Range<usize>,
    /// What is known of the whole window.
    pub window: PairCounts,
}

/// Counts of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairCounts {
    /// Pairs.
    pub n_pairs: usize,
    /// Scored tokens of the chosen completions.
    pub n_chosen_tokens: usize,
}

impl PairBatch {
    /// The chosen completions' negative log-likelihood, one number a pair whose mean over the window
    /// is the mean over the window's chosen tokens: TRL's `sft` among DPO's losses.
    pub fn chosen_nll(&self) -> Tensor<1> {
        let PairCounts { n_pairs, n_chosen_tokens } = self.window;
        self.policy[0].clone().mul_scalar(-(n_pairs as f64) / n_chosen_tokens as f64)
    }
}

/// What a window showed before its step, by TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairRecord {
    /// Mean of the loss over the pairs.
    pub loss: f64,
    /// Mean reward of the chosen completions, as the loss has it.
    #[serde(rename = "rewards/chosen")]
    pub chosen_reward: f64,
    /// Mean reward of the rejected completions.
    #[serde(rename = "rewards/rejected")]
    pub rejected_reward: f64,
    /// Share of pairs whose chosen reward is the higher one.
    #[serde(rename = "rewards/accuracies")]
    pub reward_accuracy: f64,
    /// Mean difference of the rewards.
    #[serde(rename = "rewards/margins")]
    pub reward_margin: f64,
    /// Mean log π of the chosen completions, nats.
    #[serde(rename = "logps/chosen")]
    pub chosen_logp: f64,
    /// Mean log π of the rejected completions, nats.
    #[serde(rename = "logps/rejected")]
    pub rejected_logp: f64,
    /// Mean logit at the chosen completions' tokens.
    #[serde(rename = "logits/chosen", skip_serializing_if = "Option::is_none")]
    pub chosen_logit: Option<f64>,
    /// Mean logit at the rejected completions' tokens.
    #[serde(rename = "logits/rejected", skip_serializing_if = "Option::is_none")]
    pub rejected_logit: Option<f64>,
    /// Mean entropy at a scored token, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Share of the chosen completions' tokens that are the likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_token_accuracy: Option<f64>,
    /// Tokens read, prompts included.
    pub num_tokens: usize,
}

/// The gradient of the mean of `loss` over the window's pairs, and what was seen. The loss is called
/// once a micro-batch; one that compares pairs with each other (AOT) sees those of its call.
///
/// # Panics
/// On an empty window, a cache of another length, a micro-batch that scores no token.
#[track_caller]
pub fn gradients(
    policy: &Decoder,
    reference: &Reference<'_, [f64; 2]>,
    window: &[&Pair],
    cut: &Cut,
    loss: &mut dyn FnMut(&PairBatch) -> PairLoss,
) -> (Grads, PairRecord) {
    assert!(!window.is_empty(), "preference: no pair");
    let counts = PairCounts {
        n_pairs: window.len(),
        n_chosen_tokens: window.iter().map(|p| p.chosen.n_targets()).sum(),
    };
    if let Reference::Cached(all) = reference {
        assert_eq!(all.len(), window.len(), "preference: reference: expected one entry a pair");
    }
    let (mut total, mut seen, mut done) = (Grads::default(), Seen::default(), 0);
    for pairs in cut.of(window) {
        let n = pairs.len();
        let rows = side_by_side(pairs);
        let completions = Completions::new(policy, &rows, 1.0, cut.pad);
        let tokens = [completions.tokens.narrow(0, n), completions.tokens.narrow(n, n)];
        let sums = tokens.each_ref().map(Tokens::sums);
        let batch = PairBatch {
            reference: match reference {
                Reference::Model(model) => sums_of(model, &rows, cut.pad).map(Tensor::from_inner),
                Reference::Cached(all) => cached(&all[done..done + n], &sums[0]),
                Reference::Free => reference_free(&sums),
            },
            lengths: tokens.each_ref().map(Tokens::lengths),
            policy: sums,
            tokens,
            range: done..done + n,
            window: counts,
        };
        let out = loss(&batch);
        seen.add(&completions, &batch, &out);
        if let Some(stats) = completions.watched(policy, cut) {
            seen.stats(stats, completions.n_scored(n));
        }
        let share = out.loss.sum().div_scalar(window.len() as f64);
        total = total.plus(backward(policy, &share));
        done += n;
    }
    (total, seen.record())
}

/// Summed log-probabilities of every pair (chosen, rejected), for [`Reference::Cached`]. `model`
/// lives on the plain device.
///
/// # Panics
/// On a micro-batch that scores no token.
#[track_caller]
pub fn reference_logps(model: &Decoder, pairs: &[&Pair], cut: &Cut) -> Vec<[f64; 2]> {
    let of = |pairs: &[&Pair]| {
        let [chosen, rejected] = sums_of(model, &side_by_side(pairs), cut.pad).map(host);
        chosen.into_iter().zip(rejected).map(|(c, r)| [c, r]).collect::<Vec<_>>()
    };
    cut.of(pairs).flat_map(of).collect()
}

/// All chosen sequences, then all rejected ones.
fn side_by_side<'a>(pairs: &[&'a Pair]) -> Vec<&'a Sequence> {
    pairs.iter().map(|p| &p.chosen).chain(pairs.iter().map(|p| &p.rejected)).collect()
}

fn sums_of(model: &Decoder, rows: &[&Sequence], pad: u32) -> [Tensor<1>; 2] {
    let tokens = Completions::new(model, rows, 1.0, pad).tokens;
    let n = rows.len() / 2;
    [tokens.narrow(0, n).sums(), tokens.narrow(n, n).sums()]
}

fn cached(of_pairs: &[[f64; 2]], like: &Tensor<1>) -> [Tensor<1>; 2] {
    [0, 1].map(|side| vector(of_pairs.iter().map(|pair| pair[side]), &like.device()))
}

/// Numbers of a window, gathered over its micro-batches.
#[derive(Default)]
struct Seen {
    losses: Vec<f64>,
    rewards: [Vec<f64>; 2],
    logps: [Vec<f64>; 2],
    mean_logits: [Vec<f64>; 2],
    chosen_top1: Vec<f64>,
    entropy: Vec<f64>,
    num_tokens: usize,
}

impl Seen {
    fn add(&mut self, completions: &Completions, batch: &PairBatch, out: &PairLoss) {
        self.losses.extend(host(out.loss.clone()));
        self.rewards[0].extend(host(out.chosen_reward.clone()));
        self.rewards[1].extend(host(out.rejected_reward.clone()));
        for (all, sums) in self.logps.iter_mut().zip(&batch.policy) {
            all.extend(host(sums.clone()));
        }
        self.num_tokens += completions.n_read;
    }

    fn stats(&mut self, stats: TokenStats, n_chosen: usize) {
        self.entropy.extend(stats.entropy);
        self.mean_logits[0].extend(&stats.mean_logit[..n_chosen]);
        self.mean_logits[1].extend(&stats.mean_logit[n_chosen..]);
        self.chosen_top1.extend(&stats.top1[..n_chosen]);
    }

    fn record(&self) -> PairRecord {
        let [chosen, rejected] = &self.rewards;
        let right = chosen.iter().zip(rejected).filter(|(c, r)| c > r).count();
        let [chosen_reward, rejected_reward] = [mean(chosen), mean(rejected)];
        PairRecord {
            loss: mean(&self.losses),
            chosen_reward,
            rejected_reward,
            reward_accuracy: right as f64 / chosen.len() as f64,
            reward_margin: chosen_reward - rejected_reward,
            chosen_logp: mean(&self.logps[0]),
            rejected_logp: mean(&self.logps[1]),
            chosen_logit: mean_of(&self.mean_logits[0]),
            rejected_logit: mean_of(&self.mean_logits[1]),
            entropy: mean_of(&self.entropy),
            mean_token_accuracy: mean_of(&self.chosen_top1),
            num_tokens: self.num_tokens,
        }
    }
}
