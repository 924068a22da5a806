//! Training and asking a general preference model: an answer's embedding, and a skew-symmetric score
//! of two.
//!
//! ```text
//! s(a ≻ b) = Σ_l (a_{2l} b_{2l+1} − a_{2l+1} b_{2l})          P(a ≻ b) = σ(s(a ≻ b) / τ)
//! ```
//!
//! Where: a and b are the 2k numbers that a head reads at the end of `[prompt, answer, end]`. K answers
//! need K passes, as for a reward and unlike a cross-encoder's K², and P may still be cyclic. The loss
//! is [`rlhf_core::loss::gpm`], which names the paper. τ and the scale of the embeddings are one
//! degree of freedom twice: τ sets how far a head must grow from scratch.

use burn::tensor::Tensor;
use rlhf_core::host::stable;
use rlhf_core::loss::gpm::{GpmConfig, gpm, gpm_score_scalar};

use crate::pairwise::{PairwiseLoss, TokenPair};

/// Embeds both texts of each pair in one pass and sums the losses. The margins of the result are
/// log-odds(chosen ≻ rejected), s/τ.
///
/// `embed` maps token rows to `[rows, 2k]` embeddings with gradient. Chosen texts stand first, then
/// rejected ones.
///
/// # Panics
/// On an empty batch, or embeddings of an odd width.
#[track_caller]
pub fn gpm_loss(
    embed: &dyn Fn(&[&[u32]]) -> Tensor<2>,
    pairs: &[&TokenPair],
    config: GpmConfig,
) -> PairwiseLoss {
    assert!(!pairs.is_empty(), "gpm_loss: no pair");
    let n = pairs.len();
    let chosen = pairs.iter().map(|p| p.chosen.as_slice());
    let rows: Vec<&[u32]> = chosen.chain(pairs.iter().map(|p| p.rejected.as_slice())).collect();
    let all = embed(&rows);
    let found = gpm(config, all.clone().narrow(0, 0, n), all.narrow(0, n, n));
    let scores: Vec<f64> = found.score.into_data().convert::<f64>().try_into_vec().unwrap_or_default();
    let margins = scores.into_iter().map(|s| s / config.tau.get()).collect();
    PairwiseLoss { sum: found.loss.sum(), margins }
}

/// log-odds(a ≻ b) = s/τ of two embeddings. `P` is its logistic function; swapping the two changes its
/// sign and nothing else.
///
/// # Panics
/// On embeddings of different or odd lengths.
pub fn log_odds(config: GpmConfig, a: &[f64], b: &[f64]) -> f64 {
    gpm_score_scalar(a, b) / config.tau.get()
}

/// P(a ≻ b) of two embeddings.
///
/// # Panics
/// As [`log_odds`].
pub fn preference(config: GpmConfig, a: &[f64], b: &[f64]) -> f64 {
    stable::sigmoid(log_odds(config, a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_core::number::Positive;

    #[test]
    fn three_answers_beat_each_other_in_a_circle() {
        let config = GpmConfig { tau: Positive::new(0.5).expect("positive") };
        let v = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]];
        // s = 1 each time: σ(2).
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            assert!((preference(config, &v[a], &v[b]) - 0.880_797_077_977_882_3).abs() < 1e-15);
            let back = preference(config, &v[b], &v[a]);
            assert!((preference(config, &v[a], &v[b]) + back - 1.0).abs() < 1e-15);
        }
        assert!((preference(config, &v[2], &v[2]) - 0.5).abs() < 1e-15);
    }
}
