//! Activations on slices.

use pulp::Simd;

use super::{Activation, run, same};
use crate::simd;

/// A function of one vector with its derivative.
trait Curve {
    /// The value.
    fn at<S: Simd>(s: S, x: S::f32s) -> S::f32s;
    /// The value and the derivative.
    fn both<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s);
}

struct Silu;
struct Gelu;
struct GeluTanh;
struct Relu;

impl Curve for Silu {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::f32s) -> S::f32s {
        // One division: x / (1 + e^−x).
        s.div_f32s(x, s.add_f32s(s.splat_f32s(1.0), simd::exp(s, s.neg_f32s(x))))
    }

    #[inline(always)]
    fn both<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let one = s.splat_f32s(1.0);
        let sigma = simd::sigmoid(s, x);
        let y = s.mul_f32s(x, sigma);
        // σ (1 + x (1 − σ)).
        let slope = s.mul_add_e_f32s(x, s.sub_f32s(one, sigma), one);
        (y, s.mul_f32s(sigma, slope))
    }
}

impl Curve for Gelu {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::f32s) -> S::f32s {
        s.mul_f32s(x, simd::normal(s, x).0)
    }

    #[inline(always)]
    fn both<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let (phi, density) = simd::normal(s, x);
        (s.mul_f32s(x, phi), s.mul_add_e_f32s(x, density, phi))
    }
}

/// 2 √(2/π) and the same times 0.044715.
const TWICE: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_81;

impl Curve for GeluTanh {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::f32s) -> S::f32s {
        // ½ (1 + tanh u) is σ(2u), without the cancellation on the left.
        let square = s.mul_f32s(x, x);
        let twice = s.mul_f32s(x, s.mul_add_e_f32s(square, s.splat_f32s(CUBIC), s.splat_f32s(TWICE)));
        s.mul_f32s(x, simd::sigmoid(s, twice))
    }

    #[inline(always)]
    fn both<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let one = s.splat_f32s(1.0);
        let square = s.mul_f32s(x, x);
        let twice = s.mul_f32s(x, s.mul_add_e_f32s(square, s.splat_f32s(CUBIC), s.splat_f32s(TWICE)));
        let inner = s.mul_add_e_f32s(square, s.splat_f32s(3.0 * CUBIC), s.splat_f32s(TWICE));
        let sigma = simd::sigmoid(s, twice);
        // σ + x σ (1 − σ) (2u)′.
        let slope = s.mul_f32s(s.mul_f32s(x, s.sub_f32s(one, sigma)), inner);
        (s.mul_f32s(x, sigma), s.mul_f32s(sigma, s.add_f32s(slope, one)))
    }
}

impl Curve for Relu {
    #[inline(always)]
    fn at<S: Simd>(s: S, x: S::f32s) -> S::f32s {
        let zero = s.splat_f32s(0.0);
        s.select_f32s(s.less_than_f32s(x, zero), zero, x)
    }

    #[inline(always)]
    fn both<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let zero = s.splat_f32s(0.0);
        let slope = s.select_f32s(s.greater_than_f32s(x, zero), s.splat_f32s(1.0), zero);
        (Self::at(s, x), slope)
    }
}

macro_rules! by_curve {
    ($how:expr, $body:ident, $($arg:expr),+) => {
        match $how {
            Activation::Silu => $body::<S, Silu>($($arg),+),
            Activation::Gelu => $body::<S, Gelu>($($arg),+),
            Activation::GeluTanh => $body::<S, GeluTanh>($($arg),+),
            Activation::Relu => $body::<S, Relu>($($arg),+),
        }
    };
}

/// `x ← how(x)`.
pub fn activate(how: Activation, x: &mut [f32]) {
    run!('a, activate_with(how: Activation, x: &'a mut [f32]) -> ());
}

/// `x ← x σ(x)`.
pub fn silu(x: &mut [f32]) {
    activate(Activation::Silu, x);
}

/// `x ← x Φ(x)`.
pub fn gelu(x: &mut [f32]) {
    activate(Activation::Gelu, x);
}

/// The tanh approximation of [`gelu`]: `x ← ½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
pub fn gelu_tanh(x: &mut [f32]) {
    activate(Activation::GeluTanh, x);
}

/// `gate ← how(gate) ⊙ up`.
///
/// # Panics
/// On lengths that differ.
#[track_caller]
pub fn gate_mul(how: Activation, gate: &mut [f32], up: &[f32]) {
    same("gate_mul", "up", up.len(), gate.len());
    run!('a, gate_mul_with(how: Activation, gate: &'a mut [f32], up: &'a [f32]) -> ());
}

/// `gate ← silu(gate) ⊙ up`.
///
/// # Panics
/// On lengths that differ.
#[track_caller]
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    same("silu_mul", "up", up.len(), gate.len());
    gate_mul(Activation::Silu, gate, up);
}

