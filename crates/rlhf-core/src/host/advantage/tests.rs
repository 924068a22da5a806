use super::*;
use crate::number::Weight;

fn plus(epsilon: f64) -> Guard {
    Guard::StdPlus(Weight::new(epsilon).expect("a weight"))
}

fn of(baseline: Baseline, scale: GroupScale, rewards: &[f64]) -> Vec<f64> {
    let config = GroupAdvantageConfig { baseline, scale, single: Single::Zero };
    group_advantages(config, &[rewards]).advantages.concat()
}

fn group_scale(spread: Spread, epsilon: f64) -> GroupScale {
    GroupScale::Group { spread, guard: plus(epsilon) }
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < tolerance);
    assert!(near, "{found:?} {expected:?}");
}

#[test]
fn one_group_under_every_system() {
    // σ of 1, 2, 3 is 1, or √(2/3) with n; of the two others it is √½, 2/√2 in the middle.
    let r = [1.0, 2.0, 3.0];
    let mean = Baseline::GroupMean;
    for epsilon in [1e-4, 1e-6, 1e-9] {
        let a = 1.0 / (1.0 + epsilon);
        close(&of(mean, group_scale(Spread::Unbiased, epsilon), &r), &[-a, 0.0, a], 1e-15);
    }
    close(&of(mean, GroupScale::None, &r), &[-1.0, 0.0, 1.0], 1e-15);
    let a = 1.0 / ((2.0f64 / 3.0).sqrt() + 1e-8);
    close(&of(mean, group_scale(Spread::Biased, 1e-8), &r), &[-a, 0.0, a], 1e-15);
    let a = 1.5 / (0.5f64.sqrt() + 1e-6);
    let others = GroupScale::LeaveOneOut { guard: plus(1e-6) };
    close(&of(Baseline::LeaveOneOut, others, &r), &[-a, 0.0, a], 1e-14);
}

#[test]
fn three_right_of_eight() {
    // Mean 3/8; Σ(r − μ)² = 15/8: σ = √(15/56), or √(15/64) with n.
    let r = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let unbiased = of(Baseline::GroupMean, group_scale(Spread::Unbiased, 1e-4), &r);
    close(&unbiased[..2], &[1.207_38, -0.724_43], 5e-6);
    let biased = of(Baseline::GroupMean, group_scale(Spread::Biased, 0.0), &r);
    close(&biased[..2], &[(5.0f64 / 3.0).sqrt(), -(0.6f64).sqrt()], 1e-15);
    assert!(unbiased.iter().sum::<f64>().abs() < 1e-14 && biased.iter().sum::<f64>().abs() < 1e-14);
}

#[test]
fn where_the_others_agree_nothing_is_divided() {
    // The others of the 4 are all 1: its deviation 3 stays. Those of a 1 have mean 2 and σ = √3.
    let a = 1.0 / 3f64.sqrt();
    let others = GroupScale::LeaveOneOut { guard: plus(0.0) };
    let found = of(Baseline::LeaveOneOut, others, &[1.0, 4.0, 1.0, 1.0]);
    close(&found, &[-a, 3.0, -a, -a], 1e-15);
    // A pair leaves one other, whose σ is 0; no ε is added to that.
    let others = GroupScale::LeaveOneOut { guard: plus(0.5) };
    close(&of(Baseline::LeaveOneOut, others, &[1.0, 2.0]), &[-1.0, 1.0], 1e-15);
}

#[test]
fn equal_rewards_teach_nothing_and_are_counted() {
    let groups = [vec![0.1; 3], vec![0.7; 6], vec![1.0, 2.0], vec![0.3], vec![f64::NAN, 0.1, 0.1]];
    for scale in [
        GroupScale::None,
        group_scale(Spread::Unbiased, 0.0),
        GroupScale::Batch { spread: Spread::Biased, guard: plus(0.0) },
        GroupScale::LeaveOneOut { guard: plus(0.0) },
    ] {
        for baseline in [Baseline::GroupMean, Baseline::LeaveOneOut] {
            let config = GroupAdvantageConfig { baseline, scale, single: Single::Zero };
            let found = group_advantages(config, &groups);
            for i in [0, 1, 3, 4] {
                assert!(found.advantages[i].iter().all(|a| a.abs() <= 0.0), "{scale:?} {found:?}");
            }
            assert!(found.advantages[2][1] > 0.4, "{scale:?} {found:?}");
            assert_eq!(found.n_unscorable, 1);
        }
    }
    assert_eq!(n_equal_groups(&groups), 3);
    let config =
        GroupAdvantageConfig { baseline: Baseline::GroupMean, scale: GroupScale::None, single: Single::Zero };
    // 3 + 6 + 3 of 15: the one alone says nothing about a deviation.
    assert!((group_advantages(config, &groups).frac_reward_zero_std() - 0.8).abs() < 1e-15);
}

