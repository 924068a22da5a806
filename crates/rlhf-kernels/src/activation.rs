//! Activations, alone and as the gate of another tensor.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu_approximate, relu, silu};

use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// An elementwise function between two linear maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)` with the normal distribution Φ, exact (Hendrycks and Gimpel, arXiv:1606.08415).
    Gelu,
    /// `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, its approximation of the same paper.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `how` of each number of `x`.
pub fn activate<const D: usize>(how: Activation, x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if flex::serves(&x) {
        return Tensor::from_dispatch(<Dispatch as Fused>::activate(x.into_dispatch(), how));
    }
    plain(how, x)
}

/// `how(gate) ⊙ up`; the fused form keeps `gate` and `up` alone and takes `how` again on the way back.
///
/// # Panics
/// When the shapes differ.
#[track_caller]
pub fn gated<const D: usize>(how: Activation, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    check::same("gated", "up", up.dims(), gate.dims());
    #[cfg(feature = "flex")]
    if flex::serves(&gate) {
        return Tensor::from_dispatch(<Dispatch as Fused>::gated(
            gate.into_dispatch(),
            up.into_dispatch(),
            how,
        ));
    }
    plain(how, gate) * up
}

fn plain<const D: usize>(how: Activation, x: Tensor<D>) -> Tensor<D> {
    match how {
        Activation::Silu => silu(x),
        // Burn's own gelu has the derivative of its tanh approximation.
        Activation::Gelu => {
            let phi = x.clone().mul_scalar(std::f64::consts::FRAC_1_SQRT_2).erf().add_scalar(1.0);
            x * phi.mul_scalar(0.5)
        }
        Activation::GeluTanh => gelu_approximate(x),
        Activation::Relu => relu(x),
    }
}
