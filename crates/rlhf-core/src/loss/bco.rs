//! Binary classifier optimisation, on pairs and on single completions.
//!
//! ```text
//! chosen or desirable:      ℓ = −log σ(r − δ)             r = β [log π(y|x) − log π_ref(y|x)]
//! rejected or undesirable:  ℓ = −w log σ(δ − r)           w = clip(p / (1 − p), w_min, w_max)
//! a pair:                   ℓ = −log σ(r⁺ − δ) − log σ(δ − r⁻)
//! ```
//!
//! Where: π is `policy`, π_ref is `reference`, β is `beta`; δ is `shift`, the running mean of all
//! rewards with this batch's ([`RunningMoments`]); p is the probability that the prompt comes from
//! the desirable examples, w is its [`density_ratio`], 1 where prompts do not differ.
//! Paper: Jung et al., *Binary Classifier Optimization for Large Language Model Alignment*,
//! arXiv:2404.04656, in words: its loss with a reward shift, and its density ratio for prompts that
//! differ between the labels.
//! Departures: w multiplies the losses where they are reduced: `(bco(..).loss * density_ratio(..))`.
//! TRL's w has 1 − p + 10⁻⁸ below, which only p within 10⁻⁸ of 1 would show. TRL's `bco_pair` has
//! δ = 0.
//! Detached: `reference`, δ, w, and the rewards of the results.

use serde::{Deserialize, Serialize};

use crate::loss::kto::Label;
use crate::number::{Beta, Positive, Weight};
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{bco, bco_pair, density_ratio};

/// Numbers of [`bco`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BcoConfig {
    /// β: the reward of one nat of log-ratio.
    pub beta: Beta,
}

/// Numbers of [`bco_pair`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BcoPairConfig {
    /// β: the reward of one nat of log-ratio.
    pub beta: Beta,
}

/// The range of [`density_ratio`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DensityRatioConfig {
    /// w_min; 0.5 in TRL.
    pub min_density_ratio: Weight,
    /// w_max, which wins over w_min; 10 in TRL.
    pub max_density_ratio: Positive,
}

/// Mean and spread of a stream of numbers that comes in batches: δ is the mean of the rewards.
///
/// ```
/// use rlhf_core::loss::bco::RunningMoments;
///
/// let mut moments = RunningMoments::default();
/// moments.update(&[1.0, 3.0]);
/// moments.update(&[8.0]);
/// assert_eq!(moments.mean, 4.0);
/// assert_eq!(moments.std(), 13f64.sqrt()); // (9 + 1 + 16) / 2
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningMoments {
    /// How many numbers there were.
    pub count: u64,
    /// Their mean; 0 before the first.
    pub mean: f64,
    /// Sum of their squared distances from the mean.
    pub squares: f64,
}

impl RunningMoments {
    /// Takes a batch in; an empty one changes nothing.
    pub fn update(&mut self, batch: &[f64]) {
        if batch.is_empty() {
            return;
        }
        let (n, before) = (batch.len() as f64, self.count as f64);
        let mean = batch.iter().sum::<f64>() / n;
        let squares = batch.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
        let gap = mean - self.mean;
        self.count += batch.len() as u64;
        self.mean += gap * n / (before + n);
        self.squares += squares + gap * gap * before * n / (before + n);
    }

    /// Standard deviation with n − 1 below; NaN of fewer than two numbers.
    pub fn std(&self) -> f64 {
        if self.count < 2 { f64::NAN } else { (self.squares / (self.count - 1) as f64).sqrt() }
    }
}

