//! Nash-MD-PG: policy gradient of the KL-regularised game against a mixture of policy and reference.
//!
//! ```text
//! ℓ = β K − (P(y ≻ y′) − ½) Σ_t log π_t
//! K = (Σ_t sg(d_t)) (Σ_t log π_t)          sequence
//!     Σ_t sg(d_t) log π_t                  token
//! d_t = log π_t − log μ_t                  y′ ~ π^α ∝ π^{1 − α} μ^α, token by token
//! ```
//!
//! Where: log π_t is `policy_logp`, log μ_t is `reference_logp`, of a completion y drawn from the
//! policy; P is `prob`; K is by `kl`; sg stops the gradient; α is `mixture_coef` of
//! [`geometric_mixture`].
//! Paper: Munos et al., *Nash Learning from Human Feedback*, arXiv:2312.00886, in words (Nash-MD-PG;
//! its gradient is ∇ log π(y) (P − ½ − τ log(π/μ))).
//! Departures: none with [`NashMdKl::Sequence`], whose expected gradient is that of the sequences'
//! KL. [`NashMdKl::Token`] is TRL's, which leaves out what a token does to the KL of those after it.
//! Detached: `reference_logp`, `prob`, d within K, and the result's score and KL.

use serde::{Deserialize, Serialize};

use crate::host::stable::log_softmax;
use crate::mask::sequence_sum_scalar;
use crate::number::{Beta, Prob};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{NashMdLoss, geometric_mixture, nash_md};

/// The surrogate whose gradient stands for that of KL(π ‖ μ).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NashMdKl {
    /// The whole log-ratio weighs every token: REINFORCE of the KL of sequences.
    Sequence,
    /// Each token's own log-ratio weighs it, as in TRL.
    Token,
}

/// Numbers of [`nash_md`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NashMdConfig {
    /// β: the pull to the reference; the paper's τ. 0.1 is TRL's default.
    pub beta: Beta,
    /// The surrogate of the KL.
    pub kl: NashMdKl,
}

impl NashMdConfig {
    /// With the sequences' KL, as the paper has it.
    pub fn new(beta: Beta) -> Self {
        Self { beta, kl: NashMdKl::Sequence }
    }
}

/// One completion's loss: the definition of [`nash_md`].
///
/// ```
/// use rlhf_core::loss::nash_md::{NashMdConfig, nash_md_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Σ d = ½ − 1 and Σ log π = −3: 0.1 · 1.5 − (0.75 − ½)(−3).
/// let config = NashMdConfig::new(Beta::new(0.1)?);
/// let loss = nash_md_scalar(config, &[-1.0, -2.0f64], &[-1.5, -1.0], &[true; 2], 0.75);
/// assert!((loss - 0.9).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On slices of different lengths.
pub fn nash_md_scalar<R: Real>(
    config: NashMdConfig,
    policy_logp: &[R],
    reference_logp: &[f64],
    mask: &[bool],
    prob: f64,
) -> R {
    assert_eq!(policy_logp.len(), reference_logp.len(), "nash_md: policy and reference differ in length");
    let logp = sequence_sum_scalar(policy_logp, mask);
    let ratio: Vec<R> = policy_logp.iter().zip(reference_logp).map(|(p, q)| (*p - *q).detached()).collect();
    let kl = match config.kl {
        NashMdKl::Sequence => sequence_sum_scalar(&ratio, mask) * logp,
        NashMdKl::Token => {
            let each: Vec<R> = ratio.iter().zip(policy_logp).map(|(d, p)| *d * *p).collect();
            sequence_sum_scalar(&each, mask)
        }
    };
    kl * config.beta.get() - logp * (prob - 0.5)
}

