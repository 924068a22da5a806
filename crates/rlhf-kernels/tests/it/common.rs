//! One way to run an operation: leaves in, values and gradients out.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What an operation gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) values: Vec<f32>,
    pub(crate) gradients: Vec<Vec<f32>>,
}

pub(crate) type Operation<'a> = dyn Fn(&[Tensor<1>]) -> Tensor<1> + Sync + 'a;

pub(crate) fn fused() -> Device {
    Device::flex().autodiff()
}

#[expect(deprecated, reason = "the backend whose operations are composed")]
pub(crate) fn plain() -> Device {
    Device::ndarray().autodiff()
}

/// Numbers in −2..2.
pub(crate) fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-2.0..2.0)).collect()
}

/// Indices below `limit`, the last one among them.
pub(crate) fn indices(seed: u64, n: usize, limit: usize) -> Vec<i32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut x: Vec<i32> = (0..n).map(|_| rng.random_range(0..limit as i32)).collect();
    if let Some(last) = x.last_mut() {
        *last = limit as i32 - 1;
    }
    x
}

pub(crate) fn flat(x: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(x.to_vec(), [x.len()]), device)
}

pub(crate) fn ints(x: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(x.to_vec(), [x.len()]), device)
}

pub(crate) fn host(x: Tensor<1>) -> Vec<f32> {
    x.into_data().try_into_vec().expect("f32")
}

/// The gradient is that of `Σ r out` with fixed random `r`.
pub(crate) fn run(device: &Device, leaves: &[Vec<f32>], operation: &Operation<'_>) -> Outcome {
    let leaves: Vec<Tensor<1>> = leaves.iter().map(|x| flat(x, device).require_grad()).collect();
    let out = operation(&leaves);
    let weights = flat(&random(99, out.dims()[0]), device);
    let grads = (out.clone() * weights).sum().backward();
    let gradient = |x: &Tensor<1>| host(x.grad(&grads).expect("each leaf is reached"));
    Outcome { values: host(out.inner()), gradients: leaves.iter().map(gradient).collect() }
}

/// `found` is `expected` within `tolerance`, relative to the larger of the entry and the root mean
/// square of all, and a quarter.
#[track_caller]
pub(crate) fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}: lengths");
    let square: f32 = expected.iter().map(|x| x * x).sum::<f32>() / expected.len().max(1) as f32;
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        // An entry of a tensor that is zero but for rounding is compared with a quarter.
        let bound = tolerance * e.abs().max(square.sqrt()).max(0.25);
        assert!((f - e).abs() <= bound, "{name}[{i}]: expected {e}, found {f}");
    }
}

/// The two devices agree, values to 3e-6 and gradients to 1e-5.
#[track_caller]
pub(crate) fn agree(name: &str, leaves: &[Vec<f32>], operation: &Operation<'_>) {
    let expected = run(&plain(), leaves, operation);
    let found = run(&fused(), leaves, operation);
    close(name, &found.values, &expected.values, 3e-6);
    for (i, (found, expected)) in found.gradients.iter().zip(&expected.gradients).enumerate() {
        close(&format!("{name}, gradient {i}"), found, expected, 1e-5);
    }
}
