//! KTO on pairs, as it was before KTO took single completions.
//!
//! ```text
//! ℓ⁺ = 1 − σ(β (d⁺ − KL⁻))          ℓ⁻ = 1 − σ(β (KL⁺ − d⁻))
//! d = log π(y|x) − log π_ref(y|x)    KL± = max(0, mean over the batch of d±)
//! ```
//!
//! Where: π is `policy`, π_ref is `reference`, entries 0 and 1 of each being y⁺ (chosen) and y⁻
//! (rejected), summed over the completion; β is `beta`.
//! Paper: Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization*,
//! arXiv:2402.01306, Section 4 (λ = 1), on pairs as in early versions of TRL and in the code of
//! *SPPO*.
//! Departures: the KL is that of the batch's other half, so that examples see each other; prefer
//! [`kto`](crate::loss::kto). [`KtoPairKl::Live`] is what the SPPO repository computes: it lets the
//! gradient through the KL, which the paper does not.
//! Detached: `reference`, both KL terms with [`KtoPairKl::Detached`], and the result's KLs and rewards.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{KtoPairLoss, kto_pair};

/// Whether the KL terms are learned through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KtoPairKl {
    /// They are not: the paper's.
    Detached,
    /// They are: the SPPO repository's.
    Live,
}

/// Numbers of [`kto_pair`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KtoPairConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// Whether the KL terms are learned through.
    pub kl: KtoPairKl,
}

impl KtoPairConfig {
    /// With detached KL terms.
    pub fn new(beta: Beta) -> Self {
        Self { beta, kl: KtoPairKl::Detached }
    }
}

/// A batch's losses, `[ℓ⁺, ℓ⁻]` of each pair: the definition of [`kto_pair`].
///
/// ```
/// use rlhf_core::loss::kto_pair::{KtoPairConfig, kto_pair_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Log-ratios 3 and 1, which are their own batch's KL: 1 − σ(½ (3 − 1)) for both.
/// let config = KtoPairConfig::new(Beta::new(0.5)?);
/// let loss = kto_pair_scalar(config, &[[-7.0, -9.0f64]], &[[-10.0, -10.0]]);
/// let expected = 1.0 / (1.0 + 1f64.exp());
/// assert!((loss[0][0] - expected).abs() < 1e-15 && (loss[0][1] - expected).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On slices of different lengths.
pub fn kto_pair_scalar<R: Real>(
    config: KtoPairConfig,
    policy: &[[R; 2]],
    reference: &[[f64; 2]],
) -> Vec<[R; 2]> {
    assert_eq!(policy.len(), reference.len(), "kto_pair: policy and reference differ in length");
    let ratios: Vec<[R; 2]> = policy.iter().zip(reference).map(|(p, q)| [p[0] - q[0], p[1] - q[1]]).collect();
    let kl = |side: usize| {
        let mean = ratios.iter().map(|d| d[side]).sum::<R>() / ratios.len() as f64;
        let kl = mean.clamp(0.0, f64::INFINITY);
        match config.kl {
            KtoPairKl::Detached => kl.detached(),
            KtoPairKl::Live => kl,
        }
    };
    let (chosen_kl, rejected_kl) = (kl(0), kl(1));
    let beta = config.beta.get();
    // 1 − σ(x) = σ(−x) with the digits of a small loss.
    let one = |d: &[R; 2]| [((rejected_kl - d[0]) * beta).sigmoid(), ((d[1] - chosen_kl) * beta).sigmoid()];
    ratios.iter().map(one).collect()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::{KtoPairConfig, KtoPairKl};
    use crate::elementwise::sigmoid;
    use crate::pair::log_ratios;

    /// What [`kto_pair`] gives.
    #[derive(Debug, Clone)]
    pub struct KtoPairLoss {
        /// `[B]`: ℓ⁺.
        pub chosen: Tensor<1>,
        /// `[B]`: ℓ⁻.
        pub rejected: Tensor<1>,
        /// `[1]`: KL⁺, in nats. Detached.
        pub chosen_kl: Tensor<1>,
        /// `[1]`: KL⁻, in nats. Detached.
        pub rejected_kl: Tensor<1>,
        /// `[B]`: β times the chosen log-ratio, in nats. Detached.
        pub chosen_reward: Tensor<1>,
        /// `[B]`: β times the rejected log-ratio, in nats. Detached.
        pub rejected_reward: Tensor<1>,
    }

    /// The losses of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn kto_pair(config: KtoPairConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> KtoPairLoss {
        let [chosen, rejected] = log_ratios("kto_pair", policy, reference);
        let beta = config.beta.get();
        let kl = |d: &Tensor<1>| {
            let kl = d.clone().mean().clamp_min(0.0);
            match config.kl {
                KtoPairKl::Detached => kl.detach(),
                KtoPairKl::Live => kl,
            }
        };
        let (chosen_kl, rejected_kl) = (kl(&chosen), kl(&rejected));
        let rows = chosen.dims();
        KtoPairLoss {
            chosen: sigmoid((rejected_kl.clone().expand(rows) - chosen.clone()).mul_scalar(beta)),
            rejected: sigmoid((rejected.clone() - chosen_kl.clone().expand(rows)).mul_scalar(beta)),
            chosen_kl: chosen_kl.detach(),
            rejected_kl: rejected_kl.detach(),
            chosen_reward: chosen.detach().mul_scalar(beta),
            rejected_reward: rejected.detach().mul_scalar(beta),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::{Dual, gradient};

    fn config(kl: KtoPairKl) -> KtoPairConfig {
        KtoPairConfig { kl, ..KtoPairConfig::new(Beta::new(1.0).expect("positive")) }
    }

    fn sigma(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// Both losses of one pair with log-ratios `d`, and the slopes of their sum.
    fn one_pair(kl: KtoPairKl, d: [f64; 2]) -> (f64, Vec<f64>) {
        let sum = |x: &[Dual]| kto_pair_scalar(config(kl), &[[x[0], x[1]]], &[[0.0; 2]])[0].into_iter().sum();
        gradient(&d, sum)
    }

    #[test]
    fn a_kl_is_never_below_zero() {
        let loss = kto_pair_scalar(config(KtoPairKl::Detached), &[[-1.0, -3.0], [0.5, 1.0]], &[[0.0; 2]; 2]);
        // Both means are negative: KL⁺ = KL⁻ = 0.
        let expected = [[sigma(1.0), sigma(-3.0)], [sigma(-0.5), sigma(1.0)]];
        for (found, expected) in loss.as_flattened().iter().zip(expected.as_flattened()) {
            assert!((found - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn a_live_kl_doubles_the_pull_on_a_single_pair() {
        // ℓ⁺ = ℓ⁻ = σ(d⁻ − d⁺) there; σ′ = σ(2) σ(−2). Detached, each loss moves its own side alone.
        let slope = sigma(2.0) * sigma(-2.0);
        for (kl, factor) in [(KtoPairKl::Detached, 1.0), (KtoPairKl::Live, 2.0)] {
            let (loss, found) = one_pair(kl, [3.0, 1.0]);
            assert!((loss - 2.0 * sigma(-2.0)).abs() < 1e-15);
            assert!((found[0] + factor * slope).abs() < 1e-15 && (found[1] - factor * slope).abs() < 1e-15);
        }
    }
}
