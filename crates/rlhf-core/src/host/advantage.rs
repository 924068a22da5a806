//! Advantages of a group: the completions of one prompt against each other.
//!
//! ```text
//! Aᵢ = (rᵢ − bᵢ) / d          b = mean(r)   or   bᵢ = mean of the others
//! ```
//!
//! Where: r are a group's rewards, d is 1 or a deviation that a [`Guard`] keeps from zero. What is
//! called "GRPO" differs in all of it; [`GroupAdvantageConfig`] names each part.
//! Papers: Shao et al., *DeepSeekMath*, arXiv:2402.03300, Section 4.1.2; without d in Liu et al.,
//! *Understanding R1-Zero-Like Training*, arXiv:2503.20783; the others' mean in Ahmadian et al.,
//! *Back to Basics*, arXiv:2402.14740, Section 3.
//!
//! A reward of NaN says that nobody could score the completion: it counts in no mean and no
//! deviation, and has the advantage 0. A NaN that arithmetic makes, as of two infinite rewards,
//! stays. A group of equal rewards has advantages of exactly 0.

use serde::{Deserialize, Serialize};

use super::whiten::{Guard, Moments, Spread, Whiten, scaled};
use crate::error::NumError;

/// What a reward is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The group's mean.
    GroupMean,
    /// The mean of the others: n / (n − 1) times the deviation from the group's mean.
    LeaveOneOut,
}

/// What a deviation is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GroupScale {
    /// Nothing.
    None,
    /// The deviation of the group.
    Group {
        /// The variance.
        spread: Spread,
        /// What keeps the divisor from zero.
        guard: Guard,
    },
    /// The deviation of all rewards of all groups, around their common mean.
    Batch {
        /// The variance.
        spread: Spread,
        /// What keeps the divisor from zero.
        guard: Guard,
    },
    /// The unbiased deviation of the others, 0 of a single one; where it is 0 nothing is divided.
    LeaveOneOut {
        /// What is added to a deviation that is not 0.
        guard: Guard,
    },
}

/// The advantage of a completion that is alone in its group, or the only one with a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Single {
    /// 0: there is nothing to compare it with.
    Zero,
    /// Its reward, as of a group with mean 0 and deviation 1.
    Raw,
}

/// How a group's rewards become advantages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupAdvantageConfig {
    /// What is subtracted.
    pub baseline: Baseline,
    /// What is divided by.
    pub scale: GroupScale,
    /// What one completion alone has.
    pub single: Single,
}

/// Advantages of groups, rows as the rewards.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupAdvantages {
    /// A, one a completion.
    pub advantages: Vec<Vec<f64>>,
    /// The deviation that belongs to each completion: the one that it was divided by, that of its
    /// group where nothing was. NaN where fewer than two rewards say nothing about it.
    pub std: Vec<Vec<f64>>,
    /// Completions without a reward.
    pub n_unscorable: usize,
}

impl GroupAdvantages {
    /// The share of completions whose deviation is zero, TRL's metric of that name.
    pub fn frac_reward_zero_std(&self) -> f64 {
        let n = self.std.iter().map(Vec::len).sum::<usize>();
        self.std.iter().flatten().filter(|std| is_zero_std(**std)).count() as f64 / n as f64
    }
}

/// Whether a deviation is zero but for rounding: within 10⁻⁸, as PyTorch's `isclose`. NaN is not.
pub fn is_zero_std(std: f64) -> bool {
    std.abs() <= 1e-8
}

/// Groups that teach nothing: at least two completions with a reward, and all rewards equal.
pub fn n_equal_groups(groups: &[impl AsRef<[f64]>]) -> usize {
    let equal = |rewards: &[f64]| {
        let moments = Moments::scorable(rewards);
        moments.n > 1 && moments.squares == 0.0
    };
    groups.iter().filter(|rewards| equal(rewards.as_ref())).count()
}

/// The groups of `n_generations` consecutive rewards each.
///
/// # Errors
/// A remainder, or groups of none.
pub fn grouped(rewards: &[f64], n_generations: usize) -> Result<Vec<&[f64]>, NumError> {
    if n_generations > 0 && rewards.len().is_multiple_of(n_generations) {
        return Ok(rewards.chunks(n_generations).collect());
    }
    let expected = "a size of at least 1 that divides the number of rewards";
    Err(NumError { what: "n_generations", expected, found: n_generations as f64 })
}

