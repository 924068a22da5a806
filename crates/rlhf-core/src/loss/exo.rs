//! Efficient exact optimisation on pairs (EXO-pref): the reverse KL between two pairs of odds.
//!
//! ```text
//! ℓ = q [log q − log(1 − ε)] + (1 − q) [log(1 − q) − log ε]          q = σ(β Δ), Δ = s⁺ − s⁻
//! ```
//!
//! Where: s⁺ and s⁻ are the scores ([`pair`](crate::pair)) of entries 0 and 1 of `policy` and
//! `reference` under `f_divergence`, β is `beta`, ε is `label_smoothing`; q is how likely the policy
//! holds the chosen one to be the better, 1 − ε how likely the labels do.
//! Paper: Ji et al., *Towards Efficient Exact Optimization of Language Model Alignment*,
//! arXiv:2402.00856, Eq. 16, for K = 2.
//! Departures: none for the reverse KL; other divergences are TRL's.
//! Detached: `reference`, and both rewards of the result.

use serde::{Deserialize, Serialize};

use crate::number::{Beta, OpenProb};
use crate::pair::{FDivergence, score_scalar};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::exo;

/// Numbers of [`exo`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExoConfig {
    /// β: the pull to the reference.
    pub beta: Beta,
    /// ε: the odds that the label gives the rejected one. At 0 the loss would be infinite; TRL 0.24
    /// puts 0.001 in its place.
    pub label_smoothing: OpenProb,
    /// The divergence that holds the policy to the reference.
    pub f_divergence: FDivergence,
}

impl ExoConfig {
    /// Reverse KL: Eq. 16.
    pub fn new(beta: Beta, label_smoothing: OpenProb) -> Self {
        Self { beta, label_smoothing, f_divergence: FDivergence::ReverseKl }
    }
}

/// One pair's loss: the definition of [`exo`]. It is 0 where β Δ = log((1 − ε)/ε), and never more
/// than log(1/ε) where ε is below a half.
///
/// ```
/// use rlhf_core::loss::exo::{ExoConfig, exo_scalar};
/// use rlhf_core::number::{Beta, OpenProb};
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Undecided, q = ½, against labels of ¾: ½ log(½ / ¾) + ½ log(½ / ¼) = ½ log(4/3).
/// let config = ExoConfig::new(Beta::new(0.1)?, OpenProb::new(0.25)?);
/// let loss = exo_scalar(config, [-3.0, -5.0f64], [-3.0, -5.0]);
/// assert!((loss - 0.14384103622589045).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn exo_scalar<R: Real>(config: ExoConfig, policy: [R; 2], reference: [f64; 2]) -> R {
    let score = |i: usize| score_scalar(config.f_divergence, policy[i] - reference[i]);
    let x = (score(0) - score(1)) * config.beta.get();
    let [p_chosen, p_rejected] = log_labels(config);
    // q log q is 0 far out on either side: the log of a sigmoid is a line there, q falls as e^−|x|.
    x.sigmoid() * (x.log_sigmoid() - p_chosen) + (-x).sigmoid() * ((-x).log_sigmoid() - p_rejected)
}

/// log(1 − ε) and log ε.
fn log_labels(config: ExoConfig) -> [f64; 2] {
    let eps = config.label_smoothing.get();
    [(-eps).ln_1p(), eps.ln()]
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::{ExoConfig, log_labels};
    use crate::elementwise::{log_sigmoid, sigmoid};
    use crate::pair::{PairLoss, log_ratios, scores};

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn exo(config: ExoConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> PairLoss {
        let ratios = log_ratios("exo", policy, reference);
        let [chosen, rejected] = scores(config.f_divergence, ratios.clone());
        let x = (chosen - rejected).mul_scalar(config.beta.get());
        let [p_chosen, p_rejected] = log_labels(config);
        let side = |x: Tensor<1>, p: f64| sigmoid(x.clone()) * log_sigmoid(x).sub_scalar(p);
        let loss = side(x.clone(), p_chosen) + side(x.neg(), p_rejected);
        PairLoss::new(loss, config.beta.get(), ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    fn config(beta: f64, eps: f64) -> ExoConfig {
        ExoConfig::new(Beta::new(beta).expect("positive"), OpenProb::new(eps).expect("inside"))
    }

    #[test]
    fn it_is_least_where_the_odds_agree() {
        // q = σ(log 9) = 0.9 = 1 − ε.
        let (loss, slope) =
            gradient(&[9f64.ln() / 0.5, 0.0], |p| exo_scalar(config(0.5, 0.1), [p[0], p[1]], [0.0; 2]));
        assert!(loss.abs() < 1e-15 && slope.iter().all(|g| g.abs() < 1e-15), "{loss} {slope:?}");
    }

    #[test]
    fn a_sure_policy_costs_the_log_of_the_labels() {
        for (delta, expected) in [(5e3, -0.99f64.ln()), (-5e3, -0.01f64.ln())] {
            let (loss, slope) =
                gradient(&[delta, 0.0], |p| exo_scalar(config(1.0, 0.01), [p[0], p[1]], [0.0; 2]));
            assert!((loss - expected).abs() < 1e-15 && slope.iter().all(|g| g.abs() <= 0.0), "{loss}");
        }
    }

    #[test]
    fn swapping_pair_and_labels_changes_nothing() {
        let at = |eps, delta| exo_scalar(config(0.5, eps), [delta, 0.0], [0.0, 0.0]);
        assert!((at(0.2, 3.0) - at(0.8, -3.0)).abs() < 1e-15);
        // 0.18 log(0.18 / 0.8) + 0.82 log(0.82 / 0.2) is about 0.88 where the pair alone is swapped.
        assert!(at(0.2, 3.0) < 0.01 && at(0.2, -3.0) > 0.8);
    }
}
