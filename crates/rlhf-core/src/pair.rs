//! What the losses on preference pairs share: log-ratios, scores under an f-divergence, the result.
//!
//! ```text
//! log-ratio  d = log π(y|x) − log π_ref(y|x)
//! score      s = f′(eᵈ):   reverse KL  d            forward KL  1 − e⁻ᵈ
//!                          JS          log 2 + log σ(d)
//!                          α           (e^{(α − 1) d} − 1) / (α − 1)
//!                          α, clamped  (e^{min((α − 1) d, max_exponent)} − 1) / (α − 1)
//! ```
//!
//! Where: π is `policy`, π_ref is `reference`, both summed over the completion's tokens; entries 0
//! and 1 of each are y⁺ (chosen) and y⁻ (rejected).
//! Source: Wang et al., *Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse
//! Divergence Constraints*, arXiv:2309.16240, Table 1; constants as in TRL, which shift both scores
//! alike. The paper's (and TRL 0.24's) α, of f′(u) = (1 − u^−α)/α, is 1 − α here, where it is TRL
//! 1.16's; they meet at ½.
//!
//! An exponent above 70 goes on as a straight line ([`Real::exp_m1_held`]): the score stays finite
//! and keeps a slope. TRL clamps the exponent of the α-divergence instead: there the score has no
//! gradient, and the pairs that are furthest off teach nothing. It is the last line, by its own name.

use serde::{Deserialize, Serialize};

use crate::number::{Finite, Positive};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{PairLoss, log_ratios, reference_free, scores};
#[cfg(feature = "burn")]
pub(crate) use tensor::{means, per_length, smoothed};

/// The divergence that the policy is held to the reference by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FDivergence {
    /// KL(π ‖ π_ref): the one of DPO's derivation.
    #[default]
    ReverseKl,
    /// KL(π_ref ‖ π).
    ForwardKl,
    /// Jensen–Shannon.
    JsDivergence,
    /// The α-divergence; α = 1 is the reverse KL, α = 0 the forward one.
    AlphaDivergence(Finite),
    /// The α-divergence as TRL 1.16 computes it: flat, without gradient, beyond a bound.
    AlphaDivergenceClamped {
        /// α.
        alpha: Finite,
        /// The largest (α − 1) d that is exponentiated: 80 in TRL 1.16, 11 under `f16`.
        max_exponent: Positive,
    },
}

/// The score of one completion from its log-ratio: the definition of [`scores`].
///
/// ```
/// use rlhf_core::pair::{FDivergence, score_scalar};
///
/// // Twice as likely as under the reference: 1 − ½ under the forward KL.
/// let score = score_scalar(FDivergence::ForwardKl, 2f64.ln());
/// assert!((score - 0.5).abs() < 1e-15);
/// ```
pub fn score_scalar<R: Real>(divergence: FDivergence, log_ratio: R) -> R {
    match divergence {
        FDivergence::ReverseKl => log_ratio,
        FDivergence::ForwardKl => -(-log_ratio).exp_m1_held(),
        FDivergence::JsDivergence => log_ratio.log_sigmoid() + std::f64::consts::LN_2,
        FDivergence::AlphaDivergence(alpha) => alpha_scalar(alpha, f64::INFINITY, log_ratio),
        FDivergence::AlphaDivergenceClamped { alpha, max_exponent } => {
            alpha_scalar(alpha, max_exponent.get(), log_ratio)
        }
    }
}

fn alpha_scalar<R: Real>(alpha: Finite, max: f64, log_ratio: R) -> R {
    let a = alpha.get() - 1.0;
    if is_reverse_kl(a) {
        log_ratio
    } else if max.is_finite() {
        (log_ratio * a).clamp(f64::NEG_INFINITY, max).exp_m1() / a
    } else {
        (log_ratio * a).exp_m1_held() / a
    }
}

/// Whether α − 1 is so near to 0 that the quotient is taken at its limit; TRL's threshold.
fn is_reverse_kl(a: f64) -> bool {
    a.abs() < 1e-6
}

