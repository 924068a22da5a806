use super::*;

fn prob(x: f64) -> Prob {
    Prob::new(x).expect("a probability")
}

fn within(low: f64, high: f64) -> Interval {
    Interval::new(low, high).expect("ordered")
}

fn upto(c: f64) -> Interval {
    within(f64::NEG_INFINITY, c)
}

fn of(correction: Correction, ratios: &[f64]) -> Vec<f64> {
    let log_ratio: Vec<f64> = ratios.iter().map(|r| r.ln()).collect();
    correction_weights(correction, &[log_ratio]).concat()
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < tolerance);
    assert!(near, "{found:?} {expected:?}");
}

/// Mean and variance of w (R − baseline) ∂ log π / ∂z₀ over one token: π = (.6, .4), b = (.5, .5),
/// R = (1, 0), with slopes 1 − .6 and −.6.
fn one_token(correction: Correction, baseline: f64) -> [f64; 2] {
    let draws = [(0.6, 1.0, 0.4), (0.4, 0.0, -0.6)];
    let term = |(p, r, slope): (f64, f64, f64)| of(correction, &[p / 0.5])[0] * (r - baseline) * slope;
    let mean = draws.map(|d| 0.5 * term(d)).iter().sum::<f64>();
    let square = draws.map(|d| 0.5 * term(d).powi(2)).iter().sum::<f64>();
    [mean, square - mean * mean]
}

#[test]
fn bias_and_variance_of_one_token() {
    // Without baseline only the first draw counts: mean ½ w .4, variance the square of the mean.
    let one = |correction, expected: [f64; 2]| close(&one_token(correction, 0.0), &expected, 1e-15);
    one(Correction::None, [0.20, 0.04]);
    one(Correction::Token, [0.24, 0.0576]);
    one(Correction::RetraceToken(Prob::ONE), [0.20, 0.04]);
    one(Correction::RetraceToken(prob(0.9)), [0.18, 0.0324]);
    one(Correction::TokenTruncate(upto(1.1)), [0.22, 0.0484]);
    let other = |correction, expected: [f64; 2]| close(&one_token(correction, 0.6), &expected, 1e-15);
    other(Correction::None, [0.26, 0.01]);
    other(Correction::Sequence, [0.24, 0.002_304]);
    other(Correction::RetraceTraces(Prob::ONE), [0.224, 0.004_096]);
}

/// ρ of two tokens: (1.2, .8) for the first, (1.4, .6) for the second.
const TWO: [[f64; 2]; 4] = [[1.2, 1.4], [1.2, 0.6], [0.8, 1.4], [0.8, 0.6]];

#[test]
fn two_tokens_under_every_correction() {
    let check = |correction, expected: [[f64; 2]; 4]| {
        for (ratios, expected) in TWO.iter().zip(expected) {
            close(&of(correction, ratios), &expected, 1e-14);
        }
    };
    check(Correction::None, [[1.0, 1.0]; 4]);
    check(Correction::Token, TWO);
    check(Correction::Prefix, [[1.2, 1.68], [1.2, 0.72], [0.8, 1.12], [0.8, 0.48]]);
    check(Correction::Sequence, [[1.68; 2], [0.72; 2], [1.12; 2], [0.48; 2]]);
    check(Correction::RetraceTraces(Prob::ONE), [[1.0, 1.0], [1.0, 0.6], [0.8, 0.8], [0.8, 0.48]]);
    let late = [[0.95, 0.9025], [0.95, 0.5415], [0.76, 0.722], [0.76, 0.4332]];
    check(Correction::RetraceTraces(prob(0.95)), late);
    check(Correction::RetraceToken(prob(0.95)), [[0.95, 0.95], [0.95, 0.57], [0.76, 0.95], [0.76, 0.57]]);
    check(Correction::RetraceTraces(Prob::ZERO), [[0.0; 2]; 4]);
    check(Correction::TokenTruncate(within(0.7, 1.3)), [[1.2, 1.3], [1.2, 0.7], [0.8, 1.3], [0.8, 0.7]]);
    check(Correction::TokenMask(within(0.7, 1.3)), [[1.2, 0.0], [1.2, 0.0], [0.8, 0.0], [0.8, 0.0]]);
    check(Correction::SequenceTruncate(within(0.5, 1.5)), [[1.5; 2], [0.72; 2], [1.12; 2], [0.5; 2]]);
    check(Correction::SequenceMask(within(0.5, 1.5)), [[0.0; 2], [0.72; 2], [1.12; 2], [0.0; 2]]);
    // The roots of the products: 1.2961, .8485, 1.0583, .6928.
    for (ratios, expected) in TWO.iter().zip([1.68f64, 0.72, 1.12, 0.48]) {
        close(&of(Correction::Geometric, ratios), &[expected.sqrt(); 2], 1e-14);
    }
    check(Correction::GeometricMask(within(0.8, 1.2)), [[0.0; 2], [1.2, 0.6], [0.8, 1.4], [0.0; 2]]);
}

