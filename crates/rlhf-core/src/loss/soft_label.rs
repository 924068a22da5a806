//! Losses of a pair against a soft label, made of two rewards.
//!
//! ```text
//! p = σ(m)      q = σ(β Δ)      Δ = [log π(y⁺|x) − log π_ref(y⁺|x)] − [log π(y⁻|x) − log π_ref(y⁻|x)]
//! kl:           ℓ = q log(q / p) + (1 − q) log((1 − q) / (1 − p))
//! tv:           ℓ = |q − p|
//! hellinger:    ℓ = ½ (√q − √p)² + ½ (√(1 − q) − √(1 − p))²
//! rev_kl:       ℓ = −p log q − (1 − p) log(1 − q)
//! ```
//!
//! Where: π is `policy`, π_ref is `reference`, y⁺ and y⁻ are entries 0 and 1 of each, m is `margin`
//! (the reward of y⁺ less that of y⁻), β is `beta`; p and q are the label's and the policy's
//! probability that y⁺ is better.
//! Paper: Huang et al., *Can RLHF be More Efficient with Imperfect Reward Models? A Policy Coverage
//! Perspective*, arXiv:2502.19255, in words: losses of its trainer's code.
//! Departures: the code's names are kept: `kl` is KL(q ‖ p) of the two Bernoulli distributions,
//! `hellinger` the squared distance, `rev_kl` the cross-entropy, which is KL(p ‖ q) and a constant
//! that depends on p alone. Only `rev_kl` is written out where we read of it; the other three are
//! inferred, `tv` and `hellinger` from numbers that they meet to ten digits, `kl` from one that it
//! meets to 2 · 10⁻⁴: the code guards its logarithms by 10⁻³ and 0.999, ours need no guard.
//! Detached: `reference`, `margin`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::soft_label;

/// How far the policy's preference is from the label's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelDivergence {
    /// KL(q ‖ p): grows without bound where the policy believes what the label excludes.
    Kl,
    /// Total variation |q − p|.
    Tv,
    /// Squared Hellinger distance.
    Hellinger,
    /// Cross-entropy of p and q: grows without bound where the policy excludes what the label
    /// believes. At its least it is the entropy of the label.
    RevKl,
}

/// Numbers of [`soft_label`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftLabelConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// The distance from the label.
    pub divergence: LabelDivergence,
}

/// One pair's loss: the definition of [`soft_label`].
///
/// ```
/// use rlhf_core::loss::soft_label::{LabelDivergence, SoftLabelConfig, soft_label_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The label says ¾ (margin log 3), the policy ½: a total variation of ¼.
/// let config = SoftLabelConfig { beta: Beta::new(1.0)?, divergence: LabelDivergence::Tv };
/// let loss = soft_label_scalar(config, [-4.0, -6.0f64], [-4.0, -6.0], 3f64.ln());
/// assert!((loss - 0.25).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn soft_label_scalar<R: Real>(
    config: SoftLabelConfig,
    policy: [R; 2],
    reference: [f64; 2],
    margin: f64,
) -> R {
    let delta = (policy[0] - reference[0]) - (policy[1] - reference[1]);
    let (x, m) = (delta * config.beta.get(), margin);
    match config.divergence {
        LabelDivergence::Kl => {
            x.sigmoid() * (x.log_sigmoid() - m.log_sigmoid())
                + (-x).sigmoid() * ((-x).log_sigmoid() - (-m).log_sigmoid())
        }
        LabelDivergence::Tv => (x.sigmoid() - m.sigmoid()).abs(),
        // √σ(x) = exp(½ log σ(x)) has a slope at σ = 0.
        LabelDivergence::Hellinger => {
            let gap = |x: R, m: f64| (x.log_sigmoid() * 0.5).exp() - (m.log_sigmoid() * 0.5).exp();
            (gap(x, m).square() + gap(-x, -m).square()) * 0.5
        }
        LabelDivergence::RevKl => (-x).softplus() * m.sigmoid() + x.softplus() * (-m).sigmoid(),
    }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::{LabelDivergence, SoftLabelConfig};
    use crate::elementwise::{log_sigmoid, sigmoid, softplus};
    use crate::pair::{PairLoss, log_ratios};
    use crate::shape::same;

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion), `margin` and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn soft_label(
        config: SoftLabelConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        margin: Tensor<1>,
    ) -> PairLoss {
        let beta = config.beta.get();
        let ratios = log_ratios("soft_label", policy, reference);
        let [chosen, rejected] = ratios.clone();
        same("soft_label", "margin", margin.dims(), chosen.dims());
        let x = (chosen - rejected).mul_scalar(beta);
        let m = margin.detach();
        let loss = match config.divergence {
            LabelDivergence::Kl => kl_part(x.clone(), m.clone()) + kl_part(x.neg(), m.neg()),
            LabelDivergence::Tv => (sigmoid(x) - sigmoid(m)).abs(),
            LabelDivergence::Hellinger => {
                let both = root_gap(x.clone(), m.clone()).square() + root_gap(x.neg(), m.neg()).square();
                both.div_scalar(2.0)
            }
            LabelDivergence::RevKl => {
                softplus(x.clone().neg()) * sigmoid(m.clone()) + softplus(x) * sigmoid(m.neg())
            }
        };
        PairLoss::new(loss, beta, ratios)
    }

    /// σ(x) [log σ(x) − log σ(m)].
    fn kl_part(x: Tensor<1>, m: Tensor<1>) -> Tensor<1> {
        sigmoid(x.clone()) * (log_sigmoid(x) - log_sigmoid(m))
    }

    /// √σ(x) − √σ(m), with a slope at σ = 0.
    fn root_gap(x: Tensor<1>, m: Tensor<1>) -> Tensor<1> {
        let root = |x: Tensor<1>| log_sigmoid(x).div_scalar(2.0).exp();
        root(x) - root(m)
    }
}