/// One row's log-probabilities under the mixture that the opponent is drawn from: the definition of
/// [`geometric_mixture`]. `mixture_coef` is the weight of the reference; 0.5 is TRL's default, the
/// paper's best are 0.125 to 0.375.
///
/// ```
/// use rlhf_core::loss::nash_md::geometric_mixture_scalar;
/// use rlhf_core::number::Prob;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Odds of 9 and 1 mix to odds of 3: log ¾ and log ¼.
/// let logp = geometric_mixture_scalar(Prob::new(0.5)?, &[9f64.ln(), 0.0], &[0.0, 0.0]);
/// assert!((logp[0] - 0.75f64.ln()).abs() < 1e-15 && (logp[1] - 0.25f64.ln()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On rows of different lengths.
pub fn geometric_mixture_scalar<R: Real>(mixture_coef: Prob, policy: &[R], reference: &[f64]) -> Vec<R> {
    assert_eq!(policy.len(), reference.len(), "geometric_mixture: policy and reference differ in length");
    let coef = mixture_coef.get();
    let mixed: Vec<R> = policy.iter().zip(reference).map(|(p, q)| *p * (1.0 - coef) + coef * *q).collect();
    log_softmax(&mixed)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Bool, Tensor};

    use super::{NashMdConfig, NashMdKl};
    use crate::mask::masked;
    use crate::number::Prob;
    use crate::shape::{filled, same};

    /// What [`nash_md`] gives.
    #[derive(Debug, Clone)]
    pub struct NashMdLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: (P − ½) Σ log π, in nats. Detached.
        pub score: Tensor<1>,
        /// `[B]`: Σ d, a sample of KL(π ‖ μ) in nats. Detached.
        pub kl: Tensor<1>,
    }

    /// The loss of each completion.
    ///
    /// # Shapes
    /// `policy_logp`, `reference_logp` and `mask` are `[B, T]`, `prob` and each field of the result
    /// `[B]`. A completion without tokens has the loss 0.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn nash_md(
        config: NashMdConfig,
        policy_logp: Tensor<2>,
        reference_logp: Tensor<2>,
        mask: &Tensor<2, Bool>,
        prob: Tensor<1>,
    ) -> NashMdLoss {
        let name = "nash_md";
        let [b, _] = policy_logp.dims();
        same(name, "reference_logp", reference_logp.dims(), policy_logp.dims());
        same(name, "prob", prob.dims(), [b]);
        let logp = masked(name, policy_logp, mask);
        let ratio = logp.clone().detach() - masked(name, reference_logp.detach(), mask);
        let sum = |x: Tensor<2>| x.sum_dim(1).reshape([b]);
        let (total, kl) = (sum(logp.clone()), sum(ratio.clone()));
        let surrogate = match config.kl {
            NashMdKl::Sequence => kl.clone() * total.clone(),
            NashMdKl::Token => sum(ratio * logp),
        };
        let score = total * prob.detach().sub_scalar(0.5);
        let loss = surrogate.mul_scalar(config.beta.get()) - score.clone();
        NashMdLoss { loss, score: score.detach(), kl }
    }

    /// Log-probabilities under the mixture that the opponent is drawn from, for the sampler; the
    /// reference is detached.
    ///
    /// # Shapes
    /// `policy_logits`, `reference_logits` and the result are `[M, V]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn geometric_mixture(
        mixture_coef: Prob,
        policy_logits: Tensor<2>,
        reference_logits: Tensor<2>,
    ) -> Tensor<2> {
        let name = "geometric_mixture";
        filled(name, "policy_logits", policy_logits.dims());
        same(name, "reference_logits", reference_logits.dims(), policy_logits.dims());
        let coef = mixture_coef.get();
        let reference = reference_logits.detach().mul_scalar(coef);
        log_softmax(policy_logits.mul_scalar(1.0 - coef) + reference, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::{Dual, gradient};

    const POLICY: [[f64; 3]; 2] = [[-1.0, -2.0, -0.5], [-0.3, -0.7, 0.0]];
    const REFERENCE: [[f64; 3]; 2] = [[-1.5, -1.0, -0.5], [-0.2, -1.2, 0.0]];

    fn config(kl: NashMdKl) -> NashMdConfig {
        NashMdConfig { kl, ..NashMdConfig::new(Beta::new(0.1).expect("positive")) }
    }

    #[test]
    fn two_completions_by_hand() {
        // d = (½, −1, 0) and (−0.1, ½, 0); scores 0.2 · −3.5 = −0.7 and −0.3 · −1 = 0.3.
        // Token: (−½ + 2, 0.03 − 0.35), sequence: (−½ · −3½, 0.4 · −1), each times 0.1.
        for (kl, expected) in
            [(NashMdKl::Token, [0.15 + 0.7, -0.032 - 0.3]), (NashMdKl::Sequence, [0.175 + 0.7, -0.04 - 0.3])]
        {
            for (i, prob) in [0.7, 0.2].into_iter().enumerate() {
                let loss = nash_md_scalar(config(kl), &POLICY[i], &REFERENCE[i], &[true; 3], prob);
                assert!((loss - expected[i]).abs() < 1e-15, "{kl:?} {i}: {loss}");
            }
        }
    }

    #[test]
    fn the_log_ratio_weighs_and_is_not_learned() {
        // dℓ/d log π_t: β Σ d − (P − ½) for each token; β d_t − (P − ½).
        for (kl, expected) in [(NashMdKl::Sequence, [-0.25; 3]), (NashMdKl::Token, [-0.15, -0.3, -0.2])] {
            let loss = |x: &[_]| nash_md_scalar(config(kl), x, &REFERENCE[0], &[true; 3], 0.7);
            let (_, slope) = gradient(&POLICY[0], loss);
            assert!(slope.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-15), "{kl:?}: {slope:?}");
        }
    }

    /// Completions of two tokens from {0, 1}; `logits` are those of the first token and of the second
    /// after each first.
    fn logps<R: Real>(logits: &[R], [a, b]: [usize; 2]) -> [R; 2] {
        let of = |row: usize, token: usize| log_softmax(&logits[2 * row..2 * row + 2])[token];
        [of(0, a), of(1 + a, b)]
    }

    #[test]
    fn the_sequence_surrogate_has_the_gradient_of_the_kl_and_the_token_surrogate_has_not() {
        let at = [0.3, -0.4, 1.0, 0.0, -0.7, 0.2];
        let reference = [0.0, 0.5, -1.0, 0.3, 0.6, 0.1];
        let all = [[0, 0], [0, 1], [1, 0], [1, 1]];
        let ratio = |x: &[Dual], y| {
            let (p, q) = (logps(x, y), logps(&reference, y));
            p[0] + p[1] - (q[0] + q[1])
        };
        let prob = |x: &[Dual], y| logps(x, y).into_iter().sum::<Dual>().exp();
        let exact = gradient(&at, |x| all.iter().map(|y| prob(x, *y) * ratio(x, *y)).sum()).1;
        // Expected surrogate over completions of the policy, not differentiated through their choice.
        let surrogate = |kl| {
            let one = |x: &[Dual], y| {
                nash_md_scalar(config(kl), &logps(x, y), &logps(&reference, y), &[true; 2], 0.5)
            };
            let mean = |x: &[Dual]| all.iter().map(|y| one(x, *y) * prob(x, *y).detached() * 10.0).sum();
            gradient(&at, mean).1
        };
        let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart(&surrogate(NashMdKl::Sequence), &exact) < 1e-14);
        assert!(apart(&surrogate(NashMdKl::Token), &exact) > 0.05);
    }

    #[test]
    fn the_ends_of_the_mixture_are_its_models() {
        let (policy, reference) = ([0.3, -1.0, 2.0], [1.0, 0.0, -0.5]);
        let of = |coef| geometric_mixture_scalar(Prob::new(coef).expect("a share"), &policy, &reference);
        for (found, expected) in [(of(0.0), log_softmax(&policy)), (of(1.0), log_softmax(&reference))] {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15));
        }
    }
}
