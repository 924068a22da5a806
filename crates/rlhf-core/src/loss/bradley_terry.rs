//! Bradley–Terry loss of a reward model on a preference pair.
//!
//! ```text
//! ℓ = −log σ(r⁺ − r⁻ − m) + c (r⁺ + r⁻)²
//! ```
//!
//! Where: r⁺ and r⁻ are entries 0 and 1 of `rewards` (chosen, rejected), m is `margin`, c is
//! `center_rewards_coefficient`.
//! Paper: Ouyang et al., *Training language models to follow instructions with human feedback*,
//! arXiv:2203.02155, Eq. 1; m from Touvron et al., *Llama 2*, arXiv:2307.09288, Eq. 2; c from
//! Eisenstein et al., *Helping or Herding?*, arXiv:2312.09244, Eq. 2.
//! Departures: one number a pair; the K completions of a prompt are not averaged here.
//! Detached: `margin`, and `gap` of the result.

use serde::{Deserialize, Serialize};

use crate::number::Weight;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{BradleyTerryLoss, bradley_terry};

/// The optional terms of the loss. The default has none: the plain loss of Eq. 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BradleyTerryConfig {
    /// c: how strongly a pair's rewards are drawn to a sum of zero. 0 is off; 0.01 in the paper.
    pub center_rewards_coefficient: Weight,
}

impl Default for BradleyTerryConfig {
    fn default() -> Self {
        Self { center_rewards_coefficient: Weight::ZERO }
    }
}

/// One pair's loss: the definition of [`bradley_terry`]. Equal rewards cost log 2.
///
/// ```
/// use rlhf_core::loss::bradley_terry::bradley_terry_scalar;
///
/// // The wrong way round by 2: log(1 + e²).
/// let loss = bradley_terry_scalar(Default::default(), [0.0, 2.0f64], 0.0);
/// assert!((loss - 2.1269280110429727).abs() < 1e-15);
/// ```
pub fn bradley_terry_scalar<R: Real>(config: BradleyTerryConfig, rewards: [R; 2], margin: f64) -> R {
    let [chosen, rejected] = rewards;
    let centre = (chosen + rejected).square() * config.center_rewards_coefficient.get();
    (-(chosen - rejected - margin)).softplus() + centre
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;
    use burn::tensor::activation::softplus;

    use super::BradleyTerryConfig;
    use crate::shape::{filled, same};

    /// What [`bradley_terry`] gives.
    #[derive(Debug, Clone)]
    pub struct BradleyTerryLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: chosen reward less rejected reward; above 0 where the model agrees. Detached.
        pub gap: Tensor<1>,
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Both `rewards` (chosen, rejected), `margin` and each field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn bradley_terry(
        config: BradleyTerryConfig,
        rewards: [Tensor<1>; 2],
        margin: Option<Tensor<1>>,
    ) -> BradleyTerryLoss {
        let [chosen, rejected] = rewards;
        filled("bradley_terry", "chosen", chosen.dims());
        same("bradley_terry", "rejected", rejected.dims(), chosen.dims());
        let gap = chosen.clone() - rejected.clone();
        let beyond = match margin {
            Some(margin) => {
                same("bradley_terry", "margin", margin.dims(), chosen.dims());
                gap.clone() - margin.detach()
            }
            None => gap.clone(),
        };
        // Not `log_sigmoid`: Burn's loses the tail log1p(e^-x) above x = 17.
        let mut loss = softplus(beyond.neg(), 1.0);
        let c = config.center_rewards_coefficient.get();
        if c > 0.0 {
            loss = loss + (chosen + rejected).square().mul_scalar(c);
        }
        BradleyTerryLoss { loss, gap: gap.detach() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(chosen: f64, rejected: f64) -> f64 {
        bradley_terry_scalar(BradleyTerryConfig::default(), [chosen, rejected], 0.0)
    }

    #[test]
    fn swapping_the_pair_costs_its_gap() {
        // ℓ(−x) − ℓ(x) = x.
        for gap in [0.0, 0.5, 3.0, 40.0, 700.0] {
            let found = plain(0.0, gap) - plain(gap, 0.0);
            assert!((found - gap).abs() <= 1e-13 * gap.max(1.0), "gap {gap}: {found}");
        }
    }

    #[test]
    fn a_shift_of_both_rewards_changes_nothing() {
        assert!((plain(2.0, 1.0) - plain(102.0, 101.0)).abs() < 1e-15);
    }

    #[test]
    fn two_pairs_by_hand() {
        // {(2, 1), (0, 1)}: ½ [log(1 + e⁻¹) + log(1 + e)] = log(1 + e⁻¹) + ½.
        let mean = 0.5 * (plain(2.0, 1.0) + plain(0.0, 1.0));
        assert!((mean - ((-1f64).exp().ln_1p() + 0.5)).abs() < 1e-15);
        assert!((mean - 0.81326169).abs() < 5e-9);
    }

    #[test]
    fn both_tails_keep_their_digits() {
        assert!((plain(0.0, 400.0) - 400.0).abs() < 1e-12);
        assert!((plain(400.0, 0.0) / (-400f64).exp() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn centring_counts_the_sum_and_the_margin_moves_the_gap() {
        let config = BradleyTerryConfig { center_rewards_coefficient: Weight::new(0.5).expect("a weight") };
        let expected = (-1f64).exp().ln_1p() + 0.5 * 9.0;
        assert!((bradley_terry_scalar(config, [2.0, 1.0], 0.0) - expected).abs() < 1e-15);
        let moved = bradley_terry_scalar(BradleyTerryConfig::default(), [2.0, 1.0], 1.0);
        assert!((moved - std::f64::consts::LN_2).abs() < 1e-15);
    }
}
