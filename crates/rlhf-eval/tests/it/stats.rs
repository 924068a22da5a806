//! Published quantiles, textbook intervals and figures worked by hand.

use approx::assert_abs_diff_eq;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rlhf_eval::error::EvalError;
use rlhf_eval::stats::*;

fn close(found: Result<f64, EvalError>, expected: f64) {
    assert_abs_diff_eq!(found.unwrap(), expected, epsilon = 1e-9);
}

fn interval(found: Result<Interval, EvalError>, [estimate, low, high]: [f64; 3]) {
    let found = found.unwrap();
    assert_abs_diff_eq!(found.estimate, estimate, epsilon = 1e-9);
    assert_abs_diff_eq!(found.low, low, epsilon = 1e-6);
    assert_abs_diff_eq!(found.high, high, epsilon = 1e-6);
}

#[test]
fn mean_and_deviation() {
    close(mean(&[1.0, 2.0, 6.0]), 3.0);
    close(sample_sd(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), (32.0_f64 / 7.0).sqrt());
}

#[test]
fn quantiles_of_student() {
    // Closed forms: tan(π(p - 1/2)) for one degree of freedom, (2p - 1) √(2 / (4p(1 - p))) for two.
    close(student_t_quantile(0.975, 1.0), (std::f64::consts::PI * 0.475).tan());
    close(student_t_quantile(0.975, 2.0), 0.95 * (2.0_f64 / (4.0 * 0.975 * 0.025)).sqrt());
    // Printed tables (NIST/SEMATECH e-Handbook 1.3.6.7.2), three decimals.
    for (p, degrees, expected) in [
        (0.975, 3.0, 3.182),
        (0.975, 4.0, 2.776),
        (0.975, 9.0, 2.262),
        (0.975, 29.0, 2.045),
        (0.975, 100.0, 1.984),
        (0.95, 10.0, 1.812),
        (0.99, 5.0, 3.365),
        (0.995, 20.0, 2.845),
        (0.90, 60.0, 1.296),
    ] {
        assert_abs_diff_eq!(student_t_quantile(p, degrees).unwrap(), expected, epsilon = 5.1e-4);
    }
    // Towards the normal quantile 1.959963985; the first correction is (z³ + z) / 4ν.
    for degrees in [1e5, 1e6, 1e9] {
        let z = 1.959_963_984_540_054_f64;
        let found = student_t_quantile(0.975, degrees).unwrap();
        assert_abs_diff_eq!(found, z + (z.powi(3) + z) / (4.0 * degrees), epsilon = 1e-9);
    }
    // The two ways to a quantile meet where one takes over.
    for p in [0.6, 0.95, 0.975, 0.9995] {
        let (below, above) = (student_t_quantile(p, 1000.0), student_t_quantile(p, 1000.0 + 1e-6));
        assert_abs_diff_eq!(below.unwrap(), above.unwrap(), epsilon = 1e-8);
    }
    let upper = student_t_quantile(0.9, 7.0).unwrap();
    close(student_t_quantile(0.1, 7.0), -upper);
}

/// Every size of sample that a run may have gets a quantile, and the quantiles fall.
#[test]
fn quantiles_fall_with_the_degrees_of_freedom() {
    let mut before = f64::INFINITY;
    for degrees in 1..1100_u32 {
        let found = student_t_quantile(0.975, f64::from(degrees)).unwrap();
        assert!(found < before && found > 1.959_963, "{degrees}: {found} after {before}");
        before = found;
    }
}

#[test]
fn interval_of_a_mean() {
    // 3 ± 2.7764451 √2.5 / √5
    let half = 2.776_445_105 * 0.5_f64.sqrt();
    interval(mean_interval(&[1.0, 2.0, 3.0, 4.0, 5.0], LEVEL_95), [3.0, 3.0 - half, 3.0 + half]);
    // Differences 1, 2, 3, 4, 5 again: what a and b share cancels.
    let a = [101.0, 22.0, 13.0, 4.0, 1005.0];
    let b = [100.0, 20.0, 10.0, 0.0, 1000.0];
    interval(paired_difference(&a, &b, LEVEL_95), [3.0, 3.0 - half, 3.0 + half]);
    interval(mean_interval(&[7.0, 7.0], LEVEL_95), [7.0, 7.0, 7.0]);
}

#[test]
fn wilson_intervals() {
    // Newcombe, Statistics in Medicine 17 (1998), table I, method 3, four decimals.
    for (hits, total, low, high) in
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    {
        let found = wilson(Tally { hits, total }, LEVEL_95).unwrap();
        assert_abs_diff_eq!(found.low, low, epsilon = 5.1e-5);
        assert_abs_diff_eq!(found.high, high, epsilon = 5.1e-5);
    }
    let all = wilson(Tally { hits: 20, total: 20 }, LEVEL_95).unwrap();
    assert_abs_diff_eq!(all.low, 1.0 - 0.1611, epsilon = 5.1e-5); // the mirror image of 0 of 20
    assert_abs_diff_eq!(all.high, 1.0, epsilon = 1e-15);
}

