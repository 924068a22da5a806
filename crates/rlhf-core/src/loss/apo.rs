//! Anchored preference optimisation: towards better answers than the model's own, or away from
//! worse ones.
//!
//! ```text
//! zero:  ℓ = σ(−r⁺) + σ(r⁻)                  r = β [log π(y|x) − log π_ref(y|x)]
//! down:  ℓ = σ(r⁺) + σ(r⁻ − r⁺)
//! ```
//!
//! Where: r⁺ and r⁻ are the rewards of entries 0 and 1 of `policy` and `reference`, β is `beta`.
//! [`apo_zero`] is for chosen completions that are better than what the model writes, [`apo_down`]
//! for chosen ones that are worse.
//! Paper: D'Oosterlinck et al., *Anchored Preference Optimization and Contrastive Revisions*,
//! arXiv:2408.06266, Eq. 7 (zero) and Eq. 8 (down).
//! Departures: a constant of 1 is added, as in TRL; it keeps the loss above 0 and has no gradient.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::Beta;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{apo_down, apo_zero};

/// Numbers of [`apo_zero`] and [`apo_down`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApoConfig {
    /// β: the reward of one nat of log-ratio.
    pub beta: Beta,
}

/// One pair's loss: the definition of [`apo_zero`].
///
/// ```
/// use rlhf_core::loss::apo::{ApoConfig, apo_zero_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Rewards ± log 3: ¼ + ¼.
/// let config = ApoConfig { beta: Beta::new(1.0)? };
/// let loss = apo_zero_scalar(config, [3f64.ln(), -3f64.ln()], [0.0; 2]);
/// assert!((loss - 0.5).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn apo_zero_scalar<R: Real>(config: ApoConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let [chosen, rejected] = rewards(config, policy, reference);
    (-chosen).sigmoid() + rejected.sigmoid()
}

/// One pair's loss: the definition of [`apo_down`].
///
/// ```
/// use rlhf_core::loss::apo::{ApoConfig, apo_down_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Rewards ± log 3: ¾ + 1/(1 + 9).
/// let config = ApoConfig { beta: Beta::new(1.0)? };
/// let loss = apo_down_scalar(config, [3f64.ln(), -3f64.ln()], [0.0; 2]);
/// assert!((loss - 0.85).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn apo_down_scalar<R: Real>(config: ApoConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let [chosen, rejected] = rewards(config, policy, reference);
    chosen.sigmoid() + (rejected - chosen).sigmoid()
}

fn rewards<R: Real>(config: ApoConfig, policy: [R; 2], reference: [f64; 2]) -> [R; 2] {
    [0, 1].map(|i| (policy[i] - reference[i]) * config.beta.get())
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::ApoConfig;
    use crate::elementwise::sigmoid;
    use crate::pair::{PairLoss, log_ratios};

    /// The loss of each pair, both completions drawn away from the reference.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn apo_zero(config: ApoConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let beta = config.beta.get();
        let ratios = log_ratios("apo_zero", policy, reference);
        let [chosen, rejected] = ratios.clone().map(|d| d.mul_scalar(beta));
        PairLoss::new(sigmoid(chosen.neg()) + sigmoid(rejected), beta, ratios)
    }

    /// The loss of each pair, both completions made less likely, the rejected one more so.
    ///
    /// # Shapes
    /// As [`apo_zero`].
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn apo_down(config: ApoConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let beta = config.beta.get();
        let ratios = log_ratios("apo_down", policy, reference);
        let [chosen, rejected] = ratios.clone().map(|d| d.mul_scalar(beta));
        PairLoss::new(sigmoid(chosen.clone()) + sigmoid(rejected - chosen), beta, ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config() -> ApoConfig {
        ApoConfig { beta: Beta::new(2.0).expect("positive") }
    }

    #[test]
    fn a_policy_that_is_its_reference_is_pulled_as_the_names_say() {
        // σ′(0) = ¼, times β = 2. Zero: up and down alike; down: the chosen one's ¼ − ¼ cancel.
        let at = [-4.0, -6.0];
        let zero = gradient(&at, |p| apo_zero_scalar(config(), [p[0], p[1]], at));
        let down = gradient(&at, |p| apo_down_scalar(config(), [p[0], p[1]], at));
        assert!((zero.0 - 1.0).abs() < 1e-15 && (down.0 - 1.0).abs() < 1e-15);
        assert!((zero.1[0] + 0.5).abs() < 1e-15 && (zero.1[1] - 0.5).abs() < 1e-15);
        assert!(down.1[0].abs() < 1e-15 && (down.1[1] - 0.5).abs() < 1e-15);
    }

    #[test]
    fn down_lowers_the_chosen_completion_once_the_gap_is_wide() {
        // r⁻ = −20: the gap is settled, σ(r⁺) alone is left at r⁺ = 0.
        let (_, slope) = gradient(&[0.0, -10.0], |p| apo_down_scalar(config(), [p[0], p[1]], [0.0; 2]));
        assert!((slope[0] - 0.5).abs() < 1e-8);
    }
}
