//! Regularized Self-Play Policy Optimization: SPPO's square loss beside any mixture of regularisers.
//!
//! ```text
//! ℓ(y) = ½ (z − T)² + Σ λ r(y)                         pair: ℓ(y⁺) + ℓ(y⁻)
//! z = log π − log π_t     d = log π − log μ            T = (P(y ≻ π_t) − ½) / β
//!
//! reverse_kl             d²                    forward_importance     exp(min(−d, R))
//! chi2                   exp(min(d, R))        smoothed_chi2          σ(min(d, R))
//! reverse_kl_no_entropy  −log π · log μ        entropy                (log π)²
//! forward_samples        −log π(token) on responses drawn from μ
//! ```
//!
//! Where: π is `policy`, π_t and μ are `previous` (the iterate that sampled the responses) and
//! `original` of `references`, all summed over the completion; P(y ≻ π_t) is `win_rate`; λ and r are
//! `weight` and `regularizer` of each of `terms`.
//! Paper: Tang et al., *Game-Theoretic Regularized Self-Play Alignment of Large Language Models*,
//! arXiv:2503.00030, in words; the estimators r as in the authors' published code.
//! Departures: none from that code, whose pair has the ½ on the square but not on λ r. Only the
//! gradients of r mean something: E_π[e⁻ᵈ] is 1 whatever π is.
//! Detached: both `references`, `win_rate`, and the result's parts and rewards.

use serde::{Deserialize, Serialize};

use crate::loss::sppo::{SppoConfig, sppo_response_scalar};
use crate::number::{Beta, Bound, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{RspoLoss, rspo, rspo_forward_samples, rspo_response};

/// What a policy is compared with: log-probabilities of the same responses under two frozen models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct References<T> {
    /// π_t: the iterate that the responses were drawn from.
    pub previous: T,
    /// μ: the model that the policy is held to; never updated.
    pub original: T,
}

/// r, the estimator of a divergence from μ on samples of π_t. A bound is the authors' R: the largest
/// log-ratio that is exponentiated, in nats; beyond it there is no gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RspoRegularizer {
    /// KL(π ‖ μ).
    ReverseKl,
    /// KL(μ ‖ π) by importance weights μ/π. R is 10 in the authors' best runs, 7 and 5 in others.
    ForwardImportance(Bound),
    /// Σ (π − μ)²/μ. The authors' R is 10.
    Chi2(Bound),
    /// χ² with its ratio ρ bent to ρ/(1 + ρ). The authors' R is 10.
    SmoothedChi2(Bound),
    /// The cross-entropy E_π[−log μ]: the reverse KL without its entropy.
    ReverseKlNoEntropy,
    /// The negative entropy E_π[log π].
    Entropy,
}

impl RspoRegularizer {
    /// c: a term's expected gradient over y ~ π is c times that of the divergence named above; 1 for
    /// smoothed χ², which is that of Σ μ [log(1 + ρ) + 1/(1 + ρ)] with ρ = π/μ.
    pub fn gradient_factor(self) -> f64 {
        match self {
            Self::ReverseKl | Self::Entropy => 2.0,
            Self::ForwardImportance(_) | Self::SmoothedChi2(_) | Self::ReverseKlNoEntropy => 1.0,
            Self::Chi2(_) => 0.5,
        }
    }
}

/// A regulariser and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RspoTerm {
    /// r.
    pub regularizer: RspoRegularizer,
    /// λ: the authors' `reg_coef`.
    pub weight: Weight,
}

impl RspoTerm {
    /// τ: iterating the loss ends at the equilibrium of the game P(π ≻ π′) − τ R(π) + τ R(π′), where
    /// τ = c λ β. Several terms act with a τ each.
    pub fn temperature(self, beta: Beta) -> f64 {
        self.regularizer.gradient_factor() * self.weight.get() * beta.get()
    }
}

