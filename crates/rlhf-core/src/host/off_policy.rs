//! Weights for tokens that another model sampled than the one that is trained.
//!
//! ```text
//! ρ_t = π(o_t | o_<t) / b(o_t | o_<t)          w = correction(ρ)          ℓ = Σ_t w_t ℓ_t
//! ```
//!
//! Where: `log_ratio` holds log ρ, one row a completion, one number a token: the log-probabilities
//! of the policy before the update (π) minus those recorded at sampling (b). The weights multiply a
//! loss that has its own ratio of π_θ to π; no gradient flows through them. Both sides of ρ are at
//! the sampling temperature, with top-p and top-k off or renormalised.
//! Papers: Munos et al., *Safe and Efficient Off-Policy Reinforcement Learning*, arXiv:1606.02647,
//! for Retrace; Heuillet et al., *Nested-ReFT*, arXiv:2508.10123, for rollouts of a part of the
//! policy; masks from Ling Team, *Every Step Evolves*, arXiv:2510.18855 (IcePop).
//!
//! Only [`Correction::Sequence`] gives the exact gradient in the mean, at a variance that grows with
//! every token. The one correction that needs no weight is to put b in place of π into the clipped
//! ratio itself, by passing the recorded log-probabilities as `old_logp` to
//! [`ppo_clip`](crate::loss::ppo_clip). It stalls: a good token that the policy already prefers to b
//! has ρ > 1 + ε before the first step, and its gradient is cut.

use serde::{Deserialize, Serialize};

use super::interval::Interval;
use super::stable::logsumexp;
use crate::number::Prob;

/// What becomes of ρ.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// 1: the completions are taken for the policy's own.
    None,
    /// ρ_t; the tokens before stay those of b.
    Token,
    /// Π_{i ≤ t} ρ_i; what follows stays that of b.
    Prefix,
    /// Π ρ on every token: unbiased, of a variance that is exponential in the length.
    Sequence,
    /// exp(mean log ρ) on every token.
    Geometric,
    /// ρ_t, held in the interval.
    TokenTruncate(Interval),
    /// ρ_t, and 0 outside the interval; IcePop.
    TokenMask(Interval),
    /// Π ρ, held in the interval.
    SequenceTruncate(Interval),
    /// Π ρ, and 0 outside the interval.
    SequenceMask(Interval),
    /// ρ_t, and 0 for a whole completion whose exp(mean log ρ) is outside the interval.
    GeometricMask(Interval),
    /// λ min(1, ρ_t): Retrace's trace of a single step, without decay.
    RetraceToken(Prob),
    /// Π_{i ≤ t} λ min(1, ρ_i): Retrace; λ < 1 takes away late tokens geometrically.
    RetraceTraces(Prob),
}

/// The weight of every token, rows as `log_ratio`. A log-ratio of ±∞ (a token that one of the two
/// gave no probability) is a number like others; NaN stays. Without a bound a weight is infinite
/// where its logarithm is above 709.
///
/// ```
/// use rlhf_core::host::off_policy::{Correction, correction_weights};
/// use rlhf_core::number::Prob;
///
/// // ρ = ½ and 4: the product is 2, the traces are ½ and ½ · 1.
/// let log_ratio = [[0.5f64.ln(), 4f64.ln()]];
/// let sequence = correction_weights(Correction::Sequence, &log_ratio);
/// assert!(sequence[0].iter().all(|w| (w - 2.0).abs() < 1e-15));
/// let traces = correction_weights(Correction::RetraceTraces(Prob::ONE), &log_ratio);
/// assert_eq!(traces, [[0.5, 0.5]]);
/// ```
pub fn correction_weights(correction: Correction, log_ratio: &[impl AsRef<[f64]>]) -> Vec<Vec<f64>> {
    log_ratio.iter().map(|row| correction.row(row.as_ref())).collect()
}

impl Correction {
    fn row(self, log_ratio: &[f64]) -> Vec<f64> {
        let product = || log_ratio.iter().sum::<f64>().exp();
        let each = |of: &dyn Fn(f64) -> f64| log_ratio.iter().map(|x| of(x.exp())).collect();
        // `clamp` keeps a NaN, which `min` would not.
        let trace = |lambda: Prob, ratio: f64| lambda.get() * ratio.clamp(0.0, 1.0);
        let masked = |within: Interval, x: f64| if within.excludes(x) { 0.0 } else { x };
        match self {
            Self::None => vec![1.0; log_ratio.len()],
            Self::Token => each(&|ratio| ratio),
            Self::Prefix => running(log_ratio.iter().copied(), |a, b| a + b).map(f64::exp).collect(),
            Self::Sequence => vec![product(); log_ratio.len()],
            Self::Geometric => vec![geometric(log_ratio); log_ratio.len()],
            Self::TokenTruncate(within) => each(&|ratio| within.clamp(ratio)),
            Self::TokenMask(within) => each(&|ratio| masked(within, ratio)),
            Self::SequenceTruncate(within) => vec![within.clamp(product()); log_ratio.len()],
            Self::SequenceMask(within) => vec![masked(within, product()); log_ratio.len()],
            Self::GeometricMask(within) if within.excludes(geometric(log_ratio)) => {
                vec![0.0; log_ratio.len()]
            }
            Self::GeometricMask(_) => each(&|ratio| ratio),
            Self::RetraceToken(lambda) => each(&|ratio| trace(lambda, ratio)),
            Self::RetraceTraces(lambda) => {
                running(log_ratio.iter().map(|x| trace(lambda, x.exp())), |a, b| a * b).collect()
            }
        }
    }

