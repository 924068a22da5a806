//! Layer norm.

use burn::tensor::Tensor;

use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// `(x − mean x) · weight / √(var x + ε) + bias` on the last axis, with the biased variance (Ba, Kiros
/// and Hinton, *Layer Normalization*, arXiv:1607.06450, Eq. 4, with an ε). Of the forward pass the
/// fused form keeps two numbers a row.
///
/// # Shapes
/// `x: [.., n]`, `weight: [n]`, `bias: [n]`; the result is as `x`.
///
/// # Panics
/// On an empty last axis or a weight or bias of another length.
#[track_caller]
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let n = check::last("layer_norm", "x", x.dims());
    check::same("layer_norm", "weight", weight.dims(), [n]);
    check::same("layer_norm", "bias", bias.dims(), [n]);
    #[cfg(feature = "flex")]
    if flex::serves(&x) {
        return Tensor::from_dispatch(<Dispatch as Fused>::layer_norm(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            epsilon as f32,
        ));
    }
    plain(x, weight, bias, epsilon)
}

fn plain<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let centred = x.clone() - x.mean_dim(D - 1);
    let deviation = centred.clone().square().mean_dim(D - 1).add_scalar(epsilon).sqrt();
    centred / deviation * weight.unsqueeze() + bias.unsqueeze()
}
