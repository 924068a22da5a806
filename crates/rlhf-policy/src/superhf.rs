//! SuperHF: supervised iterative learning from human feedback.
//!
//! ```text
//! round: sample N completions of A prompts → trim → score → keep the K best of each prompt
//! L(θ) = (1/|M|) Σ_{(i,t)∈M} −log p_θ(y_{i,t}|·)  +  β · (1/B) Σᵢ KLᵢ
//! KLᵢ  = (1/nᵢ) Σ_{t∈Cᵢ} Σ_v p₀(v|·) [log p₀(v|·) − log p_θ(v|·)]
//! ```
//!
//! Where: B is the minibatch, M its scored tokens, Cᵢ the nᵢ scored positions of example i, p₀ the
//! policy at the start, β is `beta`.
//! Paper: Mukobi et al., *SuperHF: Supervised Iterative Learning from Human Feedback*,
//! arXiv:2310.16763; loss and loop as in the authors' published code.
//! Departures: the KL is the mean over the examples ([`KlReduction::Sum`] is the authors': their β
//! is worth `β · B` here); it covers the positions that predict completion tokens
//! ([`KlPositions::Official`] is theirs, one later); the end token is learned.
//! Detached: p₀.

use burn::tensor::{Tensor, TensorData};
use rlhf_core::host::select::top_k;
use rlhf_core::loss::cross_entropy::cross_entropy;
use rlhf_core::loss::superhf::{KlPositions, KlReduction, SuperhfConfig, forward_kl};
use serde::Serialize;

use crate::batch::{Batch, Sequence};
use crate::decoder::Decoder;
use crate::optim::Grads;

/// What one minibatch showed, before its step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MinibatchRecord {
    /// The loss that was differentiated.
    pub loss: f64,
    /// Mean cross-entropy of a scored token, nats.
    pub nll: f64,
    /// Mean over examples of the per-token forward KL to the prior, nats.
    pub kl: f64,
    /// Scored tokens.
    pub n_tokens: usize,
}

/// Indices of the kept samples of one prompt, best first: empty completions are dropped, then the
/// `keep` highest scores stay; ties keep generation order.
pub fn keep_best(completions: &[&str], scores: &[f64], keep: usize) -> Vec<usize> {
    let filled: Vec<usize> = (0..completions.len()).filter(|i| !completions[*i].trim().is_empty()).collect();
    let of_filled: Vec<f64> = filled.iter().map(|i| scores[*i]).collect();
    top_k(&of_filled, keep).into_iter().map(|i| filled[i]).collect()
}

/// The gradient of one minibatch's loss. `prior` and `plain` are without autodiff, the policy and
/// `device` with it.
///
/// # Panics
/// On a minibatch that scores no token.
#[track_caller]
pub fn gradients(
    policy: &Decoder,
    prior: &Decoder,
    minibatch: &[&Sequence],
    config: &SuperhfConfig,
    pad: u32,
) -> (Grads, MinibatchRecord) {
    let device = policy.device();
    let batch = Batch::new(minibatch, pad, 1, &device);
    let hidden = policy.flat_hidden(batch.tokens.clone());
    let logits = policy.head(hidden.clone().select(0, batch.positions.clone()));
    let nll = cross_entropy(logits.clone(), batch.targets.clone()).mean();
    let kl = match config.positions {
        KlPositions::Aligned => example_kl_sum(logits, prior, &batch),
        KlPositions::Official => {
            // A column more: the distribution after the last token is part of the authors' mask.
            let shifted: Vec<Sequence> = minibatch.iter().map(|s| one_later(s, pad)).collect();
            let batch = Batch::new(&shifted.iter().collect::<Vec<_>>(), pad, 1, &device);
            let hidden = policy.flat_hidden(batch.tokens.clone());
            example_kl_sum(policy.head(hidden.select(0, batch.positions.clone())), prior, &batch)
        }
    };
    let n = minibatch.len() as f64;
    let scale = match config.reduction {
        KlReduction::Mean => 1.0 / n,
        KlReduction::Sum => 1.0,
    };
    let c = config.inverse_loss.get();
    let mut loss = nll.clone();
    if c > 0.0 {
        loss = loss + nll.clone().recip().mul_scalar(c);
    }
    let beta = config.beta.get();
    if beta > 0.0 {
        loss = loss + kl.clone().mul_scalar(beta * scale);
    }
    let read = |x: &Tensor<1>| f64::from(x.clone().into_scalar::<f32>());
    let record = MinibatchRecord {
        loss: read(&loss),
        nll: read(&nll),
        kl: read(&kl) / n,
        n_tokens: batch.n_targets(),
    };
    let grads = loss.backward();
    (Grads::of(policy, &grads), record)
}

/// `Σᵢ KLᵢ`, `[1]`, with gradient to `logits: [M, V]`, which stand at the batch's positions.
fn example_kl_sum(logits: Tensor<2>, prior: &Decoder, batch: &Batch) -> Tensor<1> {
    let device = logits.device();
    let on_prior = prior.logits_at(batch.tokens.clone().inner(), batch.positions.clone().inner());
    let token_kl = forward_kl(logits, Tensor::from_inner(on_prior));
    let (b, m) = (batch.counts.len(), batch.n_targets());
    let mut mean = vec![0.0f32; b * m];
    for (i, row) in batch.rows.iter().enumerate() {
        mean[row * m + i] = 1.0 / batch.counts[*row] as f32;
    }
    let mean = Tensor::<2>::from_data(TensorData::new(mean, [b, m]), &device);
    // KL ≥ 0 but for rounding, which the clamp removes, as in the authors' code.
    mean.matmul(token_kl.reshape([m, 1])).clamp_min(0.0).sum()
}

/// The same sequence with every scored position one later, and a token more to hold the last.
fn one_later(s: &Sequence, pad: u32) -> Sequence {
    let mut tokens = s.tokens.clone();
    tokens.push(pad);
    let mut mask = vec![false];
    mask.extend_from_slice(&s.mask);
    Sequence { tokens, mask }
}