/// Numbers of [`rspo`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RspoConfig {
    /// β = 1/η: a response that always wins is drawn to a log-ratio of 1/(2β) nats.
    pub beta: Beta,
    /// The regularisers; none leaves SPPO. The authors' best are `forward_importance` with R = 10 at
    /// λ = 0.1 and `reverse_kl` at λ = 0.5 together, with β = 0.001.
    pub terms: Vec<RspoTerm>,
}

impl RspoConfig {
    /// The terms that are not switched off: 0 times an unbounded r would be NaN far out.
    fn acting(&self) -> impl Iterator<Item = &RspoTerm> {
        self.terms.iter().filter(|term| term.weight.get() > 0.0)
    }
}

/// r of one response under one regulariser.
fn regularizer_scalar<R: Real>(regularizer: RspoRegularizer, policy: R, original: f64) -> R {
    let d = policy - original;
    let below = |x: R, bound: Bound| x.clamp(f64::NEG_INFINITY, bound.get());
    match regularizer {
        RspoRegularizer::ReverseKl => d.square(),
        RspoRegularizer::ForwardImportance(bound) => below(-d, bound).exp(),
        RspoRegularizer::Chi2(bound) => below(d, bound).exp(),
        RspoRegularizer::SmoothedChi2(bound) => below(d, bound).sigmoid(),
        RspoRegularizer::ReverseKlNoEntropy => -policy * original,
        RspoRegularizer::Entropy => policy.square(),
    }
}

/// One response's share of the loss: the definition of [`rspo_response`]. In a table of responses it
/// is the row of one of them.
pub fn rspo_response_scalar<R: Real>(
    config: &RspoConfig,
    policy: R,
    references: References<f64>,
    win_rate: f64,
) -> R {
    let square = sppo_response_scalar(SppoConfig::new(config.beta), policy, references.previous, win_rate);
    config.acting().fold(square, |sum, term| {
        sum + regularizer_scalar(term.regularizer, policy, references.original) * term.weight.get()
    })
}

/// One pair's loss: the definition of [`rspo`].
///
/// ```
/// use rlhf_core::loss::rspo::{References, RspoConfig, RspoRegularizer, RspoTerm, rspo_scalar};
/// use rlhf_core::number::{Beta, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Log-ratios to π_t 2 and −1 where (¾ − ½)/¼ = 1 and 0 are sought: ½ (1² + 1²); to μ 3 and 0:
/// // 0.1 (3² + 0²).
/// let reverse_kl = RspoTerm { regularizer: RspoRegularizer::ReverseKl, weight: Weight::new(0.1)? };
/// let config = RspoConfig { beta: Beta::new(0.25)?, terms: vec![reverse_kl] };
/// let references = References { previous: [-10.0, -10.0], original: [-11.0, -11.0] };
/// let loss = rspo_scalar(&config, [-8.0, -11.0f64], references, [0.75, 0.5]);
/// assert!((loss - 1.9).abs() < 1e-14);
/// # Ok(())
/// # }
/// ```
pub fn rspo_scalar<R: Real>(
    config: &RspoConfig,
    policy: [R; 2],
    references: References<[f64; 2]>,
    win_rates: [f64; 2],
) -> R {
    let References { previous, original } = references;
    let one = |i: usize| {
        let references = References { previous: previous[i], original: original[i] };
        rspo_response_scalar(config, policy[i], references, win_rates[i])
    };
    one(0) + one(1)
}

