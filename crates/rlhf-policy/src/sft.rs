//! Supervised fine-tuning: the gradient of one accumulation window.

use burn::tensor::Tensor;
use rand::{Rng, RngExt};
use rlhf_core::number::Prob;

use crate::batch::{Batch, Sequence};
use crate::decoder::Decoder;
use crate::optim::Grads;

/// The gradient of the window's mean token cross-entropy, and that mean in nats.
///
/// The window is cut into micro-batches of `micro_batch` rows, each divided by the token count of
/// the whole window, so that any cut gives the same gradient.
///
/// # Panics
/// On a window that scores no token.
#[track_caller]
pub fn gradients(policy: &Decoder, window: &[&Sequence], micro_batch: usize, pad: u32) -> (Grads, f64) {
    let all: Vec<usize> = (0..policy.model.layers.len()).collect();
    gradients_through(policy, &all, window, micro_batch, pad)
}

/// Which blocks a step of stochastic depth keeps: each but the first and the last is left out with
/// probability `layer_drop`, and nothing is rescaled. Fan et al., *Reducing Transformer Depth on Demand with
/// Structured Dropout*, arXiv:1909.11556, section 3.1, where any block may go; the two at the borders stay
/// here, since rollouts through a part of the model keep them too.
pub fn kept_blocks(n_blocks: usize, layer_drop: Prob, rng: &mut impl Rng) -> Vec<usize> {
    let border = |i: usize| i == 0 || i + 1 == n_blocks;
    // One draw a block, so that a set does not depend on what became of the others.
    let mut dropped = |_: &usize| rng.random::<f64>() < layer_drop.get();
    (0..n_blocks).filter(|i| !dropped(i) || border(*i)).collect()
}

/// As [`gradients`], through the blocks of these indices only: the others have no gradient.
///
/// # Panics
/// As [`gradients`], and on an index of no block.
#[track_caller]
pub fn gradients_through(
    policy: &Decoder,
    blocks: &[usize],
    window: &[&Sequence],
    micro_batch: usize,
    pad: u32,
) -> (Grads, f64) {
    let n_targets: usize = window.iter().map(|s| s.n_targets()).sum();
    assert!(n_targets > 0, "sft: no scored token in {} rows", window.len());
    let mut total = Grads::default();
    let mut sum = 0.0;
    for rows in window.chunks(micro_batch.max(1)) {
        let batch = Batch::new(rows, pad, 1, &policy.device());
        let loss = token_losses_through(policy, blocks, &batch).sum();
        sum += f64::from(loss.clone().into_scalar::<f32>());
        let grads = loss.div_scalar(n_targets as f64).backward();
        total = total.plus(Grads::of(policy, &grads));
    }
    (total, sum / n_targets as f64)
}

/// Cross-entropy of every scored token, `[M]`, in nats.
pub fn token_losses(policy: &Decoder, batch: &Batch) -> Tensor<1> {
    let all: Vec<usize> = (0..policy.model.layers.len()).collect();
    token_losses_through(policy, &all, batch)
}

/// As [`token_losses`], through the blocks of these indices only, in the order given.
///
/// # Panics
/// On an index of no block.
#[track_caller]
pub fn token_losses_through(policy: &Decoder, blocks: &[usize], batch: &Batch) -> Tensor<1> {
    let scored = batch.scored(policy.flat_hidden_through(batch.tokens.clone(), blocks));
    policy.target_logps(scored, batch.targets.clone(), 1.0).neg()
}

/// Sum of the cross-entropies of all scored tokens and their number: `exp(sum / n)` is the
/// perplexity. `policy` lives on the plain device.
pub fn evaluate(policy: &Decoder, sequences: &[&Sequence], batch_size: usize, pad: u32) -> (f64, usize) {
    let mut sum = 0.0;
    let mut n = 0;
    for rows in sequences.chunks(batch_size.max(1)) {
        let batch = Batch::new(rows, pad, 1, &policy.device());
        n += batch.n_targets();
        let losses = token_losses(policy, &batch).into_data().convert::<f64>();
        sum += losses.as_slice::<f64>().expect("converted to f64").iter().sum::<f64>();
    }
    (sum, n)
}

#[cfg(test)]
mod tests {
    use rlhf_core::rng::stream;

    use super::*;

    #[test]
    fn blocks_are_dropped_at_their_rate_and_borders_stay() {
        let drop = Prob::new(0.3).expect("a probability");
        let (mut n, mut each) = (0, [0usize; 10]);
        for step in 0..2000 {
            let kept = kept_blocks(10, drop, &mut stream(0, "test", step, 0));
            assert!(kept.is_sorted() && kept.first() == Some(&0) && kept.last() == Some(&9));
            n += kept.len() - 2;
            kept.iter().for_each(|i| each[*i] += 1);
        }
        // 8 blocks, 2000 steps: a standard error of √(0.21/16000) = 0.0036.
        assert!((n as f64 / 16_000.0 - 0.7).abs() < 0.015, "{n}");
        assert!(each[1..9].iter().all(|x| (*x as f64 / 2000.0 - 0.7).abs() < 0.05), "{each:?}");
        assert_eq!(kept_blocks(4, Prob::ZERO, &mut stream(0, "test", 0, 0)), [0, 1, 2, 3]);
        assert_eq!(kept_blocks(4, Prob::ONE, &mut stream(0, "test", 0, 0)), [0, 3]);
        assert_eq!(kept_blocks(1, Prob::ONE, &mut stream(0, "test", 0, 0)), [0]);
    }
}
