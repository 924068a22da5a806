//! A gate and the linear map behind it.

use burn::tensor::Tensor;

use crate::activation::{Activation, gated};
use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
use crate::linear::linear;
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// `(how(gate) ⊙ up) · weight + bias`: [`gated`] and [`linear`] as one. The fused form does not keep what
/// lies between the two, which is as large as `gate`, and makes it again on the way back.
///
/// # Shapes
/// `gate` and `up`: `[.., in]`, `weight: [in, out]`, `bias: [out]`; the result is `[.., out]`.
///
/// # Panics
/// On an empty last axis or shapes that do not fit.
#[track_caller]
pub fn gated_linear<const D: usize>(
    how: Activation,
    gate: Tensor<D>,
    up: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let n = check::last("gated_linear", "gate", gate.dims());
    check::same("gated_linear", "up", up.dims(), gate.dims());
    let [_, out] = weight.dims();
    check::same("gated_linear", "weight", weight.dims(), [n, out]);
    if let Some(bias) = &bias {
        check::same("gated_linear", "bias", bias.dims(), [out]);
    }
    #[cfg(feature = "flex")]
    if flex::serves(&gate) {
        let mut shape = gate.dims();
        let rows = shape[..D - 1].iter().product::<usize>();
        shape[D - 1] = out;
        let flat = |x: Tensor<D>| x.reshape([rows, n]).into_dispatch();
        let y = <Dispatch as Fused>::gated_linear(flat(gate), flat(up), weight.into_dispatch(), how);
        let y = Tensor::<2>::from_dispatch(y);
        return match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
        .reshape(shape);
    }
    linear(gated(how, gate, up), weight, bias)
}