/// One completion's loss: the definition of [`bco`].
///
/// ```
/// use rlhf_core::loss::bco::{BcoConfig, bco_scalar};
/// use rlhf_core::loss::kto::Label;
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // The reward is log 3 above δ = 2: −log ¾ if it should be, −log ¼ if not.
/// let config = BcoConfig { beta: Beta::new(1.0)? };
/// let of = |label| bco_scalar(config, 3f64.ln() - 4.0, -6.0, label, 2.0);
/// assert!((of(Label::Desirable) + 0.75f64.ln()).abs() < 1e-15);
/// assert!((of(Label::Undesirable) + 0.25f64.ln()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn bco_scalar<R: Real>(config: BcoConfig, policy: R, reference: f64, label: Label, shift: f64) -> R {
    let x = (policy - reference) * config.beta.get() - shift;
    match label {
        Label::Desirable => (-x).softplus(),
        Label::Undesirable => x.softplus(),
    }
}

/// One pair's loss: the definition of [`bco_pair`].
///
/// ```
/// use rlhf_core::loss::bco::{BcoPairConfig, bco_pair_scalar};
/// use rlhf_core::number::Beta;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Rewards 1 ± log 3 around δ = 1: −2 log ¾.
/// let config = BcoPairConfig { beta: Beta::new(1.0)? };
/// let loss = bco_pair_scalar(config, [1.0 + 3f64.ln(), 1.0 - 3f64.ln()], [0.0; 2], 1.0);
/// assert!((loss + 2.0 * 0.75f64.ln()).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn bco_pair_scalar<R: Real>(config: BcoPairConfig, policy: [R; 2], reference: [f64; 2], shift: f64) -> R {
    let single = BcoConfig { beta: config.beta };
    bco_scalar(single, policy[0], reference[0], Label::Desirable, shift)
        + bco_scalar(single, policy[1], reference[1], Label::Undesirable, shift)
}

