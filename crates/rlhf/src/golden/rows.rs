//! Rows of logits in both precisions, and the gradients of the scalar twins.

use burn::tensor::{Bool, Device, Gradients, Int, Tensor, TensorData};
use rlhf_core::host::stable::log_softmax;
use rlhf_core::logp::{entropy_scalar, token_logp_scalar};

use super::case::Array;

/// Logits as a leaf on the autodiff device, `[R, V]`, in `f32`.
pub(super) fn leaf(logits: &Array, device: &Device) -> Tensor<2> {
    plain(logits, &device.clone().autodiff()).require_grad()
}

/// Logits without gradient, `[R, V]`, in `f32`.
pub(super) fn plain(logits: &Array, device: &Device) -> Tensor<2> {
    let v = logits.shape.last().copied().unwrap_or(1);
    let values: Vec<f32> = logits.values.iter().map(|x| *x as f32).collect();
    let r = values.len() / v;
    Tensor::from_data(TensorData::new(values, [r, v]), device)
}

/// Numbers as `[n]` in `f32`.
pub(super) fn vector(values: &[f64], device: &Device) -> Tensor<1> {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Indices as `[n]`.
pub(super) fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|i| *i as i64).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// A tensor's numbers on the host.
pub(super) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_into_vec().expect("converted to f64")
}

/// A leaf's gradient on the host; zeros when the loss does not reach it.
pub(super) fn gradient<const D: usize>(leaf: &Tensor<D>, grads: &Gradients) -> Vec<f64> {
    leaf.grad(grads).map_or_else(|| vec![0.0; leaf.shape().num_elements()], host)
}

/// The softmax of a row.
pub(super) fn softmax(logits: &[f64]) -> Vec<f64> {
    log_softmax(logits).into_iter().map(f64::exp).collect()
}

/// `d log p(token) / d logits = e_token − p`.
pub(super) fn token_logp_gradient(logits: &[f64], token: usize) -> Vec<f64> {
    let mut gradient: Vec<f64> = softmax(logits).into_iter().map(|p| -p).collect();
    // 1 − p as expm1 keeps the digits of a token that is nearly sure.
    gradient[token] = -token_logp_scalar(logits, token).exp_m1();
    gradient
}

/// `d H / d logits = −p (log p + H)`.
pub(super) fn entropy_gradient(logits: &[f64]) -> Vec<f64> {
    let h = entropy_scalar(logits);
    log_softmax(logits).into_iter().map(|logp| -logp.exp() * (logp + h)).collect()
}

/// `into += weight · row`.
pub(super) fn add(into: &mut [f64], weight: f64, row: &[f64]) {
    for (a, b) in into.iter_mut().zip(row) {
        *a += weight * b;
    }
}

/// Positions whose label is a token, each with that token: position t predicts the label at t + 1.
/// `labels` is `[B, T]`, positions count through the flattened `B · T`.
pub(super) fn predicted(labels: &[i64], t: usize) -> Vec<(usize, usize)> {
    let scored = |(i, y): (usize, &i64)| {
        let token = usize::try_from(*y).ok()?;
        (i % t > 0).then(|| (i - 1, token))
    };
    labels.iter().enumerate().filter_map(scored).collect()
}

/// A mask of 0 and 1 as `[R, T]`.
pub(super) fn mask(values: &Array, device: &Device) -> Tensor<2, Bool> {
    let t = values.shape.last().copied().unwrap_or(1);
    let values = values.whole();
    let r = values.len() / t;
    Tensor::<2, Int>::from_data(TensorData::new(values, [r, t]), device).equal_elem(1)
}