/// One token's forward KL on a response drawn from μ: the definition of [`rspo_forward_samples`].
pub fn rspo_forward_samples_scalar<R: Real>(policy_logp: R) -> R {
    -policy_logp
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::{References, RspoConfig, RspoRegularizer, RspoTerm};
    use crate::elementwise::sigmoid;
    use crate::loss::sppo::{SppoConfig, sppo_response};
    use crate::mask::masked;
    use crate::pair::log_ratios;
    use crate::shape::{filled, same};

    /// What [`rspo`] gives.
    #[derive(Debug, Clone)]
    pub struct RspoLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: the part of SPPO. Detached.
        pub square: Tensor<1>,
        /// `[B]`: the part of the regularisers, Σ λ r over both responses. Detached.
        pub regularizer: Tensor<1>,
        /// `[B]`: β times the chosen log-ratio to π_t, in nats. Detached.
        pub chosen_reward: Tensor<1>,
        /// `[B]`: β times the rejected log-ratio to π_t, in nats. Detached.
        pub rejected_reward: Tensor<1>,
    }

    /// The share of each response.
    ///
    /// # Shapes
    /// `policy` and both `references` (log-probabilities summed over the completion), `win_rate` and
    /// the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn rspo_response(
        config: &RspoConfig,
        policy: Tensor<1>,
        references: References<Tensor<1>>,
        win_rate: Tensor<1>,
    ) -> Tensor<1> {
        let name = "rspo_response";
        let References { previous, original } = references;
        filled(name, "policy", policy.dims());
        same(name, "previous", previous.dims(), policy.dims());
        same(name, "original", original.dims(), policy.dims());
        same(name, "win_rate", win_rate.dims(), policy.dims());
        let square = sppo_response(SppoConfig::new(config.beta), policy.clone(), previous, win_rate);
        square + regularizer(config, policy, original)
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and of both `references` (chosen, rejected; log-probabilities summed
    /// over the completion), of `win_rates` and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn rspo(
        config: &RspoConfig,
        policy: [Tensor<1>; 2],
        references: References<[Tensor<1>; 2]>,
        win_rates: [Tensor<1>; 2],
    ) -> RspoLoss {
        let [chosen, rejected] = policy.clone();
        let References { previous, original } = references;
        let ratios = log_ratios("rspo", policy, previous.clone());
        let rows = chosen.dims();
        for (i, which) in ["chosen", "rejected"].into_iter().enumerate() {
            same("rspo", &format!("original {which}"), original[i].dims(), rows);
            same("rspo", &format!("win_rates {which}"), win_rates[i].dims(), rows);
        }
        let sppo = SppoConfig::new(config.beta);
        let ([before, before_rejected], [held, held_rejected]) = (previous, original);
        let [rate, rate_rejected] = win_rates;
        let square = sppo_response(sppo, chosen.clone(), before, rate)
            + sppo_response(sppo, rejected.clone(), before_rejected, rate_rejected);
        let extra = regularizer(config, chosen, held) + regularizer(config, rejected, held_rejected);
        let [chosen_reward, rejected_reward] = ratios.map(|z| z.detach().mul_scalar(config.beta.get()));
        RspoLoss {
            loss: square.clone() + extra.clone(),
            square: square.detach(),
            regularizer: extra.detach(),
            chosen_reward,
            rejected_reward,
        }
    }

    /// The forward KL of each token of responses drawn from μ; λ is the caller's. The authors divide
    /// the sum by rows times the padded length.
    ///
    /// # Shapes
    /// `policy_logp`, `mask` and the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn rspo_forward_samples(policy_logp: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<2> {
        masked("rspo_forward_samples", policy_logp, mask).neg()
    }

    /// Σ λ r of each response.
    fn regularizer(config: &RspoConfig, policy: Tensor<1>, original: Tensor<1>) -> Tensor<1> {
        let (original, none) = (original.detach(), policy.zeros_like());
        let weighed = move |term: &RspoTerm| {
            let d = policy.clone() - original.clone();
            let r = match term.regularizer {
                RspoRegularizer::ReverseKl => d.square(),
                RspoRegularizer::ForwardImportance(bound) => d.neg().clamp_max(bound.get()).exp(),
                RspoRegularizer::Chi2(bound) => d.clamp_max(bound.get()).exp(),
                RspoRegularizer::SmoothedChi2(bound) => sigmoid(d.clamp_max(bound.get())),
                RspoRegularizer::ReverseKlNoEntropy => (policy.clone() * original.clone()).neg(),
                RspoRegularizer::Entropy => policy.clone().square(),
            };
            r.mul_scalar(term.weight.get())
        };
        config.acting().map(weighed).fold(none, |sum, r| sum + r)
    }
}

#[cfg(test)]
mod tests;
