//! A linear map.

use burn::tensor::Tensor;

use crate::check;

/// `x · weight + bias`. All axes of `x` but the last are taken as one, so that the product and both its
/// gradients are one matrix product each, however many rows a batch has.
///
/// # Shapes
/// `x: [.., in]`, `weight: [in, out]`, `bias: [out]`; the result is `[.., out]`.
///
/// # Panics
/// On an empty last axis or a weight or bias that does not fit.
#[track_caller]
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let mut shape = x.dims();
    let n = check::last("linear", "x", shape);
    let [_, out] = weight.dims();
    check::same("linear", "weight", weight.dims(), [n, out]);
    if let Some(bias) = &bias {
        check::same("linear", "bias", bias.dims(), [out]);
    }
    let rows = shape[..D - 1].iter().product();
    shape[D - 1] = out;
    let y = x.reshape([rows, n]).matmul(weight);
    match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    }
    .reshape(shape)
}
