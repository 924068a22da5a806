//! Causal attention.

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};

use crate::check;
#[cfg(feature = "flex")]
use crate::flex::{self, Fused};
use crate::softcap::softcap;
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// Heads, scale and what a query may see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads `H`.
    pub heads: usize,
    /// Key and value heads `G`, a divisor of `heads`: query head `h` reads key head `h / (H / G)`.
    pub kv_heads: usize,
    /// Numbers a head, `D`.
    pub head_dim: usize,
    /// What `q · k` is multiplied with, mostly `1/√D`.
    pub scale: f64,
    /// A query at `t` sees keys `s` with `t − s < window`; absent for all before it.
    pub window: Option<usize>,
    /// `s ← cap · tanh(s / cap)` before the mask (Gemma 2); absent for none.
    pub softcap: Option<f64>,
}

/// Causal attention of rows that start at the same position: `softmax(scale · q kᵀ + mask) v` for each
/// row and head, a query at `t` seeing the keys at `s ≤ t`.
///
/// The fused form keeps one tile of scores at a time, forward and backward, and two numbers a query in
/// between (Dao et al., *FlashAttention*, arXiv:2205.14135).
///
/// # Shapes
/// `q: [B, T, H · D]`, `k` and `v`: `[B, T, G · D]`; the result is as `q`.
///
/// # Panics
/// On other shapes, an empty axis, key heads that do not divide the heads, a window of 0, or a cap that
/// is not positive.
#[track_caller]
pub fn attention(how: &Attention, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
    how.check();
    let [b, t, _] = q.dims();
    let (wide, narrow) = (how.heads * how.head_dim, how.kv_heads * how.head_dim);
    check::same("attention", "q", q.dims(), [b, t, wide]);
    check::same("attention", "k", k.dims(), [b, t, narrow]);
    check::same("attention", "v", v.dims(), [b, t, narrow]);
    assert!(b > 0 && t > 0, "attention: q: expected axes that are not empty, found {:?}", q.dims());
    #[cfg(feature = "flex")]
    if flex::serves(&q) {
        return Tensor::from_dispatch(<Dispatch as Fused>::attention(
            q.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
            *how,
        ));
    }
    plain(how, q, k, v)
}

impl Attention {
    #[track_caller]
    fn check(&self) {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        assert!(head_dim > 0, "attention: head_dim: expected at least 1, found 0");
        assert!(
            heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "attention: kv_heads: expected a divisor of {heads} heads, found {kv_heads}"
        );
        assert!(self.window != Some(0), "attention: window: expected at least 1, found 0");
        if let Some(cap) = self.softcap {
            assert!(cap > 0.0, "attention: softcap: expected a positive number, found {cap}");
        }
    }

    /// `[1, 1, T, T]`: 0 where a key is seen and −∞ elsewhere.
    fn mask(&self, t: usize, device: &Device) -> Tensor<4> {
        let window = self.window.unwrap_or(t);
        let mut mask = vec![f32::NEG_INFINITY; t * t];
        for q in 0..t {
            mask[q * t..][(q + 1).saturating_sub(window)..=q].fill(0.0);
        }
        Tensor::from_data(TensorData::new(mask, [1, 1, t, t]), device)
    }
}

fn plain(how: &Attention, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
    let [b, t, wide] = q.dims();
    let Attention { heads, kv_heads, head_dim, .. } = *how;
    let rows = heads / kv_heads * t;
    let mask = how.mask(t, &q.device());
    let q = q.reshape([b, t, heads, head_dim]).swap_dims(1, 2).mul_scalar(how.scale);
    let split = |x: Tensor<3>| x.reshape([b, t, kv_heads, head_dim]).swap_dims(1, 2);
    let scores = q.reshape([b, kv_heads, rows, head_dim]).matmul(split(k).swap_dims(2, 3));
    let scores = softcap(scores, how.softcap).reshape([b, heads, t, t]);
    let weights = softmax(scores + mask, 3);
    let out = weights.reshape([b, kv_heads, rows, t]).matmul(split(v));
    out.reshape([b, heads, t, head_dim]).swap_dims(1, 2).reshape([b, t, wide])
}
