//! Exact means over a table of three tokens, and numbers by hand.

use super::*;
use crate::host::kl::exact_kl;
use crate::real::gradient;
use KlEstimator::{K1, K2, K3};
use KlGradient::{LiveRatio, Pathwise, StraightThrough, WithScore};

const P: [f64; 3] = [0.5, 0.3, 0.2];
const Q: [f64; 3] = [0.6, 0.3, 0.1];
/// Another policy, which drew the tokens.
const OLD: [f64; 3] = [0.25, 0.25, 0.5];

fn clamped(config: KlConfig, input: f64, output: f64) -> KlConfig {
    let bound = |x| Bound::new(x).expect("positive");
    KlConfig { input_clamp: bound(input), output_clamp: bound(output), ..config }
}

/// Value and slope of one token.
fn term(config: KlConfig, logp: f64, reference: f64, old: f64) -> (f64, f64) {
    let (value, slope) = gradient(&[logp], |x| kl_penalty_scalar(config, x[0], reference, old));
    (value, slope[0])
}

/// The exact mean, over tokens that `drawn` draws, of the value and of the gradient with respect
/// to the logits of P.
fn mean(config: KlConfig, drawn: [f64; 3]) -> (f64, [f64; 3]) {
    let (mut value, mut into) = (0.0, [0.0; 3]);
    for y in 0..3 {
        let (v, slope) = term(config, P[y].ln(), Q[y].ln(), drawn[y].ln());
        value += drawn[y] * v;
        for i in 0..3 {
            // ∂ log p(y) / ∂ z_i = [i = y] − p_i.
            into[i] += drawn[y] * slope * (f64::from(u8::from(i == y)) - P[i]);
        }
    }
    (value, into)
}

fn close(a: [f64; 3], b: [f64; 3]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-15)
}

#[test]
fn which_gradients_are_those_of_the_divergence() {
    let kl = exact_kl(&P.map(f64::ln), &Q.map(f64::ln));
    // ∂ KL(P ‖ Q) / ∂ z_i = p_i (log p_i − log q_i − KL), and of KL(Q ‖ P) it is p_i − q_i.
    let exact = std::array::from_fn(|i| P[i] * (P[i].ln() - Q[i].ln() - kl));
    let reversed = std::array::from_fn(|i| P[i] - Q[i]);
    let of = |k, how| mean(KlConfig::new(k, how), P).1;
    for right in [(K2, Pathwise), (K1, WithScore), (K3, WithScore), (K1, LiveRatio), (K3, LiveRatio)] {
        assert!(close(of(right.0, right.1), exact), "{right:?}");
    }
    assert!([K1, K2, K3].iter().all(|k| close(of(*k, StraightThrough), exact)));
    assert!(close(of(K1, Pathwise), [0.0; 3]));
    assert!(close(of(K3, Pathwise), reversed) && !close(reversed, exact));
    // k2 with score is the gradient of its own mean, which is not the divergence.
    assert!(!close(of(K2, WithScore), exact));
    // Drawn by another policy, only the live ratio stays right, in value and gradient.
    for k in [K1, K3] {
        let (value, into) = mean(KlConfig::new(k, LiveRatio), OLD);
        assert!((value - kl).abs() < 1e-15 && close(into, exact), "{k:?}");
        assert!(!close(mean(KlConfig::new(k, WithScore), OLD).1, exact), "{k:?}");
    }
}

#[test]
fn values_and_clamps_by_hand() {
    // d = −1, 14 and 29. k3: e − 2, e⁻¹⁴ + 13 and e⁻²⁹ + 28.
    let e = std::f64::consts::E;
    let k3 = [e - 2.0, (-14f64).exp() + 13.0, (-29f64).exp() + 28.0];
    let plain = [(K1, [-1.0, 14.0, 29.0]), (K2, [0.5, 98.0, 420.5]), (K3, k3)];
    for (k, expected) in plain {
        for how in [Pathwise, StraightThrough, WithScore] {
            let config = KlConfig::new(k, how);
            for (reference, expected) in [0.0, -15.0, -30.0].into_iter().zip(expected) {
                let of = |config| term(config, -1.0, reference, 0.0).0;
                assert!((of(config) - expected).abs() < 1e-13, "{config:?}");
                // Held at |d| ≤ 20 and |k| ≤ 10.
                let held = of(clamped(config, 20.0, 10.0));
                assert!((held - expected.min(10.0)).abs() < 1e-13, "{config:?}");
            }
        }
    }
}

