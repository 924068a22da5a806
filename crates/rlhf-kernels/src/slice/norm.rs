//! Norms of one row.

use pulp::Simd;

use super::{run, same};
use crate::simd;

/// `out ← x · weight / √(mean x² + ε)`; also `1 / √(mean x² + ε)`.
///
/// # Panics
/// On an empty row or lengths that differ.
#[track_caller]
pub fn rms_norm_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) -> f32 {
    assert!(!x.is_empty(), "rms_norm_row: x: expected at least one number, found none");
    same("rms_norm_row", "weight", weight.len(), x.len());
    same("rms_norm_row", "out", out.len(), x.len());
    run!('a, rms_with(x: &'a [f32], weight: &'a [f32], epsilon: f32, out: &'a mut [f32]) -> f32)
}

/// Mean and reciprocal deviation of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowMoments {
    /// Mean.
    pub mean: f32,
    /// `1 / √(variance + ε)`, the variance biased.
    pub inverse: f32,
}

/// The learned numbers of a layer norm.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// What the normalised row is multiplied with.
    pub weight: &'a [f32],
    /// What is added then.
    pub bias: &'a [f32],
}

/// `out ← (x − mean) · weight / √(var + ε) + bias` with the biased variance.
///
/// # Panics
/// On an empty row or lengths that differ.
#[track_caller]
pub fn layer_norm_row(x: &[f32], affine: Affine<'_>, epsilon: f32, out: &mut [f32]) -> RowMoments {
    assert!(!x.is_empty(), "layer_norm_row: x: expected at least one number, found none");
    same("layer_norm_row", "weight", affine.weight.len(), x.len());
    same("layer_norm_row", "bias", affine.bias.len(), x.len());
    same("layer_norm_row", "out", out.len(), x.len());
    run!('a, layer_with(x: &'a [f32], affine: Affine<'a>, epsilon: f32, out: &'a mut [f32]) -> RowMoments)
}

#[inline(always)]
pub(crate) fn rms_with<S: Simd>(s: S, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) -> f32 {
    let mean = f64::from(simd::dot(s, x, x)) / x.len() as f64;
    let inverse = (1.0 / (mean + f64::from(epsilon)).sqrt()) as f32;
    let factor = s.splat_f32s(inverse);
    let (x, x_rest) = S::as_simd_f32s(x);
    let (w, w_rest) = S::as_simd_f32s(weight);
    let (y, y_rest) = S::as_mut_simd_f32s(out);
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = s.mul_f32s(s.mul_f32s(*x, factor), *w);
    }
    for ((y, x), w) in y_rest.iter_mut().zip(x_rest).zip(w_rest) {
        *y = x * inverse * w;
    }
    inverse
}

/// What the RMS norm's backward pass of one row reads and adds to.
pub(crate) struct RmsBack<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) grad: &'a [f32],
    pub(crate) inverse: f32,
    pub(crate) to_x: &'a mut [f32],
    pub(crate) to_weight: &'a mut [f32],
}

/// `to_x ← r (g w − x r² mean(g w x))`, `to_weight ← to_weight + g x r` with r the reciprocal root.
#[inline(always)]
pub(crate) fn rms_back<S: Simd>(s: S, io: RmsBack<'_>) {
    let RmsBack { x, weight, grad, inverse: r, to_x, to_weight } = io;
    let n = x.len() as f64;
    let mut pull = s.splat_f32s(0.0);
    let (x, x_rest) = S::as_simd_f32s(x);
    let (w, w_rest) = S::as_simd_f32s(weight);
    let (g, g_rest) = S::as_simd_f32s(grad);
    let (dw, dw_rest) = S::as_mut_simd_f32s(to_weight);
    let factor = s.splat_f32s(r);
    for (((x, w), g), dw) in x.iter().zip(w).zip(g).zip(dw) {
        let gx = s.mul_f32s(*g, *x);
        pull = s.mul_add_e_f32s(gx, *w, pull);
        *dw = s.mul_add_e_f32s(gx, factor, *dw);
    }
    let mut pull = s.reduce_sum_f32s(pull);
    for (((x, w), g), dw) in x_rest.iter().zip(w_rest).zip(g_rest).zip(dw_rest) {
        pull += g * x * w;
        *dw += g * x * r;
    }
    let back = (-f64::from(pull) * f64::from(r).powi(3) / n) as f32;
    let splat = s.splat_f32s(back);
    let (dx, dx_rest) = S::as_mut_simd_f32s(to_x);
    for (((dx, x), w), g) in dx.iter_mut().zip(x).zip(w).zip(g) {
        *dx = s.mul_add_e_f32s(*x, splat, s.mul_f32s(s.mul_f32s(*g, *w), factor));
    }
    for (((dx, x), w), g) in dx_rest.iter_mut().zip(x_rest).zip(w_rest).zip(g_rest) {
        *dx = g * w * r + x * back;
    }
}