    /// Whether the bound acts on each token.
    fn bounds(self, log_ratio: &[f64]) -> Vec<bool> {
        let each = |of: &dyn Fn(f64) -> bool| log_ratio.iter().map(|x| of(x.exp())).collect();
        let all = |one: bool| vec![one; log_ratio.len()];
        match self {
            Self::None | Self::Token | Self::Prefix | Self::Sequence | Self::Geometric => all(false),
            Self::TokenTruncate(within) | Self::TokenMask(within) => each(&|ratio| within.excludes(ratio)),
            Self::SequenceTruncate(within) | Self::SequenceMask(within) => {
                all(within.excludes(log_ratio.iter().sum::<f64>().exp()))
            }
            Self::GeometricMask(within) => all(within.excludes(geometric(log_ratio))),
            Self::RetraceToken(_) | Self::RetraceTraces(_) => each(&|ratio| ratio > 1.0),
        }
    }
}

/// exp(mean log ρ).
fn geometric(log_ratio: &[f64]) -> f64 {
    (log_ratio.iter().sum::<f64>() / log_ratio.len() as f64).exp()
}

/// Each term joined to all before it.
fn running(terms: impl Iterator<Item = f64>, join: fn(f64, f64) -> f64) -> impl Iterator<Item = f64> {
    terms.scan(None, move |sofar: &mut Option<f64>, x| {
        *sofar = Some(sofar.map_or(x, |s| join(s, x)));
        *sofar
    })
}

/// The log-probabilities under a mixture of behaviours, one of which sampled the whole completion:
/// with them for b, every correction has a smaller or equal variance.
///
/// ```text
/// log m(o_t | o_<t) = log Σ_s p_s b_s(o_≤t) − log Σ_s p_s b_s(o_<t)
/// ```
///
/// `behaviors` are a behaviour's probability p_s each, with its log-probabilities of the tokens. The
/// sum over a row is the log-probability of the completion under the mixture.
///
/// # Panics
/// On no behaviour, or rows of different lengths.
#[track_caller]
pub fn mixture_logp(behaviors: &[(Prob, &[f64])]) -> Vec<f64> {
    let n = behaviors.first().expect("mixture_logp: behaviors: expected one, found none").1.len();
    assert!(behaviors.iter().all(|(_, b)| b.len() == n), "mixture_logp: behaviors: expected one length");
    let mut joint: Vec<f64> = behaviors.iter().map(|(p, _)| p.get().ln()).collect();
    let mut before = logsumexp(&joint);
    let mut token = |t: usize| {
        joint.iter_mut().zip(behaviors).for_each(|(joint, (_, b))| *joint += b[t]);
        let now = logsumexp(&joint);
        let logp = now - before;
        before = now;
        logp
    };
    (0..n).map(&mut token).collect()
}

/// How far the samples are from the policy, and what a correction makes of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Diagnostics {
    /// Tokens; all else is NaN without one.
    pub n_tokens: usize,
    /// The mean of ρ over tokens, whose expectation is 1: far from it, the recorded
    /// log-probabilities are not those of the distribution that was sampled from.
    pub mean_ratio: f64,
    /// The mean of −Σ_t log ρ_t over completions, in nats: an estimate of KL(b ‖ π).
    pub kl: f64,
    /// The effective number of completions under weights of Π ρ.
    pub effective_sample_size: f64,
    /// The share of tokens on which the correction's bound acts.
    pub share_bounded: f64,
}

/// The diagnostics of a batch; rows as for [`correction_weights`].
pub fn diagnostics(correction: Correction, log_ratio: &[impl AsRef<[f64]>]) -> Diagnostics {
    let rows = || log_ratio.iter().map(AsRef::as_ref);
    let sums: Vec<f64> = rows().map(|row| row.iter().sum()).collect();
    let n_tokens = rows().map(<[f64]>::len).sum::<usize>();
    let bounded = rows().flat_map(|row| correction.bounds(row)).filter(|on| *on).count();
    Diagnostics {
        n_tokens,
        mean_ratio: rows().flatten().map(|x| x.exp()).sum::<f64>() / n_tokens as f64,
        kl: -sums.iter().sum::<f64>() / sums.len() as f64,
        effective_sample_size: effective_sample_size(&sums),
        share_bounded: bounded as f64 / n_tokens as f64,
    }
}

/// (Σ w)² / Σ w² from the logarithms of the weights: from 1 to their number.
///
/// ```
/// // Weights 1, 1, 2: 16 / 6.
/// let n = rlhf_core::host::off_policy::effective_sample_size(&[0.0, 0.0, 2f64.ln()]);
/// assert!((n - 8.0 / 3.0).abs() < 1e-14);
/// ```
pub fn effective_sample_size(log_weights: &[f64]) -> f64 {
    let doubled: Vec<f64> = log_weights.iter().map(|x| 2.0 * x).collect();
    (2.0 * logsumexp(log_weights) - logsumexp(&doubled)).exp()
}

#[cfg(test)]
mod tests;
