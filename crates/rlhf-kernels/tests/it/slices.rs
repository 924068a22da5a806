//! The helpers on slices against `f64`.

use rlhf_kernels::slice;

use crate::common::random;

/// Units in the last place between a result and the truth.
fn ulps(found: f32, truth: f64) -> f64 {
    let near = truth as f32;
    let spacing = f64::from(near.next_up()) - f64::from(near);
    (f64::from(found) - truth).abs() / spacing
}

#[track_caller]
fn same(found: f32, expected: f32) {
    assert_eq!(found.to_bits(), expected.to_bits(), "expected {expected}, found {found}");
}

#[test]
fn exp_is_within_two_ulps() {
    let mut x: Vec<f32> = (-87_300..=88_700).step_by(7).map(|i| i as f32 / 1000.0).collect();
    let truth: Vec<f64> = x.iter().map(|x| f64::from(*x).exp()).collect();
    slice::exp(&mut x);
    let worst = x.iter().zip(&truth).map(|(x, t)| ulps(*x, *t)).fold(0.0, f64::max);
    assert!(worst <= 2.0, "{worst}");
}

#[test]
fn exp_at_the_ends() {
    let mut x = [f32::NEG_INFINITY, -1e30, -0.0, 0.0, 88.8, f32::INFINITY, f32::NAN];
    slice::exp(&mut x);
    assert_eq!(x[..6], [0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]);
    assert!(x[6].is_nan());
}

#[test]
fn tanh_is_within_three_ulps() {
    let mut x: Vec<f32> = (-12_000..=12_000).map(|i| i as f32 / 1000.0).collect();
    let truth: Vec<f64> = x.iter().map(|x| f64::from(*x).tanh()).collect();
    slice::tanh(&mut x);
    let worst = x.iter().zip(&truth).map(|(x, t)| ulps(*x, *t)).fold(0.0, f64::max);
    assert!(worst <= 3.0, "{worst}");
    let mut ends = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
    slice::tanh(&mut ends);
    assert_eq!(ends[..2], [-1.0, 1.0]);
    assert!(ends[2].is_nan());
}

#[test]
fn softmax_and_log_sum_exp() {
    for n in [1, 5, 16, 37, 1000] {
        let x = random(n as u64, n);
        let z: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
        assert!((f64::from(slice::log_sum_exp(&x)) - z.ln()).abs() < 2e-6, "{n}");
        let mut p = x.clone();
        slice::softmax_in_place(&mut p);
        for (x, p) in x.iter().zip(&p) {
            let truth = f64::from(*x).exp() / z;
            assert!((f64::from(*p) - truth).abs() < 2e-6 * truth, "{n}");
        }
    }
    same(slice::log_sum_exp(&[]), f32::NEG_INFINITY);
    same(slice::log_sum_exp(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
    same(slice::log_sum_exp(&[1.0, f32::INFINITY]), f32::INFINITY);
    assert!(slice::log_sum_exp(&[1.0, f32::NAN]).is_nan());
    assert!(slice::log_sum_exp(&[f32::INFINITY, f32::NAN]).is_nan());
    slice::softmax_in_place(&mut []);
}

#[test]
fn rows_and_sums() {
    for n in [1, 7, 64, 100] {
        let (x, w) = (random(1, n), random(2, n));
        let wide = |x: f32| f64::from(x);
        let dot: f64 = x.iter().zip(&w).map(|(x, w)| wide(*x) * wide(*w)).sum();
        assert!((wide(slice::dot(&x, &w)) - dot).abs() < 1e-4);
        assert!((wide(slice::sum(&x)) - x.iter().map(|x| wide(*x)).sum::<f64>()).abs() < 1e-4);
        same(slice::max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut out = vec![0.0; n];
        let inverse = slice::rms_norm_row(&x, &w, 1e-6, &mut out);
        let square = x.iter().map(|x| wide(*x).powi(2)).sum::<f64>() / n as f64;
        assert!((wide(inverse) - 1.0 / (square + 1e-6).sqrt()).abs() < 1e-6 / square.sqrt());
        let mut y = x.clone();
        slice::add_scaled(&mut y, 0.5, &w);
        assert!(y.iter().zip(x.iter().zip(&w)).all(|(y, (x, w))| (y - (x + 0.5 * w)).abs() < 1e-6));
        let mut gate = x.clone();
        slice::silu_mul(&mut gate, &w);
        for (y, (x, w)) in gate.iter().zip(x.iter().zip(&w)) {
            let truth = wide(*x) / (1.0 + (-wide(*x)).exp()) * wide(*w);
            assert!((wide(*y) - truth).abs() <= 1e-6 * truth.abs().max(1e-3));
        }
    }
}

#[test]
fn a_head_is_rotated_in_part() {
    let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
    slice::rotate(&mut head, &[0.0, 1.0], &[1.0, 0.0]);
    // (1, 3) by a quarter turn, (2, 4) not at all, 5 passes.
    head.iter().zip([-3.0, 2.0, 1.0, 4.0, 5.0]).for_each(|(x, expected)| same(*x, expected));
}
