//! DPO with the likelihood of the chosen completion: iterative reasoning preference optimisation.
//!
//! ```text
//! ℓ = −log σ(β Δ) − α log π(y⁺|x) / n⁺
//! Δ = [log π(y⁺|x) − log π_ref(y⁺|x)] − [log π(y⁻|x) − log π_ref(y⁻|x)]
//! ```
//!
//! Where: π is `policy`, π_ref is `reference`, y⁺ and y⁻ are entries 0 and 1 of each, n⁺ is
//! `chosen_length`, β is `beta`, α is `alpha`.
//! Paper: Pang et al., *Iterative Reasoning Preference Optimization*, arXiv:2404.19733, Eq. 1.
//! Departures: none. TRL's mix of `sigmoid` and `sft` (once `rpo_alpha`) divides the log-probability
//! of all chosen tokens of the batch by their number, so that long completions count for more; that
//! is [`cross_entropy`](crate::loss::cross_entropy) under a token mean beside
//! [`dpo`](crate::loss::dpo).
//! Detached: `reference`, `chosen_length`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::{Beta, Weight};
use crate::pair::per_length_scalar;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::rpo_nll;

/// Numbers of [`rpo_nll`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RpoNllConfig {
    /// β: the pull to the reference. 0.1 in the paper.
    pub beta: Beta,
    /// α: the weight of the likelihood. 1 in the paper.
    pub alpha: Weight,
}

/// One pair's loss: the definition of [`rpo_nll`].
///
/// ```
/// use rlhf_core::loss::rpo_nll::{RpoNllConfig, rpo_nll_scalar};
/// use rlhf_core::number::{Beta, Weight};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Δ = 4 at β = 0.1, and half of 10 nats over 5 tokens: log(1 + e⁻⁰·⁴) + 1.
/// let config = RpoNllConfig { beta: Beta::new(0.1)?, alpha: Weight::new(0.5)? };
/// let loss = rpo_nll_scalar(config, [-10.0, -14.0f64], [-12.0, -12.0], 5.0);
/// assert!((loss - 1.5130152523999526).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn rpo_nll_scalar<R: Real>(
    config: RpoNllConfig,
    policy: [R; 2],
    reference: [f64; 2],
    chosen_length: f64,
) -> R {
    let delta = (policy[0] - reference[0]) - (policy[1] - reference[1]);
    let contrast = (-delta * config.beta.get()).softplus();
    let alpha = config.alpha.get();
    // Without weight the length is not read.
    if alpha > 0.0 { contrast - per_length_scalar(policy[0], chosen_length) * alpha } else { contrast }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::RpoNllConfig;
    use crate::elementwise::softplus;
    use crate::pair::per_length;
    use crate::pair::{PairLoss, log_ratios};
    use crate::shape::same;

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion), `chosen_length` (tokens of the chosen completion, at least 1; without tokens, 0, it
    /// counts as 1; not read where α = 0) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn rpo_nll(
        config: RpoNllConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        chosen_length: Tensor<1>,
    ) -> PairLoss {
        let beta = config.beta.get();
        let logp = policy[0].clone();
        let ratios = log_ratios("rpo_nll", policy, reference);
        same("rpo_nll", "chosen_length", chosen_length.dims(), logp.dims());
        let [chosen, rejected] = ratios.clone();
        let contrast = softplus((rejected - chosen).mul_scalar(beta));
        let alpha = config.alpha.get();
        let loss =
            if alpha > 0.0 { contrast - per_length(logp, chosen_length).mul_scalar(alpha) } else { contrast };
        PairLoss::new(loss, beta, ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config(alpha: f64) -> RpoNllConfig {
        let alpha = Weight::new(alpha).expect("a weight");
        RpoNllConfig { beta: Beta::new(0.2).expect("positive"), alpha }
    }

    #[test]
    fn the_likelihood_pulls_the_chosen_completion_alone() {
        // At Δ = 0: −β/2 − α/n for the chosen, β/2 for the rejected completion.
        let at = [-6.0, -9.0];
        let (_, slope) = gradient(&at, |p| rpo_nll_scalar(config(2.0), [p[0], p[1]], at, 4.0));
        assert!((slope[0] + 0.6).abs() < 1e-15 && (slope[1] - 0.1).abs() < 1e-15);
    }

    #[test]
    fn without_its_weight_the_likelihood_counts_for_nothing() {
        let loss = rpo_nll_scalar(config(0.0), [-6.0, -9.0], [-6.0, -9.0], f64::NAN);
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
    }
}
