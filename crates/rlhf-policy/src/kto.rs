//! The gradient of a window of single completions, each with a thumb up or down.
//!
//! KTO compares each completion's gain with that of mismatched pairs: [`baseline`] reads them once a
//! window, [`gradients`] takes any loss on single completions as a closure.
//!
//! ```
//! use rlhf_core::loss::kto::{KtoConfig, kto};
//! use rlhf_policy::batch::Sequence;
//! use rlhf_policy::completion::{Cut, Reference, TokenMetrics};
//! use rlhf_policy::decoder::Decoder;
//! use rlhf_policy::kto::{Rated, RatedRecord, baseline, gradients};
//! use rlhf_policy::optim::Grads;
//!
//! fn one_window(
//!     [policy, policy_plain, reference]: [&Decoder; 3],
//!     window: &[&Rated],
//!     mismatched: &[&Sequence],
//!     config: KtoConfig,
//! ) -> (Grads, RatedRecord) {
//!     let cut = Cut { micro_batch: 8, pad: 0, metrics: TokenMetrics::Off };
//!     let z = baseline(policy_plain, reference, mismatched, &cut);
//!     gradients(policy, &Reference::Model(reference), window, &cut, &mut |batch| {
//!         kto(config, batch.policy.clone(), batch.reference.clone(), &batch.desirable, z)
//!     })
//! }
//! ```

use burn::tensor::{Bool, Int, Tensor, TensorData};
use rlhf_core::loss::kto::{Label, UnpairedLoss, kl_baseline};
use serde::Serialize;

use crate::batch::Sequence;
use crate::completion::{Completions, Cut, Reference, TokenStats, backward, host, mean, mean_of, vector};
use crate::decoder::Decoder;
use crate::optim::Grads;

/// A completion and what was said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rated {
    /// Prompt and completion, which is scored.
    pub sequence: Sequence,
    /// Thumb up or down.
    pub label: Label,
}

/// What a loss is told of a micro-batch of B completions.
#[derive(Debug, Clone)]
pub struct RatedBatch {
    /// `[B]`: log π of the completions, with gradient.
    pub policy: Tensor<1>,
    /// `[B]`: log π_ref of them.
    pub reference: Tensor<1>,
    /// `[B]`: `true` for a thumb up.
    pub desirable: Tensor<1, Bool>,
}

/// What a window showed before its step, by TRL's names; there is nothing of a kind that is
/// absent, and nothing of the distributions unless it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RatedRecord {
    /// Mean of the loss over the completions.
    pub loss: f64,
    /// Mean reward of the desirable completions.
    #[serde(rename = "rewards/chosen")]
    pub chosen_reward: Option<f64>,
    /// Mean reward of the undesirable completions.
    #[serde(rename = "rewards/rejected")]
    pub rejected_reward: Option<f64>,
    /// Difference of the two means.
    #[serde(rename = "rewards/margins")]
    pub reward_margin: Option<f64>,
    /// Mean log π of the desirable completions, nats.
    #[serde(rename = "logps/chosen")]
    pub chosen_logp: Option<f64>,
    /// Mean log π of the undesirable completions, nats.
    #[serde(rename = "logps/rejected")]
    pub rejected_logp: Option<f64>,
    /// Mean logit at the desirable completions' tokens.
    #[serde(rename = "logits/chosen")]
    pub chosen_logit: Option<f64>,
    /// Mean logit at the undesirable completions' tokens.
    #[serde(rename = "logits/rejected")]
    pub rejected_logit: Option<f64>,
    /// Mean entropy at a scored token, nats.
    pub entropy: Option<f64>,
    /// Tokens read, prompts included.
    pub num_tokens: usize,
}

/// z of mismatched pairs, each a prompt of the window with the completion of another row: the mean
/// log-ratio of policy to reference, or 0. Both models live on the plain device.
///
/// # Panics
/// Without a pair, or on a micro-batch that scores no token.
#[track_caller]
pub fn baseline(policy: &Decoder, reference: &Decoder, mismatched: &[&Sequence], cut: &Cut) -> f64 {
    let of = |rows: &[&Sequence]| {
        let sums = |model| host(Completions::new(model, rows, 1.0, cut.pad).tokens.sums());
        sums(policy).into_iter().zip(sums(reference)).map(|(p, q)| p - q).collect::<Vec<_>>()
    };
    kl_baseline(&cut.of(mismatched).flat_map(of).collect::<Vec<_>>())
}

