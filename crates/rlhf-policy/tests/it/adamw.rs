//! The tensor optimiser against its `f64` definition.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::host::adamw::{AdamWNumbers, AdamWScalar};
use rlhf_core::rng::stream;
use rlhf_policy::optim::{AdamW, AdamWConfig, Grads};

use crate::support::close;

const N: usize = 6 + 3;

/// A matrix and a vector: one is decayed, the other not.
#[derive(Module, Debug)]
struct Toy {
    matrix: Param<Tensor<2>>,
    vector: Param<Tensor<1>>,
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn toy() -> Toy {
    let values: Vec<f32> = start().iter().map(|x| *x as f32).collect();
    Toy {
        matrix: Param::from_data(TensorData::new(values[..6].to_vec(), [2, 3]), &device()),
        vector: Param::from_data(TensorData::new(values[6..].to_vec(), [3]), &device()),
    }
}

fn start() -> Vec<f64> {
    (0..N).map(|i| f64::from((0.4 * i as f64 - 1.5) as f32)).collect()
}

/// Step `t`'s gradient; sizes from far below the clipping bound to far above it.
fn slope(t: u64) -> Vec<f32> {
    let mut rng = stream(3, "adamw", t, 0);
    let size = [0.01, 0.3, 5.0][t as usize % 3];
    (0..N).map(|_| (size * (rng.random::<f64>() - 0.5)) as f32).collect()
}

/// The gradient of `Σ slope · θ` is `slope`.
fn grads(toy: &Toy, slope: &[f32]) -> Grads {
    let plain = |x: &[f32], dims| Tensor::<2>::from_data(TensorData::new(x.to_vec(), dims), &device());
    let vector = Tensor::<1>::from_data(TensorData::new(slope[6..].to_vec(), [3]), &device());
    let loss = (toy.matrix.val() * plain(&slope[..6], [2, 3])).sum() + (toy.vector.val() * vector).sum();
    Grads::of(toy, &loss.backward())
}

fn values(toy: &Toy) -> Vec<f32> {
    let mut out: Vec<f32> = toy.matrix.val().into_data().try_into_vec().expect("f32");
    out.extend(toy.vector.val().into_data().try_into_vec::<f32>().expect("f32"));
    out
}

fn config(max_grad_norm: f64) -> AdamWConfig {
    AdamWConfig { weight_decay: 0.3, max_grad_norm, ..AdamWConfig::torch() }
}

fn rate(t: u64) -> f64 {
    0.02 / (1.0 + t as f64)
}

#[test]
fn twenty_steps_equal_the_definition() {
    for bound in [1.0, 0.05, f64::INFINITY] {
        let c = config(bound);
        let numbers = AdamWNumbers {
            beta1: c.adam_beta1,
            beta2: c.adam_beta2,
            epsilon: c.adam_epsilon,
            max_grad_norm: bound,
        };
        let (mut optim, mut twin) = (AdamW::new(c), AdamWScalar::new(numbers, N));
        let (mut toy, mut theta) = (toy(), start());
        let decay: Vec<f64> = (0..N).map(|i| if i < 6 { 0.3 } else { 0.0 }).collect();
        let mut n_clipped = 0;
        for t in 0..20 {
            let slope = slope(t);
            let g = grads(&toy, &slope);
            let (next, norm) = optim.step(rate(t), toy, g);
            toy = next;
            let wide: Vec<f64> = slope.iter().map(|x| f64::from(*x)).collect();
            let expected = twin.step(rate(t), &mut theta, &decay, &wide);
            close("norm", norm / expected, 1.0, 1e-6);
            n_clipped += usize::from(norm > bound);
            for (x, y) in values(&toy).iter().zip(&theta) {
                // θ is about 1 and rounded 3 times a step to half of 1.2e-7.
                close("θ", f64::from(*x), *y, 2e-6);
            }
        }
        assert_eq!(n_clipped > 0, bound.is_finite(), "bound {bound}");
        assert!(n_clipped < 20);
    }
}

#[test]
fn vectors_are_not_decayed() {
    let none = vec![0.0; N];
    let before = toy();
    let g = grads(&before, &none);
    let (after, norm) = AdamW::new(config(1.0)).step(0.5, before, g);
    close("norm", norm, 0.0, 0.0);
    for (i, (x, y)) in values(&after).iter().zip(start()).enumerate() {
        // θ (1 − η λ) = θ (1 − 0.5 · 0.3) for the matrix.
        close("θ", f64::from(*x), if i < 6 { 0.85 * y } else { y }, 2e-7);
    }
}

#[test]
fn a_saved_state_continues_to_the_bit() {
    let run = |mut toy: Toy, mut optim: AdamW, steps: std::ops::Range<u64>| {
        for t in steps {
            let g = grads(&toy, &slope(t));
            toy = optim.step(rate(t), toy, g).0;
        }
        (toy, optim)
    };
    let (straight, optim) = run(toy(), AdamW::new(config(1.0)), 0..20);
    let (half, stopped) = run(toy(), AdamW::new(config(1.0)), 0..9);
    let state = stopped.state();
    assert_eq!((state.n_steps, state.moments.len()), (9, 2));
    let restored = AdamW::restored(config(1.0), &state, &Device::flex());
    assert_eq!(restored.state(), state);
    let (resumed, last) = run(half, restored, 9..20);
    let bits = |t: &Toy| values(t).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&resumed), bits(&straight));
    assert_eq!(last.state(), optim.state());
    // A state that was lost shows: the test would notice.
    let half = run(toy(), AdamW::new(config(1.0)), 0..9).0;
    assert_ne!(bits(&run(half, AdamW::new(config(1.0)), 9..20).0), bits(&straight));
}

#[test]
fn a_gradient_that_is_no_number_changes_nothing() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut optim = AdamW::new(config(1.0));
        let first = toy();
        let g = grads(&first, &slope(0));
        let (before, _) = optim.step(0.01, first, g);
        let (state, theta) = (optim.state(), values(&before));
        let mut slope = slope(1);
        slope[7] = bad;
        let g = grads(&before, &slope);
        let (after, norm) = optim.step(0.01, before, g);
        assert!(!norm.is_finite(), "{norm}");
        assert_eq!((values(&after), optim.state()), (theta, state));
    }
}

#[test]
fn gradients_add_by_name_and_what_is_not_reached_is_absent() {
    let toy = toy();
    let only_matrix = Grads::of(&toy, &toy.matrix.val().sum().backward());
    assert_eq!(only_matrix.names().collect::<Vec<_>>(), ["matrix"]);
    assert!(only_matrix.host("vector").is_none());
    let all = only_matrix.plus(grads(&toy, &[0.5; N]));
    assert_eq!(all.host("matrix").expect("there"), [1.5; 6]);
    assert_eq!(all.host("vector").expect("there"), [0.5; 3]);
    // √(6 · 1.5² + 3 · 0.5²) = √14.25.
    close("norm", all.global_norm(), 14.25f64.sqrt(), 1e-6);
    close("norm", Grads::default().global_norm(), 0.0, 0.0);
}

#[test]
fn a_parameter_without_a_gradient_stays() {
    let before = toy();
    let g = Grads::of(&before, &before.vector.val().sum().backward());
    let old = values(&before);
    let (after, _) = AdamW::new(config(1.0)).step(0.1, before, g);
    assert_eq!(values(&after)[..6], old[..6]);
    assert!(values(&after)[6..].iter().zip(&old[6..]).all(|(a, b)| a < b));
}
