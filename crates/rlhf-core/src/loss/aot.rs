//! Alignment by optimal transport: one sorted sample is asked to dominate the other.
//!
//! ```text
//! paired:    Δᵢ = sort(log π(y⁺|x) − log π(y⁻|x))ᵢ − sort(log π_ref(y⁺|x) − log π_ref(y⁻|x))ᵢ
//! unpaired:  Δᵢ = sort(d⁺)ᵢ − sort(d⁻)ᵢ                      d = log π(y|x) − log π_ref(y|x)
//! ℓᵢ = −(1 − ε) log σ(β Δᵢ) − ε log σ(−β Δᵢ)
//! ```
//!
//! Where: y⁺ and y⁻ are entries 0 and 1 of `policy` (π) and `reference` (π_ref), each sort is
//! ascending over the batch, β is `beta`, ε is `label_smoothing`. Row i of the loss belongs to the
//! i-th smallest of both samples, not to pair i.
//! Paper: Melnyk et al., *Distributional Preference Alignment of LLMs via Optimal Transport*,
//! arXiv:2406.05882, in words: its paired and unpaired AOT with the logistic violation.
//! Departures: sorting is exact, none of it smoothed; the gradient goes through the sort to where
//! each number came from. ε is TRL's.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Prob};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{aot, aot_unpaired};

/// Numbers of [`aot`] and [`aot_unpaired`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AotConfig {
    /// β: how sharply a violation of the order counts.
    pub beta: Beta,
    /// ε: the share of labels that are taken to be the wrong way round.
    pub label_smoothing: Prob,
}

impl AotConfig {
    /// No smoothing: the paper's loss.
    pub fn new(beta: Beta) -> Self {
        Self { beta, label_smoothing: Prob::ZERO }
    }
}

/// The losses of a batch of pairs, in ascending order of both margins: the definition of [`aot`].
///
/// # Panics
/// On empty samples or samples of different lengths.
///
/// ```
/// use rlhf_core::loss::aot::{AotConfig, aot_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Margins 2 and −1 of the policy, 0 and 2 of the reference; sorted they differ by −1 and 0.
/// let config = AotConfig::new(Beta::new(1.0)?);
/// let loss = aot_scalar(config, [&[3.0, 0.0f64], &[1.0, 1.0]], [&[0.0, 2.0], &[0.0, 0.0]]);
/// assert!((loss[0] - 1f64.exp().ln_1p()).abs() < 1e-15 && (loss[1] - 2f64.ln()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn aot_scalar<R: Real>(config: AotConfig, policy: [&[R]; 2], reference: [&[f64]; 2]) -> Vec<R> {
    let n = sample_length("aot", policy, reference);
    let model = sorted((0..n).map(|i| policy[0][i] - policy[1][i]).collect());
    let anchor = sorted((0..n).map(|i| R::from(reference[0][i] - reference[1][i])).collect());
    violations(config, &model, &anchor)
}

/// The losses of a batch of chosen and rejected completions of any prompts, in ascending order of
/// both log-ratios: the definition of [`aot_unpaired`].
///
/// # Panics
/// On empty samples or samples of different lengths.
#[track_caller]
pub fn aot_unpaired_scalar<R: Real>(config: AotConfig, policy: [&[R]; 2], reference: [&[f64]; 2]) -> Vec<R> {
    let n = sample_length("aot_unpaired", policy, reference);
    let [chosen, rejected] =
        [0, 1].map(|k| sorted((0..n).map(|i| policy[k][i] - reference[k][i]).collect::<Vec<R>>()));
    violations(config, &chosen, &rejected)
}

#[track_caller]
fn sample_length<R>(name: &str, policy: [&[R]; 2], reference: [&[f64]; 2]) -> usize {
    let n = policy[0].len();
    let all = [n, policy[1].len(), reference[0].len(), reference[1].len()];
    assert!(all.iter().all(|m| *m == n), "{name}: expected four samples of one length, found {all:?}");
    assert!(n > 0, "{name}: expected samples of at least one completion, found empty ones");
    n
}

fn sorted<R: Real>(mut sample: Vec<R>) -> Vec<R> {
    sample.sort_by(|a, b| a.value().total_cmp(&b.value()));
    sample
}