/// The weight of one completion, 1 for a desirable one: the definition of [`density_ratio`].
pub fn density_ratio_scalar(config: DensityRatioConfig, desirable_prob: f64, label: Label) -> f64 {
    let (low, high) = (config.min_density_ratio.get(), config.max_density_ratio.get());
    let ratio = desirable_prob / (1.0 - desirable_prob);
    match label {
        Label::Desirable => 1.0,
        // Comparisons that NaN passes through.
        Label::Undesirable if ratio > high || low > high => high,
        Label::Undesirable if ratio < low => low,
        Label::Undesirable => ratio,
    }
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::{BcoConfig, BcoPairConfig, DensityRatioConfig};
    use crate::elementwise::softplus;
    use crate::loss::kto::UnpairedLoss;
    use crate::pair::{PairLoss, log_ratios};
    use crate::shape::{filled, same};

    /// The loss of each completion; one kind of them may be absent.
    ///
    /// # Shapes
    /// `policy` and `reference` (log-probabilities summed over the completion), `desirable` (`true`
    /// for thumbs up) and every field of the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn bco(
        config: BcoConfig,
        policy: Tensor<1>,
        reference: Tensor<1>,
        desirable: &Tensor<1, Bool>,
        shift: f64,
    ) -> UnpairedLoss {
        filled("bco", "policy", policy.dims());
        same("bco", "reference", reference.dims(), policy.dims());
        same("bco", "desirable", desirable.dims(), policy.dims());
        let reward = (policy - reference.detach()).mul_scalar(config.beta.get());
        let x = reward.clone().sub_scalar(shift);
        let loss = softplus(x.clone().mask_where(desirable.clone(), x.neg()));
        UnpairedLoss { loss, reward: reward.detach() }
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// Every entry of `policy` and `reference` (chosen, rejected; log-probabilities summed over the
    /// completion) and every field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn bco_pair(
        config: BcoPairConfig,
        policy: [Tensor<1>; 2],
        reference: [Tensor<1>; 2],
        shift: f64,
    ) -> PairLoss {
        let beta = config.beta.get();
        let ratios = log_ratios("bco_pair", policy, reference);
        let [chosen, rejected] = ratios.clone().map(|d| d.mul_scalar(beta).sub_scalar(shift));
        PairLoss::new(softplus(chosen.neg()) + softplus(rejected), beta, ratios)
    }

    /// The weight of each completion, 1 for the desirable ones, detached: undesirable examples count
    /// as if their prompts were drawn as the desirable ones' are.
    ///
    /// # Shapes
    /// `desirable_prob` (that a prompt comes from the desirable examples, by any classifier of
    /// prompts), `desirable` and the result are `[B]`.
    ///
    /// # Panics
    /// On an empty batch or different lengths.
    #[track_caller]
    pub fn density_ratio(
        config: DensityRatioConfig,
        desirable_prob: Tensor<1>,
        desirable: &Tensor<1, Bool>,
    ) -> Tensor<1> {
        filled("density_ratio", "desirable_prob", desirable_prob.dims());
        same("density_ratio", "desirable", desirable.dims(), desirable_prob.dims());
        let p = desirable_prob.detach();
        let ratio = p.clone() / p.neg().add_scalar(1.0);
        let held = ratio.clamp_min(config.min_density_ratio.get()).clamp_max(config.max_density_ratio.get());
        held.mask_fill(desirable.clone(), 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_of_every_reward_is_taken_back_by_the_shift() {
        let config = BcoPairConfig { beta: Beta::new(0.5).expect("positive") };
        let straight = bco_pair_scalar(config, [2.0, -1.0], [0.0; 2], 0.25);
        // Log-ratios 6 higher, rewards 3 higher.
        let moved = bco_pair_scalar(config, [8.0, 5.0], [0.0; 2], 3.25);
        assert!((straight - moved).abs() < 1e-15);
    }

    #[test]
    fn moments_do_not_depend_on_how_the_stream_is_cut() {
        let x = [0.5, -2.0, 7.0, 1.0, 1.0, -0.25, 4.0];
        let of = |cuts: &[usize]| {
            let mut moments = RunningMoments::default();
            cuts.windows(2).for_each(|w| moments.update(&x[w[0]..w[1]]));
            moments
        };
        let whole = of(&[0, 7]);
        for cuts in [&[0, 1, 7][..], &[0, 3, 3, 5, 7], &[0, 1, 2, 3, 4, 5, 6, 7]] {
            let found = of(cuts);
            assert!((found.mean - whole.mean).abs() < 1e-15 && found.count == whole.count);
            assert!((found.std() - whole.std()).abs() < 1e-14);
        }
        assert!(RunningMoments::default().std().is_nan() && of(&[0, 1]).std().is_nan());
        assert!((of(&[0, 2]).std() - 2.5 / 2f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn the_deviation_of_numbers_far_from_0_keeps_its_digits() {
        // 2⁴⁴ and the next but one, 2⁻⁷ more: twice (2⁻⁸)². As Σ x² − n μ² it would be twice that.
        let mut moments = RunningMoments::default();
        moments.update(&[2f64.powi(44), 2f64.powi(44) + 2f64.powi(-7)]);
        assert!((moments.squares - 2f64.powi(-15)).abs() <= 0.0);
    }

    #[test]
    fn the_density_ratio_is_the_odds_within_bounds() {
        let weight = |x| Weight::new(x).expect("a weight");
        let max_density_ratio = Positive::new(10.0).expect("positive");
        let config = DensityRatioConfig { min_density_ratio: weight(0.5), max_density_ratio };
        let of = |p| density_ratio_scalar(config, p, Label::Undesirable);
        // 0.75 / 0.25; below and above the bounds; certain.
        for (p, expected) in [(0.75, 3.0), (0.3, 0.5), (0.97, 10.0), (1.0, 10.0), (0.0, 0.5)] {
            assert!((of(p) - expected).abs() < 1e-14, "{p}");
        }
        assert!((density_ratio_scalar(config, 0.97, Label::Desirable) - 1.0).abs() <= 0.0);
        assert!(of(f64::NAN).is_nan());
        let crossed = DensityRatioConfig { min_density_ratio: weight(20.0), ..config };
        assert!((density_ratio_scalar(crossed, 0.5, Label::Undesirable) - 10.0).abs() <= 0.0);
    }
}
