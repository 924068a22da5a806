//! Vector arithmetic for whichever instruction set the machine has.

use pulp::Simd;

/// Runs `body(simd, arguments…)` compiled for the best instruction set of this machine.
macro_rules! run {
    ($lt:lifetime, $body:ident($($arg:ident: $ty:ty),+ $(,)?) -> $out:ty) => {{
        struct Op<$lt> {
            $($arg: $ty,)+
            life: std::marker::PhantomData<&$lt ()>,
        }
        impl<$lt> pulp::WithSimd for Op<$lt> {
            type Output = $out;
            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, simd: S) -> $out {
                $body(simd, $(self.$arg),+)
            }
        }
        pulp::Arch::new().dispatch(Op { $($arg,)+ life: std::marker::PhantomData })
    }};
}
pub(crate) use run;

/// A function of one vector.
pub(crate) trait Map: Copy {
    /// Its value.
    fn at<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

/// e^x, to 1 ulp (the polynomial of Cephes' `expf`); 0 below 2⁻¹²⁶, infinite above the largest `f32`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    // x = n ln 2 + r. Adding 1.5 · 2²³ rounds to an integer and leaves n in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    const HIGH: f32 = 88.722_83;
    const LOW: f32 = -87.336_54;
    let splat = |v| s.splat_f32s(v);
    let held = s.min_f32s(s.max_f32s(x, splat(LOW)), splat(HIGH));
    let shifted = s.mul_add_e_f32s(held, splat(std::f32::consts::LOG2_E), splat(MAGIC));
    let n = s.sub_f32s(shifted, splat(MAGIC));
    let r = s.mul_add_e_f32s(n, splat(-0.693_359_4), held);
    let r = s.mul_add_e_f32s(n, splat(2.121_944_4e-4), r);
    let mut p = splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.mul_add_e_f32s(p, r, splat(c));
    }
    let p = s.mul_add_e_f32s(p, s.mul_f32s(r, r), s.add_f32s(r, splat(1.0)));
    let n = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    let y = s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(p), n));
    let y = s.select_f32s(s.less_than_f32s(x, splat(LOW)), splat(0.0), y);
    let y = s.select_f32s(s.greater_than_f32s(x, splat(HIGH)), splat(f32::INFINITY), y);
    s.select_f32s(s.equal_f32s(x, x), y, x)
}

/// tanh x, to 2 ulp.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let splat = |v| s.splat_f32s(v);
    let z = s.mul_f32s(x, x);
    let mut p = splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_972e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = s.mul_add_e_f32s(p, z, splat(c));
    }
    let small = s.mul_add_e_f32s(s.mul_f32s(x, z), p, x);
    let size = s.abs_f32s(x);
    let e = exp(s, s.add_f32s(size, size));
    let large = s.sub_f32s(splat(1.0), s.div_f32s(splat(2.0), s.add_f32s(e, splat(1.0))));
    let large = s.select_f32s(s.less_than_f32s(x, splat(0.0)), s.neg_f32s(large), large);
    s.select_f32s(s.less_than_f32s(size, splat(0.625)), small, large)
}

/// σ(x) = 1 / (1 + e^−x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let one = s.splat_f32s(1.0);
    s.div_f32s(one, s.add_f32s(one, exp(s, s.neg_f32s(x))))
}

/// Φ(x) of the normal distribution and its density, both with a small relative error also in the
/// left tail (the fit to erfc of Press et al., *Numerical Recipes*, section 6.2).
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let splat = |v| s.splat_f32s(v);
    let z = s.mul_f32s(s.abs_f32s(x), splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div_f32s(splat(1.0), s.mul_add_e_f32s(z, splat(0.5), splat(1.0)));
    let mut p = splat(0.170_872_77);
    for c in [
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = s.mul_add_e_f32s(p, t, splat(c));
    }
    // e^(−x²/2) apart from the fit: it is the density as well.
    let bell = exp(s, s.mul_f32s(s.mul_f32s(x, x), splat(-0.5)));
    let tail = s.mul_f32s(s.mul_f32s(s.mul_f32s(t, splat(0.5)), bell), exp(s, p));
    let upper = s.sub_f32s(splat(1.0), tail);
    let phi = s.select_f32s(s.less_than_f32s(x, splat(0.0)), tail, upper);
    (phi, s.mul_f32s(bell, splat(0.398_942_3)))
}

