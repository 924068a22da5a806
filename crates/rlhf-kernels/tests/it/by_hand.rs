//! Small cases in `f64`.

use burn::tensor::{Int, Tensor};
use rlhf_kernels::{
    Activation, AdamWState, AdamWStep, Attention, HeadLogp, activate, adamw, attention, head_logp,
    layer_norm, rms_norm, sum_of_squares,
};

use crate::common::{close, flat, fused, host, ints, plain, random};

fn to_f32(x: impl IntoIterator<Item = f64>) -> Vec<f32> {
    x.into_iter().map(|x| x as f32).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[test]
fn norms() {
    let n = 37;
    let (x, w, b) = (random(1, n), random(2, n), random(3, n));
    let (x64, w64, b64) = (wide(&x), wide(&w), wide(&b));
    let square = x64.iter().map(|x| x * x).sum::<f64>() / n as f64;
    let expected = to_f32(x64.iter().zip(&w64).map(|(x, w)| x * w / (square + 1e-5).sqrt()));
    let mean = x64.iter().sum::<f64>() / n as f64;
    let variance = x64.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
    let layer = x64.iter().zip(&w64).zip(&b64);
    let layer = to_f32(layer.map(|((x, w), b)| (x - mean) * w / (variance + 1e-5).sqrt() + b));
    for device in [fused().inner(), plain().inner()] {
        let t = |x: &[f32]| flat(x, &device);
        close("rms", &host(rms_norm(t(&x), t(&w), 1e-5)), &expected, 1e-6);
        close("layer", &host(layer_norm(t(&x), t(&w), t(&b), 1e-5)), &layer, 1e-6);
    }
}

#[test]
fn activations_over_their_whole_range() {
    let x: Vec<f32> = (-240..=240).map(|i| i as f32 / 8.0).collect();
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let tanh = |x: f64| {
        let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        x / (1.0 + (-twice).exp())
    };
    let of = |how| host(activate(how, flat(&x, &fused().inner())));
    let entry = |name: &str, found: &[f32], expected: &dyn Fn(f64) -> f64, tolerance: f64| {
        for (x, found) in x.iter().zip(found) {
            let expected = expected(f64::from(*x));
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= tolerance * expected.abs().max(1e-30), "{name}({x}): {expected} {found}");
        }
    };
    entry("silu", &of(Activation::Silu), &silu, 1e-6);
    // The exponent itself is rounded in the far left tail.
    let near: Vec<f32> = x.iter().map(|x| x.clamp(-3.0, 30.0)).collect();
    let found = host(activate(Activation::GeluTanh, flat(&near, &fused().inner())));
    for (x, found) in near.iter().zip(found) {
        let expected = tanh(f64::from(*x));
        assert!((f64::from(found) - expected).abs() <= 2e-6 * expected.abs(), "gelu_tanh({x}): {found}");
    }
    // Φ(−3), Φ(−1), Φ(0.5), Φ(2) of tables.
    let table = [
        (-3.0f32, 1.349_898_031_630_094_5e-3),
        (-1.0, 0.158_655_253_931_457_05),
        (0.5, 0.691_462_461_274_013_1),
        (2.0, 0.977_249_868_051_820_8),
    ];
    for (x, phi) in table {
        let found = host(activate(Activation::Gelu, flat(&[x], &fused().inner())))[0];
        let expected = f64::from(x) * phi;
        assert!((f64::from(found) - expected).abs() <= 2e-6 * expected.abs(), "gelu({x}): {found}");
    }
}

#[test]
fn attention_over_two_keys() {
    // One head of one number: query 1 sees keys 0 and 1 with scores 2·3·0.5 and 2·(−1)·0.5.
    let how = Attention { heads: 1, kv_heads: 1, head_dim: 1, scale: 0.5, window: None, softcap: None };
    let share = 3.0f64.exp() / (3.0f64.exp() + (-1.0f64).exp());
    let expected = to_f32([10.0, share * 10.0 + (1.0 - share) * 20.0]);
    for device in [fused().inner(), plain().inner()] {
        let t = |x: [f32; 2]| flat(&x, &device).reshape([1, 2, 1]);
        let out = attention(&how, t([7.0, 2.0]), t([3.0, -1.0]), t([10.0, 20.0]));
        close("attention", &host(out.reshape([2])), &expected, 1e-6);
        let near = Attention { window: Some(1), ..how };
        let out = attention(&near, t([7.0, 2.0]), t([3.0, -1.0]), t([10.0, 20.0]));
        close("window of one", &host(out.reshape([2])), &[10.0, 20.0], 1e-6);
    }
}