/// The gradient of the mean of `loss` over the window's completions, and what was seen. The loss is
/// called once a micro-batch.
///
/// # Panics
/// On an empty window, a cache of another length, a micro-batch that scores no token.
#[track_caller]
pub fn gradients(
    policy: &Decoder,
    reference: &Reference<'_, f64>,
    window: &[&Rated],
    cut: &Cut,
    loss: &mut dyn FnMut(&RatedBatch) -> UnpairedLoss,
) -> (Grads, RatedRecord) {
    assert!(!window.is_empty(), "kto: no completion");
    if let Reference::Cached(all) = reference {
        assert_eq!(all.len(), window.len(), "kto: reference: expected one entry a completion");
    }
    let (mut total, mut seen, mut done) = (Grads::default(), Seen::default(), 0);
    for rated in cut.of(window) {
        let rows: Vec<&Sequence> = rated.iter().map(|r| &r.sequence).collect();
        let completions = Completions::new(policy, &rows, 1.0, cut.pad);
        let sums = completions.tokens.sums();
        let batch = RatedBatch {
            reference: match reference {
                Reference::Model(model) => {
                    Tensor::from_inner(Completions::new(model, &rows, 1.0, cut.pad).tokens.sums())
                }
                Reference::Cached(all) => {
                    vector(all[done..done + rated.len()].iter().copied(), &sums.device())
                }
                Reference::Free => sums.zeros_like(),
            },
            desirable: desirable(rated, &sums),
            policy: sums,
        };
        let out = loss(&batch);
        seen.add(rated, &completions, &batch, &out);
        if let Some(stats) = completions.watched(policy, cut) {
            seen.stats(rated, &completions.counts, stats);
        }
        total = total.plus(backward(policy, &out.loss.sum().div_scalar(window.len() as f64)));
        done += rated.len();
    }
    (total, seen.record())
}

fn desirable(rated: &[&Rated], like: &Tensor<1>) -> Tensor<1, Bool> {
    let flags: Vec<i64> = rated.iter().map(|r| i64::from(r.label == Label::Desirable)).collect();
    Tensor::<1, Int>::from_data(TensorData::new(flags, [rated.len()]), &like.device()).equal_elem(1)
}

/// 0 of the desirable kind, 1 of the other.
fn kind(rated: &Rated) -> usize {
    usize::from(rated.label == Label::Undesirable)
}

/// Numbers of a window, gathered over its micro-batches; entry 0 of each pair is the desirable kind.
#[derive(Default)]
struct Seen {
    losses: Vec<f64>,
    rewards: [Vec<f64>; 2],
    logps: [Vec<f64>; 2],
    mean_logits: [Vec<f64>; 2],
    entropy: Vec<f64>,
    num_tokens: usize,
}

impl Seen {
    fn add(&mut self, rated: &[&Rated], completions: &Completions, batch: &RatedBatch, out: &UnpairedLoss) {
        let (rewards, sums) = (host(out.reward.clone()), host(batch.policy.clone()));
        for (i, r) in rated.iter().enumerate() {
            self.rewards[kind(r)].push(rewards[i]);
            self.logps[kind(r)].push(sums[i]);
        }
        self.losses.extend(host(out.loss.clone()));
        self.num_tokens += completions.n_read;
    }

    fn stats(&mut self, rated: &[&Rated], counts: &[usize], stats: TokenStats) {
        let mut at = 0;
        for (r, n) in rated.iter().zip(counts) {
            self.mean_logits[kind(r)].extend(&stats.mean_logit[at..at + n]);
            at += n;
        }
        self.entropy.extend(stats.entropy);
    }

    fn record(&self) -> RatedRecord {
        let of = |x: &Vec<f64>| mean_of(x);
        let [chosen_reward, rejected_reward] = self.rewards.each_ref().map(of);
        let [chosen_logp, rejected_logp] = self.logps.each_ref().map(of);
        let [chosen_logit, rejected_logit] = self.mean_logits.each_ref().map(of);
        RatedRecord {
            loss: mean(&self.losses),
            chosen_reward,
            rejected_reward,
            reward_margin: chosen_reward.zip(rejected_reward).map(|(c, r)| c - r),
            chosen_logp,
            rejected_logp,
            chosen_logit,
            rejected_logit,
            entropy: mean_of(&self.entropy),
            num_tokens: self.num_tokens,
        }
    }
}