/// `x ← f(x)`.
#[inline(always)]
pub(crate) fn map_in_place<S: Simd, F: Map>(s: S, f: F, x: &mut [f32]) {
    let (vectors, rest) = S::as_mut_simd_f32s(x);
    for v in vectors {
        *v = f.at(s, *v);
    }
    if !rest.is_empty() {
        let v = f.at(s, s.partial_load_f32s(rest));
        s.partial_store_f32s(rest, v);
    }
}

/// Σ a b.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, a_rest) = S::as_simd_f32s(&a[..n]);
    let (b, b_rest) = S::as_simd_f32s(&b[..n]);
    let (a4, a1) = pulp::as_arrays::<4, _>(a);
    let (b4, b1) = pulp::as_arrays::<4, _>(b);
    let mut sum = [s.splat_f32s(0.0); 4];
    for (a, b) in a4.iter().zip(b4) {
        for i in 0..4 {
            sum[i] = s.mul_add_e_f32s(a[i], b[i], sum[i]);
        }
    }
    for (a, b) in a1.iter().zip(b1) {
        sum[0] = s.mul_add_e_f32s(*a, *b, sum[0]);
    }
    if !a_rest.is_empty() {
        sum[1] = s.mul_add_e_f32s(s.partial_load_f32s(a_rest), s.partial_load_f32s(b_rest), sum[1]);
    }
    total(s, sum)
}

/// Σ x.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (x, rest) = S::as_simd_f32s(x);
    let (x4, x1) = pulp::as_arrays::<4, _>(x);
    let mut sum = [s.splat_f32s(0.0); 4];
    for x in x4 {
        for i in 0..4 {
            sum[i] = s.add_f32s(sum[i], x[i]);
        }
    }
    for x in x1 {
        sum[0] = s.add_f32s(sum[0], *x);
    }
    if !rest.is_empty() {
        sum[1] = s.add_f32s(sum[1], s.partial_load_f32s(rest));
    }
    total(s, sum)
}

#[inline(always)]
fn total<S: Simd>(s: S, sum: [S::f32s; 4]) -> f32 {
    s.reduce_sum_f32s(s.add_f32s(s.add_f32s(sum[0], sum[1]), s.add_f32s(sum[2], sum[3])))
}

/// The largest of `x`, −∞ of none; NaNs are passed over or returned.
#[inline(always)]
pub(crate) fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (x, rest) = S::as_simd_f32s(x);
    let mut largest = s.splat_f32s(f32::NEG_INFINITY);
    for x in x {
        largest = s.max_f32s(largest, *x);
    }
    let largest = s.reduce_max_f32s(largest);
    rest.iter().fold(largest, |largest, x| if *x > largest { *x } else { largest })
}

/// `x ← e^(factor · (x − shift))`, and the sum of the results.
#[inline(always)]
pub(crate) fn exp_shifted<S: Simd>(s: S, x: &mut [f32], shift: f32, factor: f32) -> f32 {
    let (shift, factor) = (s.splat_f32s(shift), s.splat_f32s(factor));
    let (vectors, rest) = S::as_mut_simd_f32s(x);
    let mut sum = [s.splat_f32s(0.0); 4];
    for (i, x) in vectors.iter_mut().enumerate() {
        *x = exp(s, s.mul_f32s(s.sub_f32s(*x, shift), factor));
        sum[i % 4] = s.add_f32s(sum[i % 4], *x);
    }
    let mut total = total(s, sum);
    if !rest.is_empty() {
        let y = exp(s, s.mul_f32s(s.sub_f32s(s.partial_load_f32s(rest), shift), factor));
        s.partial_store_f32s(rest, y);
        total += rest.iter().sum::<f32>();
    }
    total
}

/// `x ← factor · x`.
#[inline(always)]
pub(crate) fn scale<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    map_in_place(s, Times(factor), x);
}

#[derive(Clone, Copy)]
struct Times(f32);

impl Map for Times {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        s.mul_f32s(x, s.splat_f32s(self.0))
    }
}

/// `y ← y + factor · x`.
#[inline(always)]
pub(crate) fn add_scaled<S: Simd>(s: S, y: &mut [f32], factor: f32, x: &[f32]) {
    let n = y.len().min(x.len());
    let factor = s.splat_f32s(factor);
    let (y, y_rest) = S::as_mut_simd_f32s(&mut y[..n]);
    let (x, x_rest) = S::as_simd_f32s(&x[..n]);
    for (y, x) in y.iter_mut().zip(x) {
        *y = s.mul_add_e_f32s(*x, factor, *y);
    }
    if !y_rest.is_empty() {
        let y = s.mul_add_e_f32s(s.partial_load_f32s(x_rest), factor, s.partial_load_f32s(y_rest));
        s.partial_store_f32s(y_rest, y);
    }
}
