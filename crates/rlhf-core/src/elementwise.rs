//! Functions of one number that the tensor losses share, stable at both ends.

use burn::tensor::Tensor;
use burn::tensor::activation;

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

/// The smaller of two numbers, elementwise.
pub fn smaller<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    a.min_pair(b)
}

/// The larger of two numbers, elementwise.
pub fn larger<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    a.max_pair(b)
}
