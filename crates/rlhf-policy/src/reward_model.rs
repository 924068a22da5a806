//! The gradient of a window of preference pairs for a reward model: Bradley–Terry on its scores.

use burn::tensor::Tensor;
use rlhf_core::loss::bradley_terry::{BradleyTerryConfig, bradley_terry};
use serde::Serialize;

use crate::classifier::Classifier;
use crate::completion::{Cut, backward, host, mean, vector};
use crate::optim::Grads;

/// Two texts of which the first was preferred, prompts included.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardPair {
    /// Tokens of the preferred text.
    pub chosen: Vec<u32>,
    /// Tokens of the other one.
    pub rejected: Vec<u32>,
    /// By how much its reward should exceed the other's; 0 where only the order is known.
    pub margin: f64,
}

/// What a window showed before its step, by TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RewardRecord {
    /// Mean of the loss over the pairs.
    pub loss: f64,
    /// Share of pairs whose chosen text scores higher.
    pub accuracy: f64,
    /// Mean difference of the scores.
    pub margin: f64,
    /// Lowest score.
    pub min_reward: f64,
    /// Mean score.
    pub mean_reward: f64,
    /// Highest score.
    pub max_reward: f64,
    /// Tokens read.
    pub num_tokens: usize,
}

/// The gradient of the mean Bradley–Terry loss over the window's pairs, and what was seen.
///
/// # Panics
/// On an empty window or an empty text.
#[track_caller]
pub fn gradients(
    model: &Classifier,
    window: &[&RewardPair],
    config: BradleyTerryConfig,
    cut: &Cut,
) -> (Grads, RewardRecord) {
    assert!(!window.is_empty(), "reward_model: no pair");
    let mut total = Grads::default();
    let (mut losses, mut scores) = (Vec::new(), [Vec::new(), Vec::new()]);
    for pairs in cut.of(window) {
        let n = pairs.len();
        let chosen = pairs.iter().map(|p| p.chosen.as_slice());
        let rows: Vec<&[u32]> = chosen.chain(pairs.iter().map(|p| p.rejected.as_slice())).collect();
        let rewards = model.scores(&rows, cut.pad);
        let sides = [rewards.clone().narrow(0, 0, n), rewards.narrow(0, n, n)];
        for (all, side) in scores.iter_mut().zip(&sides) {
            all.extend(host(side.clone()));
        }
        let margins = margins(pairs, &sides[0]);
        let loss = bradley_terry(config, sides, margins).loss;
        losses.extend(host(loss.clone()));
        total = total.plus(backward(model, &loss.sum().div_scalar(window.len() as f64)));
    }
    let num_tokens = window.iter().map(|p| p.chosen.len() + p.rejected.len()).sum();
    (total, record(&losses, &scores, num_tokens))
}

/// None where all are 0.
fn margins(pairs: &[&RewardPair], like: &Tensor<1>) -> Option<Tensor<1>> {
    let any = pairs.iter().any(|p| p.margin.abs() > 0.0);
    any.then(|| vector(pairs.iter().map(|p| p.margin), &like.device()))
}

fn record(losses: &[f64], [chosen, rejected]: &[Vec<f64>; 2], num_tokens: usize) -> RewardRecord {
    let right = chosen.iter().zip(rejected).filter(|(c, r)| c > r).count();
    let all = [chosen.as_slice(), rejected.as_slice()].concat();
    RewardRecord {
        loss: mean(losses),
        accuracy: right as f64 / chosen.len() as f64,
        margin: mean(chosen) - mean(rejected),
        min_reward: all.iter().copied().fold(f64::INFINITY, f64::min),
        mean_reward: mean(&all),
        max_reward: all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        num_tokens,
    }
}
