//! Advantages of the REINFORCE family: RLOO, REINFORCE++ and its baseline variant.
//!
//! ```text
//! RLOO:             Aᵢ = Rᵢ − mean of the others' R          R = clip(r) − β KL
//! REINFORCE++:      A_t = whiten over all tokens of the batch(Σ_{s ≥ t} γ^(s−t) r_s)
//! with a baseline:  A_t = whiten over all tokens of the batch(rᵢ − mean of its group)
//! ```
//!
//! Where: r are rewards of completions by group, or r_s those of tokens with −β KL in each; KL is
//! Σ_t (log π − log π_ref) of a completion.
//! Papers: Ahmadian et al., *Back to Basics*, arXiv:2402.14740, Section 3; Hu et al.,
//! *REINFORCE++*, arXiv:2501.03262, Section 3.

use serde::{Deserialize, Serialize};

use super::advantage::{
    Baseline, GroupAdvantageConfig, GroupAdvantages, GroupScale, Single, group_advantages, samples,
    statistics, whitened,
};
use super::interval::Interval;
use super::whiten::{Whiten, whiten};
use crate::number::{Prob, Weight};

/// Numbers of [`rloo_advantages`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlooAdvantageConfig {
    /// β: the price of a nat of KL, in reward.
    pub beta: Weight,
    /// Where a reward is held before the KL is paid.
    pub reward_clip_range: Option<Interval>,
    /// How the advantages of the batch are normalised, if they are.
    pub normalize_advantages: Option<Whiten>,
}

/// The advantage of every completion over its siblings, with the KL in the reward. `kl` has one
/// number a completion; where β is 0 it does not count and may be empty.
///
/// ```
/// use rlhf_core::host::reinforce::{RlooAdvantageConfig, rloo_advantages};
/// use rlhf_core::number::Weight;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// let config = RlooAdvantageConfig {
///     beta: Weight::new(0.5)?,
///     reward_clip_range: None,
///     normalize_advantages: None,
/// };
/// // R = 3 − 1 and 1 + 1: the dearer completion is no better.
/// let found = rloo_advantages(config, &[[3.0, 1.0]], &[[2.0, -2.0]]);
/// assert_eq!(found.advantages, [[0.0, 0.0]]);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// On rows of different lengths.
#[track_caller]
pub fn rloo_advantages(
    config: RlooAdvantageConfig,
    rewards: &[impl AsRef<[f64]>],
    kl: &[impl AsRef<[f64]>],
) -> GroupAdvantages {
    let beta = config.beta.get();
    assert!(beta == 0.0 || kl.len() == rewards.len(), "rloo_advantages: kl: expected one row a group");
    let paid = |(g, rewards): (usize, &_)| -> Vec<f64> {
        let rewards: &[f64] = AsRef::as_ref(rewards);
        let clipped = rewards.iter().map(|r| config.reward_clip_range.map_or(*r, |range| range.clamp(*r)));
        if beta == 0.0 {
            return clipped.collect();
        }
        let kl = kl[g].as_ref();
        assert_eq!(kl.len(), rewards.len(), "rloo_advantages: kl: expected one number a completion");
        clipped.zip(kl).map(|(r, kl)| r - beta * kl).collect()
    };
    let paid: Vec<Vec<f64>> = rewards.iter().enumerate().map(paid).collect();
    let over = GroupAdvantageConfig {
        baseline: Baseline::LeaveOneOut,
        scale: GroupScale::None,
        single: Single::Zero,
    };
    let Some(how) = config.normalize_advantages else {
        return group_advantages(over, &paid);
    };
    let samples = samples(over, &paid);
    GroupAdvantages { advantages: whitened(how, &samples), ..statistics(&paid, &samples) }
}

/// Σ_{s ≥ t} γ^(s−t) r_s of each step of a completion.
pub fn returns_to_go(gamma: Prob, token_rewards: &[f64]) -> Vec<f64> {
    let mut returns = token_rewards.to_vec();
    for t in (1..returns.len()).rev() {
        returns[t - 1] += gamma.get() * returns[t];
    }
    returns
}

/// The advantage of every token from the rewards of the tokens, one row a completion: no value
/// model and no group.
///
/// ```
/// use rlhf_core::host::reinforce::reinforce_pp_advantages;
/// use rlhf_core::host::whiten::{Centre, Guard, Spread, Whiten};
/// use rlhf_core::number::{Prob, Weight};
///
/// // Returns 1, 1 and −1, −1: mean 0, σ = 1.
/// let how = Whiten { spread: Spread::Biased, guard: Guard::StdPlus(Weight::ZERO), centre: Centre::Zero };
/// let found = reinforce_pp_advantages(Prob::ONE, how, &[[0.0, 1.0], [0.0, -1.0]]);
/// assert_eq!(found, [[1.0, 1.0], [-1.0, -1.0]]);
/// ```
pub fn reinforce_pp_advantages(
    gamma: Prob,
    how: Whiten,
    token_rewards: &[impl AsRef<[f64]>],
) -> Vec<Vec<f64>> {
    let returns: Vec<_> = token_rewards.iter().map(|row| returns_to_go(gamma, row.as_ref())).collect();
    whiten(how, &returns)
}

