//! Several reward functions: one sum before the advantages, or after.
//!
//! ```text
//! sum then normalise:   A = advantage(Σ_k w_k r_k)
//! normalise then sum:   A = whiten over the batch(Σ_k w_k advantage(r_k))
//! ```
//!
//! Where: r_k are the rewards of function k, w_k its weight. A NaN of one function is left out of
//! the sum; a completion that every function left out has no reward.
//! Source: TRL's `multi_objective_aggregation`; the second is Liu et al., *GDPO*, arXiv:2601.05242.

use serde::{Deserialize, Serialize};

use super::advantage::{
    GroupAdvantageConfig, GroupAdvantages, Sample, group_advantages, samples, statistics, whitened,
};
use super::whiten::{Moments, Whiten};

/// One reward function.
#[derive(Debug, Clone, Copy)]
pub struct Objective<'a> {
    /// Its weight in the sum.
    pub weight: f64,
    /// Its rewards by group, NaN where it gave none.
    pub rewards: &'a [&'a [f64]],
}

/// Which comes first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Rewards are summed, then the sums are made advantages.
    SumThenNormalize,
    /// Each function's rewards are made advantages, then their sums are whitened over the batch.
    NormalizeThenSum(Whiten),
}

/// Σ_k w_k r_k of every completion, NaN where no function gave a reward.
///
/// ```
/// use rlhf_core::host::objectives::{Objective, summed};
///
/// let right = Objective { weight: 1.0, rewards: &[&[1.0, 0.0, f64::NAN]] };
/// let short = Objective { weight: 0.5, rewards: &[&[-1.0, f64::NAN, f64::NAN]] };
/// let sums = summed(&[right, short]).concat();
/// assert_eq!(sums[..2], [0.5, 0.0]);
/// assert!(sums[2].is_nan());
/// ```
///
/// # Panics
/// On no function, or groups that differ from one to the next.
#[track_caller]
pub fn summed(objectives: &[Objective<'_>]) -> Vec<Vec<f64>> {
    let sizes = |o: &Objective<'_>| o.rewards.iter().map(|r| r.len()).collect::<Vec<_>>();
    let first = objectives.first().map(sizes).expect("summed: objectives: expected one, found none");
    for (k, objective) in objectives.iter().enumerate() {
        let found = sizes(objective);
        assert!(found == first, "summed: objective {k}: expected groups of {first:?}, found {found:?}");
    }
    let sum = |g: usize, i: usize| {
        let given = objectives.iter().filter(|o| !o.rewards[g][i].is_nan());
        given.map(|o| o.weight * o.rewards[g][i]).reduce(|a, b| a + b).unwrap_or(f64::NAN)
    };
    first.iter().enumerate().map(|(g, n)| (0..*n).map(|i| sum(g, i)).collect()).collect()
}

/// The advantage of every completion. Under [`Aggregation::NormalizeThenSum`] the deviation of all
/// is that of the sums.
///
/// # Panics
/// As [`summed`].
#[track_caller]
pub fn objective_advantages(
    aggregation: Aggregation,
    config: GroupAdvantageConfig,
    objectives: &[Objective<'_>],
) -> GroupAdvantages {
    let sums = summed(objectives);
    let Aggregation::NormalizeThenSum(how) = aggregation else {
        return group_advantages(config, &sums);
    };
    let parts: Vec<_> = objectives.iter().map(|o| (o.weight, samples(config, o.rewards))).collect();
    // A function that cannot compare a completion adds nothing to it.
    let total = |g: usize, i: usize| -> Option<f64> {
        let part = |(w, part): &(f64, Vec<Vec<Sample>>)| part[g][i].advantage.map_or(0.0, |a| w * a);
        (!sums[g][i].is_nan()).then(|| parts.iter().map(part).sum())
    };
    let row = |(g, row): (usize, &Vec<f64>)| -> Vec<Sample> {
        (0..row.len()).map(|i| Sample { advantage: total(g, i), std: f64::NAN }).collect()
    };
    let mut totals: Vec<Vec<Sample>> = sums.iter().enumerate().map(row).collect();
    let moments = Moments::of(totals.iter().flatten().filter_map(|s| s.advantage));
    let std = moments.variance(how.spread).sqrt();
    totals.iter_mut().flatten().for_each(|s| s.std = std);
    GroupAdvantages { advantages: whitened(how, &totals), ..statistics(&sums, &totals) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::advantage::{Baseline, GroupScale, Single};
    use crate::host::whiten::{Centre, Guard, Spread};
    use crate::number::Weight;

    fn config() -> GroupAdvantageConfig {
        let guard = Guard::StdPlus(Weight::ZERO);
        let scale = GroupScale::Group { spread: Spread::Biased, guard };
        GroupAdvantageConfig { baseline: Baseline::GroupMean, scale, single: Single::Zero }
    }

    fn after() -> Aggregation {
        let guard = Guard::StdPlus(Weight::ZERO);
        Aggregation::NormalizeThenSum(Whiten { spread: Spread::Biased, guard, centre: Centre::Zero })
    }

    #[test]
    fn normalised_first_a_large_function_does_not_drown_a_small_one() {
        let large: [&[f64]; 1] = [&[100.0, -100.0, 100.0, -100.0]];
        let small: [&[f64]; 1] = [&[1.0, 1.0, -1.0, -1.0]];
        let of = |aggregation| {
            let objectives =
                [Objective { weight: 1.0, rewards: &large }, Objective { weight: 1.0, rewards: &small }];
            objective_advantages(aggregation, config(), &objectives).advantages.concat()
        };
        // Each is ±1 on its own: sums 2, 0, 0, −2 with σ = √2.
        let root = 2f64.sqrt();
        for (found, expected) in of(after()).iter().zip([root, 0.0, 0.0, -root]) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        // Half of the small one: 3/2, −1/2, 1/2, −3/2 with σ² = 5/4.
        let half = [Objective { weight: 1.0, rewards: &large }, Objective { weight: 0.5, rewards: &small }];
        let found = objective_advantages(after(), config(), &half).advantages.concat();
        assert!((found[0] - 1.5 / 1.25f64.sqrt()).abs() < 1e-15, "{found:?}");
        // Summed first: 101, −99, 99, −101 with σ² = (101² + 99²) / 2 = 10001.
        assert!((of(Aggregation::SumThenNormalize)[2] - 99.0 / 10001f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn missing_rewards_are_left_out_and_counted() {
        let nan = f64::NAN;
        let one: [&[f64]; 2] = [&[1.0, 3.0, nan], &[nan, 2.0]];
        let two: [&[f64]; 2] = [&[nan, 0.0, nan], &[1.0, nan]];
        let objectives = [Objective { weight: 2.0, rewards: &one }, Objective { weight: 1.0, rewards: &two }];
        assert_eq!(summed(&objectives)[0][..2], [2.0, 6.0]);
        assert_eq!(summed(&objectives)[1], [1.0, 4.0]);
        for aggregation in [Aggregation::SumThenNormalize, after()] {
            let found = objective_advantages(aggregation, config(), &objectives);
            assert_eq!(found.n_unscorable, 1);
            assert!(found.advantages[0][2].abs() <= 0.0);
        }
        // Only the first two can be compared: −2 and 2, then 0 of those with a reward.
        let found = objective_advantages(after(), config(), &objectives);
        let expected = [-(2f64.sqrt()), 2f64.sqrt(), 0.0, 0.0, 0.0];
        for (found, expected) in found.advantages.concat().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        assert!(found.std.concat().iter().all(|std| (std - 2f64.sqrt()).abs() < 1e-15));
    }

    #[test]
    #[should_panic(expected = "summed: objective 1: expected groups of [2], found [1]")]
    fn groups_that_differ_are_refused() {
        let _ = summed(&[
            Objective { weight: 1.0, rewards: &[&[1.0, 2.0]] },
            Objective { weight: 1.0, rewards: &[&[1.0]] },
        ]);
    }
}
