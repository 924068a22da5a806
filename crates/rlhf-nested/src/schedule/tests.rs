use super::*;

fn prob(x: f64) -> Prob {
    Prob::new(x).expect("a probability")
}

fn uniform(ratio: f64, border: usize) -> ScheduleConfig {
    ScheduleConfig::Uniform { ratio: prob(ratio), border }
}

fn depth(ratio: f64, power: f64) -> ScheduleConfig {
    ScheduleConfig::DepthWeighted {
        ratio: prob(ratio),
        border: 1,
        power: Finite::new(power).expect("finite"),
    }
}

fn ramp(from: f64, to: f64, n_batches: u64) -> ScheduleConfig {
    ScheduleConfig::LinearRamp { from: prob(from), to: prob(to), n_batches, border: 1 }
}

/// How often each block is left out in `n` batches.
fn counts(config: &ScheduleConfig, n_layers: usize, n: u64) -> Vec<usize> {
    let schedule = config.build(n_layers, 5).expect("fits");
    let mut counts = vec![0; n_layers];
    for batch in 0..n {
        let skipped = schedule.skipped(batch);
        checked(&skipped, n_layers).expect("ascending, in range");
        skipped.iter().for_each(|i| counts[*i] += 1);
    }
    counts
}

#[test]
fn the_realised_ratio_is_rounded_down() {
    // 28 blocks: 1, 2, 4, 5 and 7 of them.
    for (ratio, k) in [(0.0, 0), (0.05, 1), (0.1, 2), (0.15, 4), (0.2, 5), (0.25, 7)] {
        let config = uniform(ratio, 1);
        let skipped = config.build(28, 1).expect("fits").skipped(3);
        assert_eq!(skipped.len(), k);
        assert!((config.realised_ratio(28, 3) - k as f64 / 28.0).abs() < 1e-15);
    }
    // 0.29 · 100 is 28.999999999999996.
    assert_eq!(n_skipped(0.29, 100), 29);
    assert_eq!(n_skipped(0.2899, 100), 28);
}

#[test]
fn every_inner_block_is_left_out_as_often_as_any_other_and_borders_never() {
    let n = 6000;
    for (border, ratio, k) in [(1, 0.3, 2.0), (2, 0.5, 4.0)] {
        let counts = counts(&uniform(ratio, border), 8, n);
        let share = k / (8 - 2 * border) as f64;
        let spread = (n as f64 * share * (1.0 - share)).sqrt();
        for (i, count) in counts.iter().enumerate() {
            let inner = (border..8 - border).contains(&i);
            let expected = if inner { n as f64 * share } else { 0.0 };
            let allowed = if inner { 4.0 * spread } else { 0.0 };
            assert!((*count as f64 - expected).abs() <= allowed, "{i}: {counts:?}");
        }
    }
}

#[test]
fn a_batch_has_its_own_draw_and_the_same_one_again() {
    let sets = |seed| {
        let schedule = uniform(0.4, 1).build(12, seed).expect("fits");
        (0..50).map(|batch| schedule.skipped(batch)).collect::<Vec<_>>()
    };
    let here = sets(3);
    assert_eq!(here, sets(3));
    assert_ne!(here, sets(4));
    let mut distinct = here.clone();
    distinct.sort();
    distinct.dedup();
    // 4 of 10 are 210 sets; 50 draws without any repetition are unlikely, fewer than 30 more so.
    assert!(distinct.len() > 30, "{}", distinct.len());
    // In any order of asking.
    let schedule = uniform(0.4, 1).build(12, 3).expect("fits");
    assert_eq!(schedule.skipped(49), here[49]);
    assert_eq!(schedule.skipped(0), here[0]);
}

#[test]
fn a_ramp_goes_from_one_ratio_to_the_other_and_stays() {
    let config = ramp(0.0, 0.4, 4);
    let schedule = config.build(10, 0).expect("fits");
    let found: Vec<usize> = (0..8).map(|batch| schedule.skipped(batch).len()).collect();
    assert_eq!(found, [0, 1, 2, 3, 4, 4, 4, 4]);
    let ratios: Vec<f64> = (0..5).map(|batch| config.realised_ratio(10, batch) * 10.0).collect();
    assert!(ratios.iter().zip([0.0, 1.0, 2.0, 3.0, 4.0]).all(|(f, e)| (f - e).abs() < 1e-12));
    let down = ramp(0.4, 0.1, 3).build(10, 0).expect("fits");
    let found: Vec<usize> = (0..5).map(|batch| down.skipped(batch).len()).collect();
    assert_eq!(found, [4, 3, 2, 1, 1]);
}

