//! Root-mean-square norm.

use burn::tensor::Tensor;

use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// `x · weight / √(mean x² + ε)` on the last axis (Zhang and Sennrich, *Root Mean Square Layer
/// Normalization*, arXiv:1910.07467, Eq. 4, with an ε). Of the forward pass the fused form keeps one
/// number a row.
///
/// # Shapes
/// `x: [.., n]`, `weight: [n]`; the result is as `x`.
///
/// # Panics
/// On an empty last axis or a weight of another length.
#[track_caller]
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let n = check::last("rms_norm", "x", x.dims());
    check::same("rms_norm", "weight", weight.dims(), [n]);
    #[cfg(feature = "flex")]
    if flex::serves(&x) {
        return Tensor::from_dispatch(<Dispatch as Fused>::rms_norm(
            x.into_dispatch(),
            weight.into_dispatch(),
            epsilon as f32,
        ));
    }
    plain(x, weight, epsilon)
}

fn plain<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let rms = x.clone().square().mean_dim(D - 1).add_scalar(epsilon).sqrt();
    x / rms * weight.unsqueeze()
}