fn violations<R: Real>(config: AotConfig, above: &[R], below: &[R]) -> Vec<R> {
    let eps = config.label_smoothing.get();
    let loss = |(a, b): (&R, &R)| {
        let x = (*a - *b) * config.beta.get();
        (-x).softplus() * (1.0 - eps) + x.softplus() * eps
    };
    above.iter().zip(below).map(loss).collect()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::AotConfig;
    use crate::elementwise::softplus;
    use crate::pair::{PairLoss, log_ratios};

    /// The loss of each pair of order statistics; the rewards stay in the order of the batch.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn aot(config: AotConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("aot", policy.clone(), reference.clone());
        let ([chosen, rejected], [ref_chosen, ref_rejected]) = (policy, reference);
        let anchor = (ref_chosen - ref_rejected).detach();
        let loss = violations(config, (chosen - rejected).sort(0), anchor.sort(0));
        PairLoss::new(loss, config.beta.get(), ratios)
    }

    /// The loss of each pair of order statistics, chosen and rejected completions of any prompts;
    /// the rewards stay in the order of the batch.
    ///
    /// # Shapes
    /// As [`aot`].
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn aot_unpaired(config: AotConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("aot_unpaired", policy, reference);
        let [chosen, rejected] = ratios.clone();
        let loss = violations(config, chosen.sort(0), rejected.sort(0));
        PairLoss::new(loss, config.beta.get(), ratios)
    }

    fn violations(config: AotConfig, above: Tensor<1>, below: Tensor<1>) -> Tensor<1> {
        let x = (above - below).mul_scalar(config.beta.get());
        let eps = config.label_smoothing.get();
        let right = softplus(x.clone().neg()).mul_scalar(1.0 - eps);
        if eps > 0.0 { right + softplus(x).mul_scalar(eps) } else { right }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::{Dual, gradient};

    fn config(eps: f64) -> AotConfig {
        let label_smoothing = Prob::new(eps).expect("a probability");
        AotConfig { label_smoothing, ..AotConfig::new(Beta::new(1.0).expect("positive")) }
    }

    #[test]
    fn pairing_does_not_matter_unpaired() {
        let chosen = [1.0, -2.0, 0.5];
        let none = [0.0; 3];
        let of = |rejected: [f64; 3]| aot_unpaired_scalar(config(0.1), [&chosen, &rejected], [&none, &none]);
        for (a, b) in of([4.0, 0.0, -1.0]).into_iter().zip(of([-1.0, 4.0, 0.0])) {
            assert!((a - b).abs() <= 0.0);
        }
    }

    #[test]
    fn the_gradient_finds_its_way_back_through_the_sort() {
        // Chosen 3 and 1, rejected 0 and 2: sorted 1 − 0 and 3 − 2, each −σ(−1) on the chosen.
        let pull = 1.0 / (1.0 + 1f64.exp());
        let run = |p: &[Dual]| {
            let loss = aot_unpaired_scalar(config(0.0), [&p[..2], &p[2..]], [&[0.0; 2], &[0.0; 2]]);
            // The first of the sorted losses: chosen 1 and rejected 0.
            loss[0]
        };
        let (_, slope) = gradient(&[3.0, 1.0, 0.0, 2.0], run);
        for (found, expected) in slope.into_iter().zip([0.0, -pull, pull, 0.0]) {
            assert!((found - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn smoothing_costs_its_share_of_the_margin() {
        // softplus(x) − softplus(−x) = x: a pair with Δ = 3 costs 3ε more.
        let at = |eps| aot_scalar(config(eps), [&[3.0], &[0.0]], [&[0.0], &[0.0]])[0];
        assert!((at(0.2) - at(0.0) - 0.6).abs() < 1e-15);
    }

    #[test]
    #[should_panic(expected = "aot: expected four samples of one length, found [2, 2, 2, 1]")]
    fn samples_of_two_lengths() {
        let _ = aot_scalar(config(0.0), [&[0.0; 2], &[0.0; 2]], [&[0.0; 2], &[0.0]]);
    }

    #[test]
    #[should_panic(expected = "aot_unpaired: expected samples of at least one completion, found empty ones")]
    fn empty_samples() {
        let _ = aot_unpaired_scalar::<f64>(config(0.0), [&[], &[]], [&[], &[]]);
    }
}