/// The advantage of every token where a completion's reward is first compared with its group:
/// one row a completion, in the order of the groups, as long as `lengths` says. Each token counts
/// once in the whitening, so a long completion counts more. A completion with nothing to compare
/// it with has 0 and does not count.
///
/// # Panics
/// Unless there is one length a completion.
#[track_caller]
pub fn reinforce_pp_baseline_advantages(
    how: Whiten,
    rewards: &[impl AsRef<[f64]>],
    lengths: &[usize],
) -> Vec<Vec<f64>> {
    let over =
        GroupAdvantageConfig { baseline: Baseline::GroupMean, scale: GroupScale::None, single: Single::Zero };
    let samples = samples(over, rewards).concat();
    let (found, expected) = (lengths.len(), samples.len());
    assert_eq!(found, expected, "reinforce_pp_baseline_advantages: lengths: expected one a completion");
    let rows: Vec<_> = samples.into_iter().zip(lengths).map(|(s, n)| vec![s; *n]).collect();
    whitened(how, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::whiten::{Centre, Guard, Moments, Spread};

    fn whole() -> Whiten {
        Whiten { spread: Spread::Biased, guard: Guard::StdPlus(Weight::ZERO), centre: Centre::Zero }
    }

    fn config(beta: f64, range: Option<[f64; 2]>, how: Option<Whiten>) -> RlooAdvantageConfig {
        RlooAdvantageConfig {
            beta: Weight::new(beta).expect("a weight"),
            reward_clip_range: range.map(|[low, high]| Interval::new(low, high).expect("ordered")),
            normalize_advantages: how,
        }
    }

    #[test]
    fn rewards_are_clipped_before_the_kl_is_paid() {
        // Clipped 1, 0 and −1; paid 1 − 2, 0 and −1 − 1: against −1, −1.5 and −0.5.
        let config = config(0.5, Some([-1.0, 1.0]), None);
        let found = rloo_advantages(config, &[[9.0, 0.0, -9.0]], &[[4.0, 0.0, 2.0]]);
        assert_eq!(found.advantages, [[0.0, 1.5, -1.5]]);
    }

    #[test]
    fn the_others_mean_is_unbiased_where_the_groups_own_is_not() {
        // Two draws, reward 1 with probability ¾: E[A₁ s(y₁)] with the score s = 1 − ¾ or −¾ is the
        // gradient ¾ · ¼ under the others' mean, half of that under the group's.
        let gradient = |advantage: &dyn Fn(f64, f64) -> f64| {
            let outcomes = [(1.0, 0.75, 0.25), (0.0, 0.25, -0.75)];
            let mut sum = 0.0;
            for (r1, p1, s1) in outcomes {
                for (r2, p2, _) in outcomes {
                    sum += p1 * p2 * advantage(r1, r2) * s1;
                }
            }
            sum
        };
        let none: [[f64; 0]; 0] = [];
        let others =
            gradient(&|a, b| rloo_advantages(config(0.0, None, None), &[[a, b]], &none).advantages[0][0]);
        let own = gradient(&|a, b| a - 0.5 * (a + b));
        assert!((others - 0.1875).abs() < 1e-15 && (own - 0.09375).abs() < 1e-15);
    }

    #[test]
    fn those_without_a_sibling_do_not_count_in_the_normalisation() {
        let groups = [vec![1.0, 3.0], vec![7.0, f64::NAN]];
        let none: [[f64; 0]; 0] = [];
        let found = rloo_advantages(config(0.0, None, Some(whole())), &groups, &none);
        // −2 and 2 alone: σ = 2.
        assert_eq!(found.advantages, [[-1.0, 1.0], [0.0, 0.0]]);
        assert_eq!(found.n_unscorable, 1);
    }

    #[test]
    fn returns_are_discounted_to_each_step() {
        let gamma = Prob::new(0.5).expect("a probability");
        assert_eq!(returns_to_go(gamma, &[1.0, 2.0, 8.0]), [4.0, 6.0, 8.0]);
        assert!(returns_to_go(gamma, &[]).is_empty());
    }

    #[test]
    fn a_long_completion_weighs_by_its_tokens() {
        // Deviations −1 (one token) and 1 (three), and a group that cannot be compared: mean ½, σ² = ¾.
        let found = reinforce_pp_baseline_advantages(whole(), &[vec![0.0, 2.0], vec![5.0]], &[1, 3, 2]);
        let sigma = 0.75f64.sqrt();
        assert!((found[0][0] + 1.5 / sigma).abs() < 1e-15 && (found[1][2] - 0.5 / sigma).abs() < 1e-15);
        assert_eq!(found[2], [0.0, 0.0]);
        let moments = Moments::of(found[..2].concat());
        assert!(moments.mean.abs() < 1e-15 && (moments.squares - 4.0).abs() < 1e-14);
    }

    #[test]
    #[should_panic(expected = "rloo_advantages: kl: expected one number a completion")]
    fn a_short_row_of_kl_is_refused() {
        let _ = rloo_advantages(config(0.1, None, None), &[[1.0, 2.0]], &[[1.0]]);
    }
}