#[test]
fn moments_under_the_behavior() {
    // b is uniform on the four outcomes. E ρ² = 1.04 and 1.16; TV = .1 and .2.
    let mean = |of: &dyn Fn([f64; 2]) -> f64| TWO.map(of).iter().sum::<f64>() / 4.0;
    let last = |correction: Correction| move |r: [f64; 2]| of(correction, &r)[1];
    assert!((mean(&last(Correction::Sequence)) - 1.0).abs() < 1e-14);
    assert!((mean(&|r| last(Correction::Sequence)(r).powi(2)) - 1.04 * 1.16).abs() < 1e-14);
    assert!((mean(&last(Correction::RetraceTraces(Prob::ONE))) - 0.9 * 0.8).abs() < 1e-14);
}

#[test]
fn a_mask_of_sequences_by_their_mean() {
    // Every ρ is e^0.0005: kept, and the mean of −ρ A for A = 1, −1, 2 is −⅔ e^0.0005.
    let mask = Correction::GeometricMask(within(0.999, 1.002));
    let kept = correction_weights(mask, &[[5e-4; 3]]).concat();
    let loss = -(kept[0] - kept[1] + 2.0 * kept[2]) / 3.0;
    assert!((loss + 2.0 / 3.0 * 5e-4f64.exp()).abs() < 1e-15);
    // A token that the sampler gave no probability takes its sequence out, and is no NaN.
    assert_eq!(correction_weights(mask, &[[5e-4, f64::INFINITY, 5e-4]]), [[0.0; 3]]);
}

#[test]
fn icepop_by_hand() {
    // log ρ = −.5, 2.5, −.2 and bounds .5 and 5: e^2.5 = 12.2 is out; A = 1, −1, 2.
    let kept = correction_weights(Correction::TokenMask(within(0.5, 5.0)), &[[-0.5, 2.5, -0.2]]).concat();
    let loss = -(kept[0] - kept[1] + 2.0 * kept[2]) / 3.0;
    assert!((loss + ((-0.5f64).exp() + 2.0 * (-0.2f64).exp()) / 3.0).abs() < 1e-15);
}

#[test]
fn bounded_weights_are_finite_far_out_and_nan_stays() {
    let bounded = [
        Correction::TokenTruncate(upto(2.0)),
        Correction::TokenMask(upto(2.0)),
        Correction::SequenceTruncate(upto(2.0)),
        Correction::SequenceMask(upto(2.0)),
        Correction::RetraceToken(Prob::ONE),
        Correction::RetraceTraces(prob(0.5)),
    ];
    for correction in bounded {
        for row in [[5e3, -5e3], [5e3, 5e3], [-5e3, -5e3], [f64::INFINITY, 0.0], [f64::NEG_INFINITY, 0.0]] {
            let found = correction_weights(correction, &[row]).concat();
            assert!(found.iter().all(|w| (0.0..=2.0).contains(w)), "{correction:?} {row:?}: {found:?}");
        }
        let found = correction_weights(correction, &[[f64::NAN, f64::NAN]]).concat();
        assert!(found.iter().all(|w| w.is_nan()), "{correction:?}: {found:?}");
    }
    // Held by the mean alone, a single token may still weigh what it likes.
    let mask = Correction::GeometricMask(upto(2.0));
    assert_eq!(correction_weights(mask, &[[5e3, 5e3]]), [[0.0, 0.0]]);
    assert!(correction_weights(mask, &[[f64::NAN, 0.0]])[0][0].is_nan());
    let empty: [[f64; 0]; 1] = [[]];
    assert!(correction_weights(Correction::Geometric, &empty)[0].is_empty());
}

