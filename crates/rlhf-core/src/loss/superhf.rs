//! SuperHF: cross-entropy on the kept completions plus a KL prior.
//!
//! ```text
//! L   = CE + C / CE + β · w Σᵢ max(0, KLᵢ)        CE = (1/|M|) Σ_{(i,t)∈M} −log p_θ(y_{i,t} | ·)
//! KLᵢ = (1/nᵢ) Σ_{t∈Cᵢ} Σ_v p₀(v|·) [log p₀(v|·) − log p_θ(v|·)]
//! ```
//!
//! Where: M are the positions of the minibatch that predict a target, Cᵢ the nᵢ positions of
//! example i that `positions` names, p_θ and p₀ the softmax of `policy` and `prior`, β is `beta`,
//! C is `inverse_loss`, w is 1/B or 1 by `reduction`.
//! Paper: Mukobi et al., *SuperHF: Supervised Iterative Learning from Human Feedback*,
//! arXiv:2310.16763, the fine-tuning objective; every choice as in the authors' published code.
//! Departures: [`KlReduction::Mean`] and [`KlPositions::Aligned`]; `Sum` and `Official` are the
//! authors'. Their sum makes the acting coefficient β · B, their positions lie one too late.
//! Detached: `prior`.

use serde::{Deserialize, Serialize};

use crate::host::stable::log_softmax;
use crate::logp::token_logp_scalar;
use crate::number::Weight;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::forward_kl;

/// How the KL of a minibatch's examples is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlReduction {
    /// Mean over examples: β is the coefficient that acts.
    Mean,
    /// Sum over examples, as the authors' code has it: the coefficient that acts is β · B.
    Sum,
}

/// Which positions the KL covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlPositions {
    /// Those that predict completion tokens, as the cross-entropy.
    Aligned,
    /// One later, as the authors' code has it: the distributions after each completion token.
    Official,
}

/// The terms beside the cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuperhfConfig {
    /// β ≥ 0.
    pub beta: Weight,
    /// Mean or sum over the minibatch.
    pub reduction: KlReduction,
    /// Which positions the KL covers.
    pub positions: KlPositions,
    /// C ≥ 0; 0 in all the authors' reported runs.
    pub inverse_loss: Weight,
}

/// One text of a minibatch, by position.
#[derive(Debug, Clone, Copy)]
pub struct SuperhfExample<'a> {
    /// Logits of the policy after each token, `[T][V]`.
    pub policy: &'a [Vec<f64>],
    /// Logits of the prior, `[T][V]`.
    pub prior: &'a [Vec<f64>],
    /// The token at each position where it is a target, `[T]`; position t − 1 predicts it.
    pub targets: &'a [Option<usize>],
}

/// A minibatch's loss and what it is made of, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuperhfLoss {
    /// L.
    pub loss: f64,
    /// CE.
    pub cross_entropy: f64,
    /// Σᵢ KLᵢ.
    pub kl_sum: f64,
}

/// KL(p₀ ‖ p_θ) of one row, in nats: the definition of [`forward_kl`].
///
/// ```
/// // p₀ = (½, ½), p_θ = (⅘, ⅕): ½ log(25/16).
/// let kl = rlhf_core::loss::superhf::forward_kl_scalar(&[4f64.ln(), 0.0], &[0.0, 0.0]);
/// assert!((kl - 0.22314355131420976).abs() < 1e-15);
/// ```
///
/// # Panics
/// On rows of different lengths.
#[track_caller]
pub fn forward_kl_scalar<R: Real>(policy: &[R], prior: &[f64]) -> R {
    assert_eq!(policy.len(), prior.len(), "forward_kl_scalar: policy and prior differ in length");
    log_softmax(prior).iter().zip(log_softmax(policy)).map(|(p0, p)| (-p + *p0) * p0.exp()).sum()
}

/// The loss of a minibatch: the definition that the fine-tuning step is tested against.
///
/// # Panics
/// On a minibatch without a scored token, and on an example whose `policy` or `prior` has fewer rows
/// than `targets` has positions.
#[track_caller]
pub fn superhf_scalar(config: SuperhfConfig, minibatch: &[SuperhfExample<'_>]) -> SuperhfLoss {
    let (mut nll, mut n_targets, mut kl_sum) = (0.0, 0usize, 0.0);
    for (i, example) in minibatch.iter().enumerate() {
        enough_rows(i, example);
        let (mut kl, mut n) = (0.0, 0usize);
        for (t, target) in example.targets.iter().enumerate() {
            let Some(y) = *target else { continue };
            if t > 0 {
                nll -= token_logp_scalar(&example.policy[t - 1], y);
                n_targets += 1;
            }
            let at = match config.positions {
                KlPositions::Aligned if t == 0 => continue,
                KlPositions::Aligned => t - 1,
                KlPositions::Official => t,
            };
            kl += forward_kl_scalar(&example.policy[at], &example.prior[at]);
            n += 1;
        }
        if n > 0 {
            // Exactly, a KL is never below zero; rounding may say otherwise.
            let mean: f64 = kl / n as f64;
            // Not `max`, which drops a NaN.
            kl_sum += if mean < 0.0 { 0.0 } else { mean };
        }
    }
    assert!(n_targets > 0, "superhf_scalar: no scored token in {} examples", minibatch.len());
    let cross_entropy = nll / n_targets as f64;
    let weight = match config.reduction {
        KlReduction::Mean => 1.0 / minibatch.len() as f64,
        KlReduction::Sum => 1.0,
    };
    let inverse = config.inverse_loss.get();
    let penalty = if inverse > 0.0 { inverse / cross_entropy } else { 0.0 };
    SuperhfLoss { loss: cross_entropy + penalty + config.beta.get() * weight * kl_sum, cross_entropy, kl_sum }
}

#[track_caller]
fn enough_rows(i: usize, example: &SuperhfExample<'_>) {
    let t = example.targets.len();
    for (name, rows) in [("policy", example.policy.len()), ("prior", example.prior.len())] {
        assert!(rows >= t, "superhf_scalar: example {i}: {name} has {rows} rows, targets {t} positions");
    }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;
    use burn::tensor::activation::log_softmax;

    use crate::shape::{filled, same};

    /// KL(p₀ ‖ p_θ) over the full vocabulary at each position, in nats.
    ///
    /// # Shapes
    /// `policy_logits` and `prior_logits` are `[M, V]`; the result is `[M]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn forward_kl(policy_logits: Tensor<2>, prior_logits: Tensor<2>) -> Tensor<1> {
        let [m, _] = policy_logits.dims();
        filled("forward_kl", "policy_logits", policy_logits.dims());
        same("forward_kl", "prior_logits", prior_logits.dims(), policy_logits.dims());
        let prior = log_softmax(prior_logits.detach(), 1);
        let policy = log_softmax(policy_logits, 1);
        (prior.clone().exp() * (prior - policy)).sum_dim(1).reshape([m])
    }
}

#[cfg(test)]
mod tests;