/// The advantage of every completion.
///
/// ```
/// use rlhf_core::host::advantage::{
///     Baseline, GroupAdvantageConfig, GroupScale, Single, group_advantages,
/// };
///
/// // 1, 2 and 3 against the mean of the two others: 2.5, 2 and 1.5.
/// let config = GroupAdvantageConfig {
///     baseline: Baseline::LeaveOneOut,
///     scale: GroupScale::None,
///     single: Single::Zero,
/// };
/// assert_eq!(group_advantages(config, &[[1.0, 2.0, 3.0]]).advantages, [[-1.5, 0.0, 1.5]]);
/// ```
pub fn group_advantages(config: GroupAdvantageConfig, groups: &[impl AsRef<[f64]>]) -> GroupAdvantages {
    let samples = samples(config, groups);
    let row = |row: &Vec<Sample>| row.iter().map(|s| s.advantage.unwrap_or(0.0)).collect();
    GroupAdvantages { advantages: samples.iter().map(row).collect(), ..statistics(groups, &samples) }
}

/// The deviations and the count, with no advantages yet.
pub(super) fn statistics(groups: &[impl AsRef<[f64]>], samples: &[Vec<Sample>]) -> GroupAdvantages {
    GroupAdvantages {
        advantages: Vec::new(),
        std: samples.iter().map(|row| row.iter().map(|s| s.std).collect()).collect(),
        n_unscorable: groups.iter().flat_map(AsRef::as_ref).filter(|r| r.is_nan()).count(),
    }
}

/// One completion in its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// None where there is no reward, or nothing to compare it with.
    pub(super) advantage: Option<f64>,
    pub(super) std: f64,
}

pub(super) fn samples(config: GroupAdvantageConfig, groups: &[impl AsRef<[f64]>]) -> Vec<Vec<Sample>> {
    let all: Vec<f64> = groups.iter().flat_map(|rewards| rewards.as_ref().iter().copied()).collect();
    let batch = Moments::scorable(&all);
    groups.iter().map(|rewards| group(config, rewards.as_ref(), &batch)).collect()
}

fn group(config: GroupAdvantageConfig, rewards: &[f64], batch: &Moments) -> Vec<Sample> {
    let moments = Moments::scorable(rewards);
    let n = moments.n as f64;
    let sample = |(i, reward): (usize, &f64)| {
        let others = || rewards.iter().enumerate().filter(|(j, r)| *j != i && !r.is_nan());
        let single = moments.n == 1 && config.single == Single::Raw;
        let variance = match config.scale {
            _ if single => 1.0,
            GroupScale::None => moments.variance(Spread::Unbiased),
            GroupScale::Group { spread, .. } => moments.variance(spread),
            GroupScale::Batch { spread, .. } => batch.variance(spread),
            GroupScale::LeaveOneOut { .. } => match Moments::of(others().map(|(_, r)| *r)) {
                Moments { n: 0 | 1, .. } => 0.0,
                others => others.variance(Spread::Unbiased),
            },
        };
        let divisor = match config.scale {
            GroupScale::None => 1.0,
            GroupScale::LeaveOneOut { .. } if variance == 0.0 => 1.0,
            GroupScale::Group { guard, .. }
            | GroupScale::Batch { guard, .. }
            | GroupScale::LeaveOneOut { guard } => guard.divisor(variance),
        };
        let deviation = match (moments.n, config.baseline) {
            (0 | 1, _) => single.then_some(*reward),
            (_, Baseline::GroupMean) => Some(reward - moments.mean),
            (_, Baseline::LeaveOneOut) => Some((reward - moments.mean) * (n / (n - 1.0))),
        };
        let advantage = deviation.filter(|_| !reward.is_nan()).map(|d| scaled(d, divisor));
        Sample { advantage, std: variance.sqrt() }
    };
    rewards.iter().enumerate().map(sample).collect()
}

/// Advantages whitened over those completions that have one; the others keep 0.
pub(super) fn whitened(how: Whiten, samples: &[Vec<Sample>]) -> Vec<Vec<f64>> {
    let moments = Moments::of(samples.iter().flatten().filter_map(|s| s.advantage));
    let one = |s: &Sample| s.advantage.map_or(0.0, |a| how.apply(&moments, a));
    samples.iter().map(|row| row.iter().map(one).collect()).collect()
}

#[cfg(test)]
mod tests;
