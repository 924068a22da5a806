//! Bradley–Terry training of a scalar-head model, whatever its trunk.

use burn::tensor::Tensor;
use rlhf_core::loss::bradley_terry::{BradleyTerryConfig, bradley_terry};

/// A tokenised comparison: whole texts, prompt included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// The text that was preferred.
    pub chosen: Vec<u32>,
    /// The text that was not.
    pub rejected: Vec<u32>,
}

/// What a batch of pairs showed.
#[derive(Debug, Clone)]
pub struct PairwiseLoss {
    /// Sum of the pairs' losses, `[1]`, with gradient: the caller divides by the window's pairs.
    pub sum: Tensor<1>,
    /// `chosen − rejected` of each pair.
    pub margins: Vec<f64>,
}

/// Scores both texts of each pair in one pass and sums the losses.
///
/// `scores` maps token rows to `[rows]` scores with gradient. Chosen texts stand first, then
/// rejected ones.
///
/// # Panics
/// On an empty batch.
#[track_caller]
pub fn pairwise_loss(
    scores: &dyn Fn(&[&[u32]]) -> Tensor<1>,
    pairs: &[&TokenPair],
    config: BradleyTerryConfig,
) -> PairwiseLoss {
    assert!(!pairs.is_empty(), "pairwise_loss: no pair");
    let n = pairs.len();
    let chosen = pairs.iter().map(|p| p.chosen.as_slice());
    let rows: Vec<&[u32]> = chosen.chain(pairs.iter().map(|p| p.rejected.as_slice())).collect();
    let all = scores(&rows);
    let chosen = all.clone().narrow(0, 0, n);
    let rejected = all.narrow(0, n, n);
    let gap = (chosen.clone() - rejected.clone()).into_data().convert::<f64>();
    let margins = gap.try_into_vec().unwrap_or_default();
    let loss = bradley_terry(config, [chosen, rejected], None).loss;
    PairwiseLoss { sum: loss.sum(), margins }
}