#[test]
fn what_a_clamp_holds_passes_no_gradient() {
    // d = −3 held at −2: e² − 3 and no slope; d = −1 is free: e − 2, slope d.
    for how in [WithScore, LiveRatio] {
        let config = clamped(KlConfig::new(K3, how), 2.0, 10.0);
        let (value, slope) = term(config, -3.0, 0.0, -3.0);
        assert!((value - (2f64.exp() - 3.0)).abs() < 1e-15 && slope.abs() <= 0.0);
        let (value, slope) = term(config, -1.0, 0.0, -1.0);
        assert!((value - (1f64.exp() - 2.0)).abs() < 1e-15 && (slope + 1.0).abs() < 1e-15);
        // The same where k is held: e³ − 4 = 16.1 at 10, ratio or not.
        let config = clamped(KlConfig::new(K3, how), 20.0, 10.0);
        let (value, slope) = term(config, -3.0, 0.0, -3.0);
        assert!((value - 10.0).abs() <= 0.0 && slope.abs() <= 0.0);
        // An end belongs to what is free: slopes d = −2 and k′ + k = 1 + 2.
        let config = clamped(KlConfig::new(K3, how), 2.0, 10.0);
        assert!((term(config, -2.0, 0.0, -2.0).1 + 2.0).abs() < 1e-15);
        let config = clamped(KlConfig::new(K1, how), 20.0, 2.0);
        assert!((term(config, 2.0, 0.0, 2.0).1 - 3.0).abs() <= 0.0);
    }
}

#[test]
fn straight_through_a_clamp_the_gradient_stays() {
    let config = clamped(KlConfig::new(K3, StraightThrough), 2.0, 3.0);
    let (value, slope) = term(config, -5.0, 0.0, 0.0);
    assert!((value - 3.0).abs() <= 0.0 && (slope + 5.0).abs() <= 0.0);
}

#[test]
fn three_gradients_of_two_tokens() {
    // d = −0.3 and 0.4 at β/n = 0.15: with score 0.15 d, by the ratio to the drawing policy
    // 0.15 e^±⁰·³ d, pathwise 0.15 (1 − e⁻ᵈ).
    let tokens = [(-1.2, -0.9, -1.5, -0.3f64, 0.3f64), (-0.7, -1.1, -0.4, 0.4, -0.3)];
    for (logp, reference, old, d, log_ratio) in tokens {
        let slope = |how| 0.15 * term(KlConfig::new(K3, how), logp, reference, old).1;
        assert!((slope(WithScore) - 0.15 * d).abs() < 1e-15);
        assert!((slope(LiveRatio) - 0.15 * log_ratio.exp() * d).abs() < 1e-15);
        assert!((slope(Pathwise) + 0.15 * (-d).exp_m1()).abs() < 1e-15);
    }
}

#[test]
fn finite_far_out() {
    for d in [-5e3, 5e3] {
        for (k, how) in [(K1, WithScore), (K2, Pathwise), (K3, Pathwise), (K3, StraightThrough)] {
            let (value, slope) = term(KlConfig::new(k, how), d, 0.0, d);
            assert!(value.is_finite() && slope.is_finite(), "{k:?} {how:?} {d}");
        }
    }
    // The far side of k3 is d − 1, slope 1.
    let (value, slope) = term(KlConfig::paper(), 5e3, 0.0, 0.0);
    assert!((value - 4999.0).abs() <= 0.0 && (slope - 1.0).abs() <= 0.0);
}
