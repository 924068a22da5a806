//! Rotary positions.

use burn::tensor::Tensor;

use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// Rotates the first `R` entries of each head by halves and passes the rest (Su et al., *RoFormer*,
/// arXiv:2104.09864, Eq. 34, in the half-split layout of Hugging Face checkpoints):
///
/// ```text
/// x₁ ← x₁ cos − x₂ sin        x₂ ← x₂ cos + x₁ sin        x₁ = x[..R/2], x₂ = x[R/2..R]
/// ```
///
/// No gradient flows into the tables. They count as constants.
///
/// # Shapes
/// `x: [B, T, heads · D]`, `cos` and `sin`: `[T, R/2]` with `R ≤ D`; the result is as `x`.
///
/// # Panics
/// On a width that is no multiple of `heads`, tables of another length than `T`, or `R > D`.
#[track_caller]
pub fn rope(x: Tensor<3>, heads: usize, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<3> {
    let [_, t, width] = x.dims();
    assert!(
        heads > 0 && width > 0 && width.is_multiple_of(heads),
        "rope: x: expected a last axis that {heads} heads share, found {width}"
    );
    let [_, half] = cos.dims();
    check::same("rope", "cos", cos.dims(), [t, half]);
    check::same("rope", "sin", sin.dims(), [t, half]);
    let d = width / heads;
    assert!(2 * half <= d, "rope: cos: expected at most {} columns for heads of {d}, found {half}", d / 2);
    if half == 0 {
        return x;
    }
    #[cfg(feature = "flex")]
    if flex::serves(&x) {
        return Tensor::from_dispatch(<Dispatch as Fused>::rope(
            x.into_dispatch(),
            cos.into_dispatch(),
            sin.into_dispatch(),
            heads,
        ));
    }
    plain(x, heads, cos, sin)
}

fn plain(x: Tensor<3>, heads: usize, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<3> {
    let [b, t, width] = x.dims();
    let [_, half] = cos.dims();
    let d = width / heads;
    let x = x.reshape([b, t, heads, d]);
    let (cos, sin) = (cos.reshape([1, t, 1, half]), sin.reshape([1, t, 1, half]));
    let first = x.clone().narrow(3, 0, half);
    let second = x.clone().narrow(3, half, half);
    let mut parts =
        vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
    if d > 2 * half {
        parts.push(x.narrow(3, 2 * half, d - 2 * half));
    }
    Tensor::cat(parts, 3).reshape([b, t, width])
}
