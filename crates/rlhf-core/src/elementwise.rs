//! Functions of one number that the tensor losses share, stable at both ends.

use burn::tensor::Tensor;
use burn::tensor::activation;

use crate::real::HELD_EXPONENT;

/// log(1 + eˣ). Burn's own keeps both tails: above 20 it is x, and e⁻²⁰ is below `f32`'s last digit.
pub fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::softplus(x, 1.0)
}

/// log σ(x). Not Burn's, which loses the tail log(1 + e⁻ˣ) above x = 17.
pub fn log_sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    softplus(x.neg()).neg()
}

/// σ(x) = 1 / (1 + e⁻ˣ).
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::sigmoid(x)
}

/// eˣ − 1 with the digits of a small x: tanh(x/2) (eˣ + 1).
pub fn exp_m1<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone().div_scalar(2.0).tanh() * x.exp().add_scalar(1.0)
}

/// eˣ − 1 up to x = [`HELD_EXPONENT`], from there on the straight line that continues it: value and
/// slope stay finite, so that a factor of 0 behind it leaves 0 and not 0 · ∞.
pub fn exp_m1_held<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let beyond = x.clone().greater_elem(HELD_EXPONENT);
    let top = HELD_EXPONENT.exp();
    // top (1 + x − held) − 1; the last 1 is far below its digits.
    let line = x.clone().sub_scalar(HELD_EXPONENT - 1.0).mul_scalar(top);
    exp_m1(x.clamp_max(HELD_EXPONENT)).mask_where(beyond, line)
}

/// The smaller of two numbers, elementwise. NaN of either stays.
pub fn smaller<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    // `min_pair` drops a NaN of the second.
    let lost = b.clone().is_nan();
    a.min_pair(b.clone()).mask_where(lost, b)
}

/// The larger of two numbers, elementwise. NaN of either stays.
pub fn larger<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let lost = b.clone().is_nan();
    a.max_pair(b.clone()).mask_where(lost, b)
}