#[cfg(test)]
mod tests {
    use super::LabelDivergence::{Hellinger, Kl, RevKl, Tv};
    use super::*;
    use crate::real::gradient;

    fn config(divergence: LabelDivergence, beta: f64) -> SoftLabelConfig {
        SoftLabelConfig { beta: Beta::new(beta).expect("positive"), divergence }
    }

    #[test]
    fn a_policy_that_agrees_costs_nothing_but_the_labels_entropy() {
        // Δ = 6 at β = ½ is a margin of 3.
        let at = |divergence| soft_label_scalar(config(divergence, 0.5), [2.0, -4.0], [0.0; 2], 3.0);
        assert!([Kl, Tv, Hellinger].into_iter().all(|d| at(d).abs() < 1e-15));
        let p = 3f64.sigmoid();
        assert!((at(RevKl) + p * p.ln() + (1.0 - p) * (1.0 - p).ln()).abs() < 1e-15);
        for divergence in [Kl, Hellinger, RevKl] {
            let of = |p: &[crate::real::Dual]| {
                soft_label_scalar(config(divergence, 0.5), [p[0], p[1]], [0.0; 2], 3.0)
            };
            assert!(gradient(&[2.0, -4.0], of).1.iter().all(|g| g.abs() < 1e-15), "{divergence:?}");
        }
    }

    #[test]
    fn swapping_the_pair_and_its_label_changes_nothing() {
        for divergence in [Kl, Tv, Hellinger, RevKl] {
            for (delta, margin) in [(0.7, -1.3), (3.0, 2.0), (-40.0, 5e3)] {
                let at = |p, m| soft_label_scalar(config(divergence, 1.0), p, [0.5, -0.25], m);
                let other = soft_label_scalar(config(divergence, 1.0), [0.0, delta], [-0.25, 0.5], -margin);
                assert!((at([delta, 0.0], margin) - other).abs() <= 1e-12 * other.abs().max(1.0));
            }
        }
    }

    #[test]
    fn by_hand() {
        // p = ¾, q = ½: ½ log ⅔ + ½ log 2, ¼, 1 − √⅜ − √⅛, log 2.
        let of = |divergence| soft_label_scalar(config(divergence, 0.1), [1.0, 1.0], [0.0; 2], 3f64.ln());
        assert!((of(Kl) - 0.5 * (4f64 / 3.0).ln()).abs() < 1e-15);
        assert!((of(Tv) - 0.25).abs() < 1e-15);
        assert!((of(Hellinger) - (1.0 - 0.375f64.sqrt() - 0.125f64.sqrt())).abs() < 1e-15);
        assert!((of(RevKl) - std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn numbers_of_the_trainer() {
        // Log-probabilities −10 and −12 against −11 and −11.5 give Δ = 1.5; β = 0.1, margin 1.
        let of = |divergence| soft_label_scalar(config(divergence, 0.1), [-10.0, -12.0], [-11.0, -11.5], 1.0);
        assert!((of(RevKl) - 0.661_298_261_0).abs() < 5e-11);
        assert!((of(Tv) - 0.193_628_733_3).abs() < 5e-11);
        assert!((of(Hellinger) - 0.020_478_564_4).abs() < 5e-11);
        // Guarded there; the exact number is q log(q/p) + (1 − q) log((1 − q)/(1 − p)).
        assert!((of(Kl) - 0.085_295_837_4).abs() < 2e-4 && (of(Kl) - 0.085_489_271_2).abs() < 5e-11);
    }
}