#[test]
fn log_probability_of_two_tokens() {
    // Logits 2 and 0 at temperature 2: −log(1 + e⁻¹).
    let how = HeadLogp { temperature: 2.0, softcap: None };
    for device in [fused().inner(), plain().inner()] {
        let hidden = flat(&[1.0, 1.0], &device).reshape([1, 2]);
        let weight = flat(&[1.0, 1.0, 1.0, -1.0], &device).reshape([2, 2]);
        let logp = head_logp(hidden, weight, ints(&[0], &device), &how);
        close("logp", &host(logp), &[-0.313_261_7], 1e-6);
    }
}

#[test]
fn adamw_in_f64() {
    let n = 1003;
    let how = AdamWStep {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        scale: 0.5,
        step: 3,
    };
    let (theta, grad) = (random(1, n), random(2, n));
    let (first, second) = (random(3, n), random(4, n).iter().map(|x| x * x).collect::<Vec<_>>());
    let mut expected = [Vec::new(), Vec::new(), Vec::new()];
    for i in 0..n {
        let [x, g, m, v] = [theta[i], grad[i], first[i], second[i]].map(f64::from);
        let g = 0.5 * g;
        let (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
        let root = (v / (1.0 - 0.999f64.powi(3))).sqrt() + 1e-8;
        let x = x * (1.0 - 1e-4) - 1e-3 * (m / (1.0 - 0.9f64.powi(3))) / root;
        [x, m, v].into_iter().zip(&mut expected).for_each(|(x, e)| e.push(x as f32));
    }
    for device in [fused().inner(), plain().inner()] {
        let t = |x: &[f32]| flat(x, &device);
        let state = AdamWState { theta: t(&theta), first: t(&first), second: t(&second) };
        let kept = state.theta.clone();
        let new = adamw(&how, state, t(&grad));
        close("theta", &host(new.theta), &expected[0], 1e-6);
        close("first", &host(new.first), &expected[1], 1e-6);
        close("second", &host(new.second), &expected[2], 1e-6);
        // A parameter that someone else holds is not written.
        assert_eq!(host(kept), theta);
        let squares = sum_of_squares(&[t(&theta), t(&grad)]);
        let exact: f64 = theta.iter().chain(&grad).map(|x| f64::from(*x).powi(2)).sum();
        assert!((squares - exact).abs() < 1e-6 * exact, "{squares} {exact}");
        assert!(sum_of_squares(&[t(&[1.0, f32::NAN])]).is_nan());
    }
    assert!(sum_of_squares(&[]).abs() < f64::EPSILON);
}

#[test]
fn not_a_number_is_never_hidden() {
    let device = fused().inner();
    let bad = [1.0, f32::NAN, 2.0];
    let t = |x: &[f32]| flat(x, &device);
    let all_nan = |x: Vec<f32>| x.iter().all(|x| x.is_nan());
    assert!(all_nan(host(rms_norm(t(&bad), t(&[1.0; 3]), 1e-6))));
    assert!(all_nan(host(layer_norm(t(&bad), t(&[1.0; 3]), t(&[0.0; 3]), 1e-6))));
    for how in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let y = host(activate(how, t(&[f32::NAN, f32::INFINITY, 0.5])));
        assert!(y[0].is_nan() && y[1].is_infinite() && y[2].is_finite(), "{how:?}: {y:?}");
    }
    let how = Attention { heads: 1, kv_heads: 1, head_dim: 1, scale: 1.0, window: None, softcap: None };
    let x = |x: &[f32]| t(x).reshape([1, 3, 1]);
    let out = host(attention(&how, x(&[1.0; 3]), x(&[0.0, 0.0, f32::NAN]), x(&[1.0; 3])).reshape([3]));
    assert!(out[2].is_nan() && !out[0].is_nan(), "{out:?}");
    let how = HeadLogp::default();
    let targets = |x: &[i32]| -> Tensor<1, Int> { ints(x, &device) };
    let hidden = t(&[1.0, f32::NAN]).reshape([2, 1]);
    let logp = host(head_logp(hidden, t(&[1.0, 2.0]).reshape([1, 2]), targets(&[0, 1]), &how));
    assert!(logp[0].is_finite() && logp[1].is_nan(), "{logp:?}");
}