#[test]
fn bootstrap_intervals() {
    let values: Vec<f64> = (0..100).map(f64::from).collect();
    let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let how = Bootstrap { n_resamples: 4000, level: LEVEL_95 };
    let run = |seed| bootstrap(&values, average, how, &mut ChaCha12Rng::seed_from_u64(seed)).unwrap();
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
    // The bootstrap distribution of the mean has variance (n² - 1) / 12n = 8.3325, deviation 2.8866;
    // 1.96 of them is 5.66, and the ends of 4000 resamples scatter by about 0.12.
    let found = run(3);
    assert_abs_diff_eq!(found.estimate, 49.5, epsilon = 1e-12);
    assert!((found.low - 43.84).abs() < 0.5 && (found.high - 55.16).abs() < 0.5, "{found:?}");
    // One item only: every resample is the same.
    let one = bootstrap(&[2.0], |v| v[0], how, &mut ChaCha12Rng::seed_from_u64(0));
    interval(one, [2.0, 2.0, 2.0]);
    // Pairs stay together.
    let pairs: Vec<(f64, f64)> = values.iter().map(|&x| (x, 2.0 * x)).collect();
    let ratio = |pairs: &[(f64, f64)]| {
        pairs.iter().map(|p| p.1).sum::<f64>() / pairs.iter().map(|p| p.0).sum::<f64>()
    };
    interval(bootstrap(&pairs, ratio, how, &mut ChaCha12Rng::seed_from_u64(0)), [2.0, 2.0, 2.0]);
}

#[test]
fn correlations() {
    let x = [1.0, 2.0, 3.0, 4.0];
    close(pearson(&x, &[2.0, 4.0, 6.0, 8.0]), 1.0);
    close(pearson(&x, &[3.0, 1.0, 0.0, -2.0]), -8.0 / (5.0_f64 * 13.0).sqrt());
    // Anscombe's first quartet: r = 0.816 (published as 0.81642).
    let x = [10.0, 8.0, 13.0, 9.0, 11.0, 14.0, 6.0, 4.0, 12.0, 7.0, 5.0];
    let y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68];
    assert_abs_diff_eq!(pearson(&x, &y).unwrap(), 0.816_42, epsilon = 5e-6);
    // Without ties: 1 - 6 Σd² / n(n² - 1); here d = 0, 1, 1, 0: 1 - 12/60.
    close(spearman(&[1.0, 2.0, 3.0, 4.0], &[10.0, 30.0, 20.0, 1e9]), 0.8);
    // Ties: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5).
    close(spearman(&[1.0, 7.0, 7.0, 9.0], &[1.0, 2.0, 3.0, 4.0]), 0.9_f64.sqrt());
}

#[test]
fn accuracy_and_perplexity() {
    // The pairs (2, 1) and (0, 1): one right. A tie is wrong.
    let found = pairwise_accuracy(&[2.0, 0.0], &[1.0, 1.0]).unwrap();
    assert_eq!(found, Tally { hits: 1, total: 2 });
    assert_eq!(pairwise_accuracy(&[1.0], &[1.0]).unwrap(), Tally { hits: 0, total: 1 });
    close(perplexity(5.0 * 128_f64.ln(), 5), 128.0);
}

#[test]
fn refusals_name_what_was_found() {
    let message = |error: EvalError| error.to_string();
    assert_eq!(message(mean(&[]).unwrap_err()), "mean: expected at least 1 values, found 0");
    assert_eq!(
        message(mean_interval(&[1.0], LEVEL_95).unwrap_err()),
        "mean interval: expected at least 2 values, found 1"
    );
    assert_eq!(
        message(pearson(&[1.0, f64::NAN], &[1.0, 2.0]).unwrap_err()),
        "Pearson correlation: expected finite values, found NaN at index 1"
    );
    assert_eq!(
        message(spearman(&[1.0], &[1.0, 2.0]).unwrap_err()),
        "Spearman correlation: expected two slices of one length, found 1 and 2"
    );
    assert_eq!(
        message(pearson(&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]).unwrap_err()),
        "Pearson correlation: expected values that differ, found 0.1 everywhere"
    );
    let level = |level| mean_interval(&[1.0, 2.0], level).unwrap_err();
    for wrong in [0.0, 1.0, 95.0, -0.5] {
        assert!(matches!(level(wrong), EvalError::Range { what: "confidence level", .. }), "{wrong}");
    }
    assert!(matches!(level(f64::NAN), EvalError::Range { .. }));
    assert!(matches!(student_t_quantile(0.5, 0.0), Err(EvalError::Range { .. })));
    assert!(matches!(wilson(Tally { hits: 0, total: 0 }, 0.95), Err(EvalError::TooFew { .. })));
    assert!(matches!(wilson(Tally { hits: 2, total: 1 }, 0.95), Err(EvalError::Range { .. })));
    assert!(matches!(perplexity(1.0, 0), Err(EvalError::TooFew { .. })));
    assert!(matches!(perplexity(f64::INFINITY, 2), Err(EvalError::NotFinite { .. })));
    let mut rng = ChaCha12Rng::seed_from_u64(0);
    let how = Bootstrap { n_resamples: 10, level: LEVEL_95 };
    let found = bootstrap(&[1.0, 2.0], |_| f64::NAN, how, &mut rng);
    assert!(matches!(found, Err(EvalError::NotFinite { .. })));
    let none = Bootstrap { n_resamples: 0, ..how };
    assert!(matches!(bootstrap(&[1.0], |v| v[0], none, &mut rng), Err(EvalError::TooFew { .. })));
}
