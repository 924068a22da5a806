//! Rows of a table.

use burn::tensor::{Int, Tensor};

use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// The row of `weight` for each token.
///
/// On the way back rows of one token are added in the order of the batch, so that a run repeats.
///
/// # Shapes
/// `weight: [V, n]`, `tokens: [B, T]` in `0..V`; the result is `[B, T, n]`.
///
/// # Panics
/// On rows that are empty. A token outside of `0..V` panics on the CPU.
#[track_caller]
pub fn embedding(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<3> {
    embedding_with_padding(weight, tokens, None)
}

/// As [`embedding`]; the row of `padding` gets no gradient, wherever the token stands (`padding_idx` of
/// PyTorch's embedding).
///
/// # Panics
/// As [`embedding`].
#[track_caller]
pub fn embedding_with_padding(weight: Tensor<2>, tokens: Tensor<2, Int>, padding: Option<u32>) -> Tensor<3> {
    check::last("embedding", "weight", weight.dims());
    #[cfg(feature = "flex")]
    if flex::serves(&weight) {
        return Tensor::from_dispatch(<Dispatch as Fused>::embedding(
            weight.into_dispatch(),
            tokens.into_dispatch(),
            padding,
        ));
    }
    plain(weight, tokens, padding)
}

fn plain(weight: Tensor<2>, tokens: Tensor<2, Int>, padding: Option<u32>) -> Tensor<3> {
    let ([b, t], [_, n]) = (tokens.dims(), weight.dims());
    let rows = weight.select(0, tokens.clone().reshape([b * t])).reshape([b, t, n]);
    match padding {
        Some(token) if rows.device().is_autodiff() => {
            let is_padding = tokens.equal_elem(i64::from(token)).unsqueeze_dim::<3>(2);
            rows.clone().mask_where(is_padding.expand([b, t, n]), rows.detach())
        }
        _ => rows,
    }
}