#[test]
fn a_mixture_is_a_law_with_a_smaller_second_moment() {
    // Two behaviours over two tokens of two words, by the first word.
    let behaviors = [(0.25, [0.7, 0.4, 0.9]), (0.75, [0.2, 0.5, 0.3])];
    let pi = [0.5, 0.6, 0.35];
    let p = |law: [f64; 3], o: [usize; 2]| {
        let second = law[1 + o[0]];
        let pick = |p: f64, word: usize| if word == 0 { p } else { 1.0 - p };
        [pick(law[0], o[0]), pick(second, o[1])]
    };
    let (mut total, mut single, mut mixed) = (0.0, 0.0, 0.0);
    for o in [[0, 0], [0, 1], [1, 0], [1, 1]] {
        let logp = behaviors.map(|(_, law)| p(law, o).map(f64::ln));
        let rows = [(prob(0.25), &logp[0][..]), (prob(0.75), &logp[1][..])];
        let mixture = mixture_logp(&rows).iter().sum::<f64>().exp();
        let direct: f64 = behaviors.iter().map(|(w, law)| w * p(*law, o)[0] * p(*law, o)[1]).sum();
        assert!((mixture - direct).abs() < 1e-15);
        total += mixture;
        let target = p(pi, o)[0] * p(pi, o)[1];
        mixed += target.powi(2) / mixture;
        single += behaviors
            .iter()
            .map(|(w, law)| w * target.powi(2) / (p(*law, o)[0] * p(*law, o)[1]))
            .sum::<f64>();
    }
    assert!((total - 1.0).abs() < 1e-15);
    assert!(mixed < single - 0.1, "{mixed} {single}");
}

#[test]
fn diagnostics_by_hand() {
    // ρ = 2, ½ and 4: sums log 1 and log 4.
    let rows = [vec![2f64.ln(), 0.5f64.ln()], vec![4f64.ln()]];
    let found = diagnostics(Correction::TokenTruncate(upto(3.0)), &rows);
    assert_eq!(found.n_tokens, 3);
    assert!((found.mean_ratio - 6.5 / 3.0).abs() < 1e-15);
    assert!((found.kl + 0.5 * 4f64.ln()).abs() < 1e-15);
    // Weights 1 and 4: 25 / 17.
    assert!((found.effective_sample_size - 25.0 / 17.0).abs() < 1e-14);
    let share = |correction| diagnostics(correction, &rows).share_bounded;
    assert!((found.share_bounded - 1.0 / 3.0).abs() < 1e-15);
    assert!(share(Correction::Sequence).abs() <= 0.0);
    assert!((share(Correction::SequenceMask(upto(3.0))) - 1.0 / 3.0).abs() < 1e-15);
    assert!((share(Correction::GeometricMask(within(0.9, 5.0)))).abs() <= 0.0);
    assert!((share(Correction::GeometricMask(within(1.5, 5.0))) - 2.0 / 3.0).abs() < 1e-15);
    assert!((share(Correction::RetraceToken(Prob::ONE)) - 2.0 / 3.0).abs() < 1e-15);
    // The same policy: nothing to correct.
    let same = diagnostics(Correction::RetraceToken(Prob::ONE), &[[0.0; 4]; 3]);
    assert!(same.share_bounded.abs() <= 0.0);
    assert!((same.mean_ratio - 1.0).abs() <= 0.0 && same.kl.abs() <= 0.0);
    assert!((same.effective_sample_size - 3.0).abs() < 1e-14);
    // Far apart, one completion counts.
    assert!((effective_sample_size(&[5e3, -5e3, 0.0]) - 1.0).abs() < 1e-14);
}
