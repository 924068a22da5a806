//! Values, and the gradient into the hidden states.
//!
//! ```text
//! ∂ log p(y) / ∂h = s (c_y W_y − Σ_v p_v c_v W_v)
//! ∂ H / ∂h        = −s Σ_v p_v (log p_v + H) c_v W_v
//! ```
//!
//! Where: s = scale / T and c = 1 − tanh², 1 without a cap. Neither depends on the loss, and a row's
//! number depends on no other row: both `[M, H]` are made while the row's logits are there.

use burn::tensor::{Bool, Int, Tensor};

use super::FusedConfig;
use super::head::Head;
use super::pass::HeadPass;
use super::rows::{Block, Rows, Stats, joined};
use crate::shape::{filled, same};

/// Log-probabilities, and what the head's gradient still needs.
#[derive(Debug, Clone)]
pub struct FusedLogp {
    /// `[M]`: log p(token) in nats; it carries the gradient into `hidden`.
    pub logp: Tensor<1>,
    /// For the gradient of a trained head.
    pub head: HeadPass,
}

/// What the distributions of all rows are like, and what the head's gradient still needs.
#[derive(Debug, Clone)]
pub struct FusedStats {
    /// `[M]`: log p(token) in nats; it carries the gradient into `hidden`.
    pub logp: Tensor<1>,
    /// `[M]`: −Σ p log p in nats; it carries the gradient into `hidden`.
    pub entropy: Tensor<1>,
    /// `[M]`: log Σ p². Detached.
    pub log_sum_sq_prob: Tensor<1>,
    /// `[M]`: Σ z / V. Detached.
    pub mean_logit: Tensor<1>,
    /// `[M]`: whether the token is the likeliest; of equal ones the device's argmax is.
    pub top1: Tensor<1, Bool>,
    /// For the gradient of a trained head.
    pub head: HeadPass,
}

/// Log-probability of one token a row, in nats.
///
/// It takes two products of the size of the logits, or one where `hidden` needs no gradient. A
/// frozen head, whose weight needs no gradient, is then done with; a trained one gets its gradient
/// from [`HeadPass::backward`] and from nothing else, for two products more.
///
/// # Shapes
/// `hidden: [M, H]`, `head.weight: [V, H]`, `head.bias: [V]`, `tokens: [M]` in `0..V`; the result's
/// `logp` is `[M]`.
///
/// # Panics
/// On an empty axis, another number of tokens than rows, or a head of another width.
#[track_caller]
pub fn fused_logp(config: FusedConfig, hidden: Tensor<2>, head: &Head, tokens: Tensor<1, Int>) -> FusedLogp {
    check("fused_logp", &hidden, head, &tokens);
    let blocks = Rows::new(config, &hidden, head, &tokens, false).blocks();
    let (pass, logp) = pass(config, hidden, head, tokens, &blocks);
    FusedLogp { logp: pass.tap_logp(logp), head: pass }
}

/// As [`fused_logp`], with what the distributions are like from the same logits; the entropy's
/// gradient takes one product more.
///
/// # Shapes
/// `hidden: [M, H]`, `head.weight: [V, H]`, `head.bias: [V]`, `tokens: [M]` in `0..V`; each field of
/// the result but `head` is `[M]`.
///
/// # Panics
/// On an empty axis, another number of tokens than rows, or a head of another width.
#[track_caller]
pub fn fused_stats(
    config: FusedConfig,
    hidden: Tensor<2>,
    head: &Head,
    tokens: Tensor<1, Int>,
) -> FusedStats {
    check("fused_stats", &hidden, head, &tokens);
    let blocks = Rows::new(config, &hidden, head, &tokens, true).blocks();
    let [m, _] = hidden.dims();
    let column = |of: fn(&Stats) -> &Tensor<2>| {
        Tensor::cat(blocks.iter().filter_map(|b| b.stats.as_ref()).map(|s| of(s).clone()).collect(), 0)
            .reshape([m])
    };
    let slope = joined(&blocks, |b| b.stats.as_ref().and_then(|s| s.entropy_slope.clone()));
    let entropy = with_slope(&hidden, column(|s| &s.entropy), slope);
    let (pass, logp) = pass(config, hidden, head, tokens, &blocks);
    FusedStats {
        logp: pass.tap_logp(logp),
        entropy: pass.tap_entropy(entropy),
        log_sum_sq_prob: column(|s| &s.log_sum_sq_prob),
        mean_logit: column(|s| &s.mean_logit),
        top1: column(|s| &s.top1).greater_elem(0.5),
        head: pass,
    }
}

#[track_caller]
fn check(name: &str, hidden: &Tensor<2>, head: &Head, tokens: &Tensor<1, Int>) {
    let ([m, h], [v, _]) = (hidden.dims(), head.weight.dims());
    filled(name, "hidden", hidden.dims());
    filled(name, "weight", head.weight.dims());
    same(name, "weight", head.weight.dims(), [v, h]);
    same(name, "tokens", tokens.dims(), [m]);
    if let Some(bias) = &head.bias {
        same(name, "bias", bias.dims(), [v]);
    }
}

/// The log-probabilities with their gradient into `hidden`, and what the head's needs later.
fn pass(
    config: FusedConfig,
    hidden: Tensor<2>,
    head: &Head,
    tokens: Tensor<1, Int>,
    blocks: &[Block],
) -> (HeadPass, Tensor<1>) {
    let [m, _] = hidden.dims();
    let values = Tensor::cat(blocks.iter().map(|b| b.logp.clone()).collect(), 0).reshape([m]);
    let logp = with_slope(&hidden, values, joined(blocks, |b| b.logp_slope.clone()));
    (HeadPass::new(config, hidden, head, tokens, blocks), logp)
}

/// `values`, whose gradient into `hidden` is `slope`: h − sg(h) is zero and has the slope 1.
fn with_slope(hidden: &Tensor<2>, values: Tensor<1>, slope: Option<Tensor<2>>) -> Tensor<1> {
    let [m, _] = hidden.dims();
    match slope {
        Some(slope) => {
            let nothing = hidden.clone() - hidden.clone().inner();
            values + (nothing * slope).sum_dim(1).reshape([m])
        }
        None => values,
    }
}
