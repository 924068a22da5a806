//! Supervised fine-tuning: the gradient of one accumulation window.

use burn::tensor::Tensor;

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
    let n_targets: usize = window.iter().map(|s| s.n_targets()).sum();
    assert!(n_targets > 0, "sft: no scored token in {} rows", window.len());
    let mut total = Grads::default();
    let mut sum = 0.0;
    for rows in window.chunks(micro_batch.max(1)) {
        let batch = Batch::new(rows, pad, 1, &policy.device());
        let loss = token_losses(policy, &batch).sum();
        sum += f64::from(loss.clone().into_scalar::<f32>());
        let grads = loss.div_scalar(n_targets as f64).backward();
        total = total.plus(Grads::of(policy, &grads));
    }
    (total, sum / n_targets as f64)
}

/// Cross-entropy of every scored token, `[M]`, in nats.
pub fn token_losses(policy: &Decoder, batch: &Batch) -> Tensor<1> {
    let scored = batch.scored(policy.flat_hidden(batch.tokens.clone()));
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