#[test]
fn depth_weights_draw_in_proportion() {
    // One of the blocks 1, 2, 3 and 4 of 6, in proportion to i + 1.
    let n = 8000;
    let found = counts(&depth(0.17, 1.0), 6, n);
    assert_eq!((found[0], found[5]), (0, 0));
    for i in 1..5 {
        let share = (i + 1) as f64 / 14.0;
        let spread = (n as f64 * share * (1.0 - share)).sqrt();
        assert!((found[i] as f64 - n as f64 * share).abs() < 4.0 * spread, "{i}: {found:?}");
    }
    // Two of three: a block stays where it is the last one left, in either order of the others.
    let found = counts(&depth(0.4, 1.0), 5, n);
    let weights = [2.0, 3.0, 4.0];
    for (i, w) in weights.iter().enumerate() {
        let others: Vec<f64> = weights.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, w)| *w).collect();
        let last =
            others[0] / 9.0 * others[1] / (9.0 - others[0]) + others[1] / 9.0 * others[0] / (9.0 - others[1]);
        let share = 1.0 - last;
        let spread = (n as f64 * share * (1.0 - share)).sqrt();
        assert!((found[i + 1] as f64 - n as f64 * share).abs() < 4.0 * spread, "{w}: {found:?}");
    }
    // Towards the front, and with a power that no product of weights would survive.
    let found = counts(&depth(0.17, -1.0), 6, 500);
    assert!(found[1] > found[4]);
    assert_eq!(counts(&depth(0.17, 5e4), 6, 20)[4], 20);
    assert_eq!(counts(&depth(0.17, -5e4), 6, 20)[1], 20);
}

#[test]
fn a_fixed_set_stays_and_a_closure_is_a_schedule() {
    let fixed = ScheduleConfig::Fixed { layers: vec![0, 3] };
    let schedule = fixed.build(4, 0).expect("fits");
    assert_eq!([schedule.skipped(0), schedule.skipped(9)], [[0, 3], [0, 3]]);
    assert!((fixed.realised_ratio(4, 0) - 0.5).abs() < 1e-15);
    let closure: Box<dyn LayerSchedule> = Box::new(|batch: u64| vec![batch as usize % 2]);
    assert_eq!([closure.skipped(4), closure.skipped(5)], [[0], [1]]);
    let none = ScheduleConfig::None {}.build(4, 0).expect("fits");
    assert!(none.skipped(0).is_empty());
    assert!(ScheduleConfig::None {}.realised_ratio(4, 0).abs() <= 0.0);
}

#[test]
fn what_does_not_fit_is_named() {
    let error =
        |config: &ScheduleConfig, n_layers| config.build(n_layers, 0).err().expect("refused").to_string();
    let fixed = |layers: &[usize]| ScheduleConfig::Fixed { layers: layers.to_vec() };
    let cases = [
        (uniform(1.0, 0), 6, "ratio: expected a ratio that leaves at least one of 6 blocks, found 1"),
        (
            uniform(0.2, 3),
            6,
            "border: expected less than half of 6 blocks, so that one is left between, found 3",
        ),
        (uniform(0.0, usize::MAX), 6, "border: expected less than half of 6 blocks"),
        (uniform(0.5, 2), 6, "border: expected at most 1, so that 3 of 6 blocks can be left out, found 2"),
        (uniform(0.5, 0), 0, "border: expected less than half of 0 blocks"),
        (fixed(&[1, 6]), 6, "layers: expected indices below 6, the number of blocks, found [1, 6]"),
        (fixed(&[3, 1]), 6, "layers: expected ascending indices, none twice, found [3, 1]"),
        (fixed(&[1, 1]), 6, "layers: expected ascending indices, none twice, found [1, 1]"),
        (fixed(&[0, 1]), 2, "layers: expected at least one of 2 blocks left, found [0, 1]"),
        (ramp(0.0, 0.2, 0), 6, "n_batches: expected at least one batch, found 0"),
        (ramp(0.0, 1.0, 3), 6, "to: expected a ratio that leaves at least one of 6 blocks, found 1"),
        (ramp(0.9, 0.0, 3), 6, "border: expected at most 0, so that 5 of 6 blocks can be left out, found 1"),
        (depth(1.0, 1.0), 6, "ratio: expected a ratio that leaves at least one of 6 blocks, found 1"),
    ];
    for (config, n_layers, expected) in cases {
        let found = error(&config, n_layers);
        assert!(found.starts_with(&format!("schedule: {expected}")), "{config:?}: {found}");
    }
}

#[test]
fn a_config_survives_writing_and_refuses_what_it_does_not_know() {
    let all = [ScheduleConfig::None {}, uniform(0.1, 1), ramp(0.0, 0.3, 9), depth(0.2, -0.5)];
    for config in all.into_iter().chain([ScheduleConfig::Fixed { layers: vec![2] }]) {
        let text = serde_json::to_string(&config).expect("written");
        assert_eq!(serde_json::from_str::<ScheduleConfig>(&text).expect("read"), config, "{text}");
    }
    let error = |text: &str| serde_json::from_str::<ScheduleConfig>(text).expect_err(text).to_string();
    assert!(error(r#"{"kind":"none","ratio":0.1}"#).contains("unknown field `ratio`"));
    assert!(error(r#"{"kind":"uniform","ratio":1.5,"border":1}"#).contains("from 0 to 1, found 1.5"));
    assert!(error(r#"{"kind":"uniform","ratio":0.5}"#).contains("missing field `border`"));
    assert!(error(r#"{"kind":"random"}"#).contains("unknown variant `random`"));
}