/// What the gate's backward pass reads and writes.
pub(crate) struct GateBack<'a> {
    pub(crate) gate: &'a [f32],
    pub(crate) up: &'a [f32],
    /// Of the product; becomes that of `up`.
    pub(crate) grad: &'a mut [f32],
    pub(crate) to_gate: &'a mut [f32],
}

/// Gradients of `how(gate) ⊙ up`.
pub(crate) fn gate_back(how: Activation, io: GateBack<'_>) {
    run!('a, gate_back_with(how: Activation, io: GateBack<'a>) -> ());
}

/// `grad ← grad ⊙ how′(x)`.
pub(crate) fn activate_back(how: Activation, x: &[f32], grad: &mut [f32]) {
    run!('a, activate_back_with(how: Activation, x: &'a [f32], grad: &'a mut [f32]) -> ());
}

#[inline(always)]
fn activate_with<S: Simd>(s: S, how: Activation, x: &mut [f32]) {
    by_curve!(how, activate_as, s, x);
}

#[inline(always)]
fn activate_as<S: Simd, C: Curve>(s: S, x: &mut [f32]) {
    let (vectors, rest) = S::as_mut_simd_f32s(x);
    for x in vectors {
        *x = C::at(s, *x);
    }
    if !rest.is_empty() {
        let y = C::at(s, s.partial_load_f32s(rest));
        s.partial_store_f32s(rest, y);
    }
}

#[inline(always)]
fn gate_mul_with<S: Simd>(s: S, how: Activation, gate: &mut [f32], up: &[f32]) {
    by_curve!(how, gate_mul_as, s, gate, up);
}

#[inline(always)]
fn gate_mul_as<S: Simd, C: Curve>(s: S, gate: &mut [f32], up: &[f32]) {
    let (g, g_rest) = S::as_mut_simd_f32s(gate);
    let (u, u_rest) = S::as_simd_f32s(up);
    for (g, u) in g.iter_mut().zip(u) {
        *g = s.mul_f32s(C::at(s, *g), *u);
    }
    if !g_rest.is_empty() {
        let y = s.mul_f32s(C::at(s, s.partial_load_f32s(g_rest)), s.partial_load_f32s(u_rest));
        s.partial_store_f32s(g_rest, y);
    }
}

#[inline(always)]
fn activate_back_with<S: Simd>(s: S, how: Activation, x: &[f32], grad: &mut [f32]) {
    by_curve!(how, activate_back_as, s, x, grad);
}

#[inline(always)]
fn activate_back_as<S: Simd, C: Curve>(s: S, x: &[f32], grad: &mut [f32]) {
    let (x, x_rest) = S::as_simd_f32s(x);
    let (g, g_rest) = S::as_mut_simd_f32s(grad);
    for (x, g) in x.iter().zip(g) {
        *g = s.mul_f32s(*g, C::both(s, *x).1);
    }
    if !g_rest.is_empty() {
        let slope = C::both(s, s.partial_load_f32s(x_rest)).1;
        let g = s.mul_f32s(s.partial_load_f32s(g_rest), slope);
        s.partial_store_f32s(g_rest, g);
    }
}

#[inline(always)]
fn gate_back_with<S: Simd>(s: S, how: Activation, io: GateBack<'_>) {
    by_curve!(how, gate_back_as, s, io);
}

#[inline(always)]
fn gate_back_as<S: Simd, C: Curve>(s: S, io: GateBack<'_>) {
    let GateBack { gate, up, grad, to_gate } = io;
    let (gate, gate_rest) = S::as_simd_f32s(gate);
    let (up, up_rest) = S::as_simd_f32s(up);
    let (grad, grad_rest) = S::as_mut_simd_f32s(grad);
    let (to_gate, to_gate_rest) = S::as_mut_simd_f32s(to_gate);
    for (((x, u), g), dx) in gate.iter().zip(up).zip(grad).zip(to_gate) {
        let (y, slope) = C::both(s, *x);
        *dx = s.mul_f32s(s.mul_f32s(*g, *u), slope);
        *g = s.mul_f32s(*g, y);
    }
    if !gate_rest.is_empty() {
        let (y, slope) = C::both(s, s.partial_load_f32s(gate_rest));
        let g = s.partial_load_f32s(grad_rest);
        s.partial_store_f32s(grad_rest, s.mul_f32s(g, y));
        let g = s.mul_f32s(g, s.partial_load_f32s(up_rest));
        s.partial_store_f32s(to_gate_rest, s.mul_f32s(g, slope));
    }
}