#[inline(always)]
pub(crate) fn layer_with<S: Simd>(
    s: S,
    x: &[f32],
    affine: Affine<'_>,
    epsilon: f32,
    out: &mut [f32],
) -> RowMoments {
    let n = x.len() as f32;
    let mean = simd::sum(s, x) / n;
    let centre = s.splat_f32s(mean);
    let (x, x_rest) = S::as_simd_f32s(x);
    let (w, w_rest) = S::as_simd_f32s(affine.weight);
    let (b, b_rest) = S::as_simd_f32s(affine.bias);
    let (y, y_rest) = S::as_mut_simd_f32s(out);
    let mut squares = s.splat_f32s(0.0);
    for (y, x) in y.iter_mut().zip(x) {
        *y = s.sub_f32s(*x, centre);
        squares = s.mul_add_e_f32s(*y, *y, squares);
    }
    let mut squares = s.reduce_sum_f32s(squares);
    for (y, x) in y_rest.iter_mut().zip(x_rest) {
        *y = x - mean;
        squares += *y * *y;
    }
    let variance = f64::from(squares) / f64::from(n);
    let inverse = (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32;
    let factor = s.splat_f32s(inverse);
    for ((y, w), b) in y.iter_mut().zip(w).zip(b) {
        *y = s.mul_add_e_f32s(s.mul_f32s(*y, factor), *w, *b);
    }
    for ((y, w), b) in y_rest.iter_mut().zip(w_rest).zip(b_rest) {
        *y = *y * inverse * w + b;
    }
    RowMoments { mean, inverse }
}

/// What the layer norm's backward pass of one row reads and adds to.
pub(crate) struct LayerBack<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) grad: &'a [f32],
    pub(crate) moments: RowMoments,
    pub(crate) to_x: &'a mut [f32],
    pub(crate) to_weight: &'a mut [f32],
    pub(crate) to_bias: &'a mut [f32],
}

/// `to_x ← r (g w − mean(g w) − x̂ mean(g w x̂))` with x̂ the normalised row, and the sums for weight and
/// bias.
#[inline(always)]
pub(crate) fn layer_back<S: Simd>(s: S, io: LayerBack<'_>) {
    let LayerBack { x, weight, grad, moments, to_x, to_weight, to_bias } = io;
    let (RowMoments { mean, inverse }, n) = (moments, x.len() as f32);
    let (centre, factor) = (s.splat_f32s(mean), s.splat_f32s(inverse));
    let (x, x_rest) = S::as_simd_f32s(x);
    let (w, w_rest) = S::as_simd_f32s(weight);
    let (g, g_rest) = S::as_simd_f32s(grad);
    let (dw, dw_rest) = S::as_mut_simd_f32s(to_weight);
    let (db, db_rest) = S::as_mut_simd_f32s(to_bias);
    let (mut level, mut pull) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
    for ((((x, w), g), dw), db) in x.iter().zip(w).zip(g).zip(dw).zip(db) {
        let hat = s.mul_f32s(s.sub_f32s(*x, centre), factor);
        let gw = s.mul_f32s(*g, *w);
        level = s.add_f32s(level, gw);
        pull = s.mul_add_e_f32s(gw, hat, pull);
        *dw = s.mul_add_e_f32s(*g, hat, *dw);
        *db = s.add_f32s(*db, *g);
    }
    let (mut level, mut pull) = (s.reduce_sum_f32s(level), s.reduce_sum_f32s(pull));
    for ((((x, w), g), dw), db) in x_rest.iter().zip(w_rest).zip(g_rest).zip(dw_rest).zip(db_rest) {
        let hat = (x - mean) * inverse;
        level += g * w;
        pull += g * w * hat;
        *dw += g * hat;
        *db += g;
    }
    let (level, pull) = (level / n, pull / n);
    let (levels, pulls) = (s.splat_f32s(level), s.splat_f32s(pull));
    let (dx, dx_rest) = S::as_mut_simd_f32s(to_x);
    for (((dx, x), w), g) in dx.iter_mut().zip(x).zip(w).zip(g) {
        let hat = s.mul_f32s(s.sub_f32s(*x, centre), factor);
        let inner = s.sub_f32s(s.mul_f32s(*g, *w), levels);
        *dx = s.mul_f32s(s.negate_mul_add_e_f32s(hat, pulls, inner), factor);
    }
    for (((dx, x), w), g) in dx_rest.iter_mut().zip(x_rest).zip(w_rest).zip(g_rest) {
        *dx = (g * w - level - (x - mean) * inverse * pull) * inverse;
    }
}