/// Log-probability per token.
pub(crate) fn means_scalar<R: Real>(policy: [R; 2], lengths: [f64; 2]) -> [R; 2] {
    [0, 1].map(|i| per_length_scalar(policy[i], lengths[i]))
}

/// x a token: 0/0 would be NaN, so a completion without tokens counts as one token long.
pub(crate) fn per_length_scalar<R: Real>(x: R, length: f64) -> R {
    // Not `max`, which drops a NaN.
    x / if length < 1.0 { 1.0 } else { length }
}

/// −(1 − ε) log σ(x) − ε log σ(−x).
pub(crate) fn smoothed_scalar<R: Real>(x: R, eps: f64) -> R {
    -x.log_sigmoid() * (1.0 - eps) - (-x).log_sigmoid() * eps
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::{FDivergence, is_reverse_kl};
    use crate::elementwise::{exp_m1, exp_m1_held, log_sigmoid};
    use crate::number::Finite;
    use crate::shape::{filled, same};

    /// What a loss on preference pairs gives.
    #[derive(Debug, Clone)]
    pub struct PairLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: β times the chosen log-ratio, in nats, whatever the divergence; of a loss without a
        /// reference β times what it compares instead. Detached.
        pub chosen_reward: Tensor<1>,
        /// `[B]`: the same of the rejected one. Detached.
        pub rejected_reward: Tensor<1>,
    }

    impl PairLoss {
        /// A loss beside the rewards of `log_ratios` at β.
        pub fn new(loss: Tensor<1>, beta: f64, log_ratios: [Tensor<1>; 2]) -> Self {
            let [chosen_reward, rejected_reward] = log_ratios.map(|d| d.detach().mul_scalar(beta));
            Self { loss, chosen_reward, rejected_reward }
        }
    }

    /// Chosen and rejected log-ratio, the reference detached.
    ///
    /// # Shapes
    /// Every entry and both results are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths; the message begins with `name`.
    #[track_caller]
    pub fn log_ratios(name: &str, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> [Tensor<1>; 2] {
        let [chosen, rejected] = policy;
        let [ref_chosen, ref_rejected] = reference;
        filled(name, "policy chosen", chosen.dims());
        same(name, "policy rejected", rejected.dims(), chosen.dims());
        same(name, "reference chosen", ref_chosen.dims(), chosen.dims());
        same(name, "reference rejected", ref_rejected.dims(), chosen.dims());
        [chosen - ref_chosen.detach(), rejected - ref_rejected.detach()]
    }

    /// A reference that every completion is equally likely under: makes a loss reference-free.
    ///
    /// # Shapes
    /// Those of `policy`.
    pub fn reference_free(policy: &[Tensor<1>; 2]) -> [Tensor<1>; 2] {
        [policy[0].zeros_like(), policy[1].zeros_like()]
    }

    /// The score of each completion under a divergence.
    ///
    /// # Shapes
    /// `[B]` in and out.
    pub fn scores(divergence: FDivergence, log_ratios: [Tensor<1>; 2]) -> [Tensor<1>; 2] {
        log_ratios.map(|d| match divergence {
            FDivergence::ReverseKl => d,
            FDivergence::ForwardKl => exp_m1_held(d.neg()).neg(),
            FDivergence::JsDivergence => log_sigmoid(d).add_scalar(std::f64::consts::LN_2),
            FDivergence::AlphaDivergence(alpha) => alpha_score(alpha, None, d),
            FDivergence::AlphaDivergenceClamped { alpha, max_exponent } => {
                alpha_score(alpha, Some(max_exponent.get()), d)
            }
        })
    }

    /// Log-probability per token, `[B]` each; `lengths` are detached.
    #[track_caller]
    pub(crate) fn means(
        name: &str,
        [chosen, rejected]: [Tensor<1>; 2],
        [n_chosen, n_rejected]: [Tensor<1>; 2],
    ) -> [Tensor<1>; 2] {
        filled(name, "policy chosen", chosen.dims());
        same(name, "policy rejected", rejected.dims(), chosen.dims());
        same(name, "lengths chosen", n_chosen.dims(), chosen.dims());
        same(name, "lengths rejected", n_rejected.dims(), chosen.dims());
        [per_length(chosen, n_chosen), per_length(rejected, n_rejected)]
    }

    /// The tensor form of [`per_length_scalar`](super::per_length_scalar); `length` is detached.
    pub(crate) fn per_length(x: Tensor<1>, length: Tensor<1>) -> Tensor<1> {
        let length = length.detach();
        let short = length.clone().lower_elem(1.0);
        x / length.mask_fill(short, 1.0)
    }

    /// The tensor form of [`smoothed_scalar`](super::smoothed_scalar).
    pub(crate) fn smoothed(x: Tensor<1>, eps: f64) -> Tensor<1> {
        let right = log_sigmoid(x.clone()).mul_scalar(eps - 1.0);
        if eps > 0.0 { right - log_sigmoid(x.neg()).mul_scalar(eps) } else { right }
    }

    fn alpha_score(alpha: Finite, max: Option<f64>, d: Tensor<1>) -> Tensor<1> {
        let a = alpha.get() - 1.0;
        if is_reverse_kl(a) {
            return d;
        }
        let exponent = d.mul_scalar(a);
        let grown = match max {
            Some(max) => exp_m1(exponent.clamp_max(max)),
            None => exp_m1_held(exponent),
        };
        grown.div_scalar(a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_meets_both_kls() {
        let alpha = |a: f64| FDivergence::AlphaDivergence(Finite::new(a).expect("finite"));
        for d in [-2.0, -0.1, 0.0, 0.7, 3.0] {
            assert!((score_scalar(alpha(1.0), d) - d).abs() < 1e-15);
            // α = 0: (e⁻ᵈ − 1) / −1.
            assert!((score_scalar(alpha(0.0), d) - score_scalar(FDivergence::ForwardKl, d)).abs() < 1e-14);
        }
    }

    #[test]
    fn a_divergence_is_read_whole_or_not_at_all() {
        let read = |rest: &str| {
            let text =
                format!(r#"{{"alpha_divergence_clamped": {{"alpha": 0.5, "max_exponent": 80{rest}}}}}"#);
            serde_json::from_str::<FDivergence>(&text)
        };
        assert!(matches!(read(""), Ok(FDivergence::AlphaDivergenceClamped { .. })));
        assert!(read(r#", "beta": 1"#).is_err());
    }

    #[test]
    fn a_clamped_score_stops_at_its_bound() {
        use crate::real::gradient;
        let alpha = Finite::new(0.5).expect("finite");
        let max_exponent = Positive::new(3.0).expect("positive");
        let clamped = FDivergence::AlphaDivergenceClamped { alpha, max_exponent };
        // (α − 1) d = −d/2: below the bound both are one, above it the score stays at −2 (e³ − 1).
        for d in [-5.9, 0.0, 40.0] {
            assert!(
                (score_scalar(clamped, d) - score_scalar(FDivergence::AlphaDivergence(alpha), d)).abs()
                    <= 0.0
            );
        }
        let (value, slope) = gradient(&[-6.1], |d| score_scalar(clamped, d[0]));
        assert!((value + 2.0 * 3f64.exp_m1()).abs() < 1e-13 && slope[0].abs() <= 0.0);
    }

    #[test]
    fn every_score_is_zero_and_has_its_curvature_at_a_ratio_of_one() {
        use crate::real::gradient;
        // f′(1) = 0 for each; the slope in d is f″(1): 1, and ½ for JS.
        for (divergence, slope) in [
            (FDivergence::ReverseKl, 1.0),
            (FDivergence::ForwardKl, 1.0),
            (FDivergence::JsDivergence, 0.5),
            (FDivergence::AlphaDivergence(Finite::new(0.3).expect("finite")), 1.0),
        ] {
            let (value, found) = gradient(&[0.0], |d| score_scalar(divergence, d[0]));
            assert!(value.abs() < 1e-15 && (found[0] - slope).abs() < 1e-15, "{divergence:?}");
        }
    }
}