#[test]
fn who_cannot_be_scored_counts_for_nothing() {
    let nan = f64::NAN;
    for scale in [GroupScale::None, group_scale(Spread::Unbiased, 1e-4)] {
        let with = of(Baseline::LeaveOneOut, scale, &[1.0, nan, 4.0, 2.5]);
        let without = of(Baseline::LeaveOneOut, scale, &[1.0, 4.0, 2.5]);
        close(&[with[0], with[2], with[3]], &without, 1e-15);
        assert!(with[1].abs() <= 0.0);
    }
    // Infinite rewards are no missing ones.
    assert!(of(Baseline::GroupMean, GroupScale::None, &[f64::INFINITY, 0.0])[0].is_nan());
}

#[test]
fn one_alone_has_what_is_asked_for() {
    let config = |single| GroupAdvantageConfig {
        baseline: Baseline::GroupMean,
        scale: group_scale(Spread::Unbiased, 0.25),
        single,
    };
    let groups = [vec![2.0], vec![f64::NAN, 3.0], vec![f64::NAN]];
    let raw = group_advantages(config(Single::Raw), &groups);
    assert_eq!(raw.advantages, [vec![1.6], vec![0.0, 2.4], vec![0.0]]);
    let zero = group_advantages(config(Single::Zero), &groups);
    assert_eq!(zero.advantages, [vec![0.0], vec![0.0, 0.0], vec![0.0]]);
    assert!(zero.std.concat().iter().all(|std| std.is_nan()));
}

#[test]
fn a_batch_has_one_deviation() {
    // All rewards 0, 2, 4, 10: mean 4, Σ = 16 + 4 + 0 + 36 = 56.
    let scale = GroupScale::Batch { spread: Spread::Biased, guard: plus(0.0) };
    let config = GroupAdvantageConfig { baseline: Baseline::GroupMean, scale, single: Single::Zero };
    let found = group_advantages(config, &[[0.0, 2.0], [4.0, 10.0]]);
    let sigma = 14f64.sqrt();
    close(&found.advantages.concat(), &[-1.0, 1.0, -3.0, 3.0].map(|x| x / sigma), 1e-15);
}

#[test]
fn groups_of_a_flat_list() {
    let rewards = [1.0, 2.0, 3.0, 4.0];
    assert_eq!(grouped(&rewards, 2).expect("divides"), [[1.0, 2.0], [3.0, 4.0]]);
    assert!(grouped(&[], 0).is_err());
    for size in [0, 3] {
        let error = grouped(&rewards, size).expect_err("no groups").to_string();
        assert!(error.contains("divides the number of rewards") && error.ends_with(&size.to_string()));
    }
}

#[test]
fn deviations_are_reported_whatever_is_divided() {
    let std = |baseline, scale, groups: &[Vec<f64>]| {
        let config = GroupAdvantageConfig { baseline, scale, single: Single::Zero };
        group_advantages(config, groups).std.concat()
    };
    let groups = [vec![1.0, 2.0, 3.0], vec![4.0, 5.0]];
    let (mean, root) = (Baseline::GroupMean, 0.5f64.sqrt());
    close(&std(mean, GroupScale::None, &groups), &[1.0, 1.0, 1.0, root, root], 1e-15);
    let biased = (2.0f64 / 3.0).sqrt();
    let found = std(mean, group_scale(Spread::Biased, 0.5), &groups);
    close(&found, &[biased, biased, biased, 0.5, 0.5], 1e-15);
    // 1 to 5: mean 3, Σ = 10.
    let batch = GroupScale::Batch { spread: Spread::Unbiased, guard: plus(0.0) };
    close(&std(mean, batch, &groups), &[2.5f64.sqrt(); 5], 1e-15);
    // Two others are 1 or 2 apart; a single one is not apart from itself.
    let others = GroupScale::LeaveOneOut { guard: plus(1e-6) };
    let found = std(Baseline::LeaveOneOut, others, &groups);
    close(&found, &[root, 2.0 * root, root, 0.0, 0.0], 1e-15);
}
