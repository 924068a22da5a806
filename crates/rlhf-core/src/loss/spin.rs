//! Self-Play Fine-Tuning: human completions against those of the previous iterate.
//!
//! ```text
//! ℓ = −log σ(λ Δ)          Δ = [log π(y|x) − log π_t(y|x)] − [log π(y′|x) − log π_t(y′|x)]
//! ```
//!
//! Where: π is `policy`, π_t is `previous`, both summed over the completion; entry 0 of each is y, the
//! completion of the data, entry 1 is y′, drawn from π_t; λ is `lambda`.
//! Paper: Chen et al., *Self-Play Fine-Tuning Converts Weak Language Models to Strong Language
//! Models*, arXiv:2401.01335, Eq. 4.7, with the logistic ℓ(t) = log(1 + e⁻ᵗ).
//! Departures: none.
//! Detached: `previous`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::spin;

/// Numbers of [`spin`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpinConfig {
    /// λ: the pull to the previous iterate; DPO's β.
    pub lambda: Beta,
}

/// One pair's loss: the definition of [`spin`].
///
/// ```
/// use rlhf_core::loss::spin::{SpinConfig, spin_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The data's log-ratio is 2, the generated one's −2: log(1 + e⁻²) at λ = ½.
/// let config = SpinConfig { lambda: Beta::new(0.5)? };
/// let loss = spin_scalar(config, [-10.0, -14.0f64], [-12.0, -12.0]);
/// assert!((loss - (-2f64).exp().ln_1p()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn spin_scalar<R: Real>(config: SpinConfig, policy: [R; 2], previous: [f64; 2]) -> R {
    let ratio = |i: usize| policy[i] - previous[i];
    -((ratio(0) - ratio(1)) * config.lambda.get()).log_sigmoid()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::SpinConfig;
    use crate::elementwise::log_sigmoid;
    use crate::pair::{PairLoss, log_ratios};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `previous` (data, generated; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn spin(config: SpinConfig, policy: [Tensor<1>; 2], previous: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("spin", policy, previous);
        let [data, generated] = ratios.clone();
        let lambda = config.lambda.get();
        PairLoss::new(log_sigmoid((data - generated).mul_scalar(lambda)).neg(), lambda, ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::dpo::{DpoConfig, dpo_scalar};

    fn config(lambda: f64) -> SpinConfig {
        SpinConfig { lambda: Beta::new(lambda).expect("positive") }
    }

    #[test]
    fn swapping_the_pair_costs_its_margin() {
        // ℓ(−x) − ℓ(x) = x.
        for delta in [0.0, 0.5, 40.0, 5e3] {
            let at = |d: f64| spin_scalar(config(0.5), [d, 0.0], [0.0, 0.0]);
            assert!((at(-delta) - at(delta) - 0.5 * delta).abs() <= 1e-13 * delta.max(1.0));
        }
    }

    #[test]
    fn it_is_dpo_with_the_data_chosen_and_the_previous_iterate_as_reference() {
        let dpo = DpoConfig::new(Beta::new(0.3).expect("positive"));
        let (policy, previous) = ([-4.0, -9.0], [-6.5, -5.0]);
        let difference = spin_scalar(config(0.3), policy, previous) - dpo_scalar(dpo, policy, previous);
        assert!(difference.abs() < 1e-15);
    }
}
