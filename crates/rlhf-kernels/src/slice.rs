//! The same arithmetic on plain slices, on the calling thread: for engines that keep their own buffers.
//!
//! Every function is vectorised for the instruction set found at run time. NaNs and infinities pass
//! through. Slices whose lengths must agree are checked.

use pulp::Simd;

use crate::activation::Activation;
use crate::simd::{self, Map, run};

pub use activation::{activate, gate_mul, gelu, gelu_tanh, silu, silu_mul};
pub use norm::{Affine, RowMoments, layer_norm_row, rms_norm_row};

#[cfg_attr(not(feature = "flex"), expect(dead_code, reason = "backward halves serve the fused operations"))]
pub(crate) mod activation;
#[cfg_attr(not(feature = "flex"), expect(dead_code, reason = "backward halves serve the fused operations"))]
pub(crate) mod norm;

#[track_caller]
pub(crate) fn same(function: &str, argument: &str, found: usize, expected: usize) {
    assert!(found == expected, "{function}: {argument}: expected length {expected}, found {found}");
}

/// `x ← e^x`, to 1 ulp; 0 where the result is below 2⁻¹²⁶.
pub fn exp(x: &mut [f32]) {
    run!('a, exp_with(x: &'a mut [f32]) -> ());
}

/// `x ← tanh x`.
pub fn tanh(x: &mut [f32]) {
    run!('a, tanh_with(x: &'a mut [f32]) -> ());
}

/// `x ← cap · tanh(x / cap)`.
pub fn softcap(x: &mut [f32], cap: f32) {
    run!('a, softcap_with(x: &'a mut [f32], cap: f32) -> ());
}

/// The largest entry, −∞ of none; NaNs may be passed over.
pub fn max(x: &[f32]) -> f32 {
    run!('a, max_with(x: &'a [f32]) -> f32)
}

/// `Σ x`.
pub fn sum(x: &[f32]) -> f32 {
    run!('a, sum_with(x: &'a [f32]) -> f32)
}

/// `Σ a b`.
///
/// # Panics
/// On lengths that differ.
#[track_caller]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    same("dot", "b", b.len(), a.len());
    run!('a, dot_with(a: &'a [f32], b: &'a [f32]) -> f32)
}

/// `y ← y + factor · x`.
///
/// # Panics
/// On lengths that differ.
#[track_caller]
pub fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
    same("add_scaled", "x", x.len(), y.len());
    run!('a, add_scaled_with(y: &'a mut [f32], factor: f32, x: &'a [f32]) -> ());
}

/// `x ← softmax x`; an empty slice stays.
pub fn softmax_in_place(x: &mut [f32]) {
    run!('a, softmax_with(x: &'a mut [f32]) -> ());
}

/// `log Σ e^x`; −∞ of none.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    run!('a, log_sum_exp_with(x: &'a [f32]) -> f32)
}

/// Rotary position of one head: its first `2 · cos.len()` entries are rotated by halves, the rest
/// passes. See [`rope`](crate::rope).
///
/// # Panics
/// On tables that differ in length or are longer than half the head.
#[track_caller]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    same("rotate", "sin", sin.len(), cos.len());
    assert!(
        2 * cos.len() <= head.len(),
        "rotate: cos: expected at most {} entries, found {}",
        head.len() / 2,
        cos.len()
    );
    run!('a, rotate_with(head: &'a mut [f32], cos: &'a [f32], sin: &'a [f32]) -> ());
}

#[derive(Clone, Copy)]
struct Exp;

impl Map for Exp {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        simd::exp(s, x)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Tanh;

impl Map for Tanh {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        simd::tanh(s, x)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Cap(pub(crate) f32);

impl Map for Cap {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        let t = simd::tanh(s, s.mul_f32s(x, s.splat_f32s(1.0 / self.0)));
        s.mul_f32s(t, s.splat_f32s(self.0))
    }
}

#[inline(always)]
fn exp_with<S: Simd>(s: S, x: &mut [f32]) {
    simd::map_in_place(s, Exp, x);
}

#[inline(always)]
fn tanh_with<S: Simd>(s: S, x: &mut [f32]) {
    simd::map_in_place(s, Tanh, x);
}

#[inline(always)]
fn softcap_with<S: Simd>(s: S, x: &mut [f32], cap: f32) {
    simd::map_in_place(s, Cap(cap), x);
}

#[inline(always)]
fn max_with<S: Simd>(s: S, x: &[f32]) -> f32 {
    simd::max(s, x)
}

#[inline(always)]
fn sum_with<S: Simd>(s: S, x: &[f32]) -> f32 {
    simd::sum(s, x)
}

#[inline(always)]
fn dot_with<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    simd::dot(s, a, b)
}

#[inline(always)]
fn add_scaled_with<S: Simd>(s: S, y: &mut [f32], factor: f32, x: &[f32]) {
    simd::add_scaled(s, y, factor, x);
}

#[inline(always)]
fn softmax_with<S: Simd>(s: S, x: &mut [f32]) {
    let largest = simd::max(s, x);
    let sum = simd::exp_shifted(s, x, largest, 1.0);
    simd::scale(s, x, 1.0 / sum);
}

#[inline(always)]
fn log_sum_exp_with<S: Simd>(s: S, x: &[f32]) -> f32 {
    let largest = simd::max(s, x);
    if largest.is_infinite() {
        // Of −∞ alone, or with an infinity: but a NaN beside it must show.
        let nan = x.iter().any(|x| x.is_nan());
        return if nan { f32::NAN } else { largest };
    }
    let shift = s.splat_f32s(largest);
    let (vectors, rest) = S::as_simd_f32s(x);
    let mut sum = [s.splat_f32s(0.0); 4];
    for (i, x) in vectors.iter().enumerate() {
        sum[i % 4] = s.add_f32s(sum[i % 4], simd::exp(s, s.sub_f32s(*x, shift)));
    }
    let sum = s.add_f32s(s.add_f32s(sum[0], sum[1]), s.add_f32s(sum[2], sum[3]));
    let mut sum = s.reduce_sum_f32s(sum);
    if !rest.is_empty() {
        let mut last = s.sub_f32s(s.partial_load_f32s(rest), shift);
        last = simd::exp(s, last);
        let mut out = vec![0.0; rest.len()];
        s.partial_store_f32s(&mut out, last);
        sum += out.iter().sum::<f32>();
    }
    largest + sum.ln()
}

#[inline(always)]
pub(crate) fn rotate_with<S: Simd>(s: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let (first, second) = head[..2 * half].split_at_mut(half);
    let (a, a_rest) = S::as_mut_simd_f32s(first);
    let (b, b_rest) = S::as_mut_simd_f32s(second);
    let (c, c_rest) = S::as_simd_f32s(cos);
    let (d, d_rest) = S::as_simd_f32s(sin);
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let (x, y) = (*a, *b);
        *a = s.negate_mul_add_e_f32s(y, *d, s.mul_f32s(x, *c));
        *b = s.mul_add_e_f32s(x, *d, s.mul_f32s(y, *c));
    }
    for (((a, b), c), d) in a_rest.iter_mut().zip(b_rest).zip(c_rest).zip(d_rest) {
        (*a, *b) = (*a * c - *b * d, *b * c + *a * d);
    }
}
