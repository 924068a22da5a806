//! What a scalar twin computes with: plain `f64`, or a [`Dual`] that carries a derivative along.
//!
//! A twin is written once over [`Real`]. With `f64` it is the loss; with [`Dual`] it is the loss and
//! its exact slope, stopped gradients included, so that a tabular policy can be trained and a golden
//! gradient checked to the last digits without a tensor.
//!
//! ```
//! use rlhf_core::real::{Dual, Real, gradient};
//!
//! // x² eˣ at 1: the slope is 3e.
//! let (value, slope) = gradient(&[1.0], |x| x[0] * x[0] * x[0].exp());
//! let e = 1f64.exp();
//! assert!((value - e).abs() < 1e-15 && (slope[0] - 3.0 * e).abs() < 1e-14);
//! // A stopped factor counts as a constant: x² sg(eˣ) has the slope 2e there.
//! let (_, slope) = gradient(&[1.0], |x| x[0] * x[0] * x[0].exp().detached());
//! assert!((slope[0] - 2.0 * e).abs() < 1e-14);
//! ```

use std::iter::Sum;
use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::host::stable;

/// The largest exponent that [`Real::exp_m1_held`] exponentiates; e⁷⁰ is 2.5 · 10³⁰.
pub const HELD_EXPONENT: f64 = 70.0;

/// A number of a twin.
pub trait Real:
    Copy
    + From<f64>
    + Into<f64>
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Div<f64, Output = Self>
    + Sum
{
    /// A function of this number that has `value` and `slope` here.
    fn chain(self, value: f64, slope: f64) -> Self;

    /// The same number without its derivative: what a stopped gradient leaves.
    fn detached(self) -> Self;

    /// The number itself.
    fn value(self) -> f64 {
        self.into()
    }

    /// eˣ.
    fn exp(self) -> Self {
        let e = self.value().exp();
        self.chain(e, e)
    }

    /// eˣ − 1 with the digits of a small x.
    fn exp_m1(self) -> Self {
        self.chain(self.value().exp_m1(), self.value().exp())
    }

    /// eˣ − 1 up to x = [`HELD_EXPONENT`], from there on the straight line that continues it: value
    /// and slope stay finite in `f32`, and no slope is lost.
    fn exp_m1_held(self) -> Self {
        let x = self.value();
        if x <= HELD_EXPONENT || x.is_nan() {
            return self.exp_m1();
        }
        let top = HELD_EXPONENT.exp();
        self.chain(top * (1.0 + x - HELD_EXPONENT) - 1.0, top)
    }

    /// log x.
    fn ln(self) -> Self {
        self.chain(self.value().ln(), self.value().recip())
    }

    /// log(1 + x) with the digits of a small x.
    fn ln_1p(self) -> Self {
        self.chain(self.value().ln_1p(), (1.0 + self.value()).recip())
    }

    /// √x.
    fn sqrt(self) -> Self {
        let root = self.value().sqrt();
        self.chain(root, 0.5 / root)
    }

    /// |x|; the slope at 0 is 0.
    fn abs(self) -> Self {
        let x = self.value();
        self.chain(x.abs(), if x == 0.0 { 0.0 } else { x.signum() })
    }

    /// x².
    fn square(self) -> Self {
        self.chain(self.value() * self.value(), 2.0 * self.value())
    }

    /// xᵖ.
    fn powf(self, p: f64) -> Self {
        self.chain(self.value().powf(p), p * self.value().powf(p - 1.0))
    }

    /// max(0, x); the slope at 0 is 0. NaN stays.
    fn relu(self) -> Self {
        let x = self.value();
        if x.is_nan() {
            return self;
        }
        self.chain(x.max(0.0), f64::from(u8::from(x > 0.0)))
    }

    /// The smaller of two; at a tie each passes half of the slope. NaN of either stays.
    fn min(self, other: Self) -> Self {
        match self.value().partial_cmp(&other.value()) {
            Some(std::cmp::Ordering::Equal) => (self + other) * 0.5,
            Some(std::cmp::Ordering::Less) => self,
            Some(std::cmp::Ordering::Greater) => other,
            None if self.value().is_nan() => self,
            None => other,
        }
    }

    /// The larger of two; at a tie each passes half of the slope. NaN of either stays.
    fn max(self, other: Self) -> Self {
        -(-self).min(-other)
    }

    /// x held between `low` and `high`; the slope is 1 from end to end and 0 beyond.
    fn clamp(self, low: f64, high: f64) -> Self {
        let x = self.value();
        self.chain(x.clamp(low, high), f64::from(u8::from((low..=high).contains(&x))))
    }

    /// σ(x).
    fn sigmoid(self) -> Self {
        let (s, other) = (stable::sigmoid(self.value()), stable::sigmoid(-self.value()));
        self.chain(s, s * other)
    }

    /// log(1 + eˣ), stable at both ends.
    fn softplus(self) -> Self {
        self.chain(stable::softplus(self.value()), stable::sigmoid(self.value()))
    }

    /// log σ(x), stable at both ends.
    fn log_sigmoid(self) -> Self {
        -(-self).softplus()
    }
}

impl Real for f64 {
    fn chain(self, value: f64, _: f64) -> Self {
        value
    }

    fn detached(self) -> Self {
        self
    }
}

/// A number and its derivative along one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dual {
    /// The number.
    pub value: f64,
    /// Its derivative.
    pub slope: f64,
}

impl Real for Dual {
    fn chain(self, value: f64, slope: f64) -> Self {
        // What does not depend on the direction stays so where the slope is infinite.
        let slope = if self.slope == 0.0 { 0.0 } else { slope * self.slope };
        Self { value, slope }
    }

    fn detached(self) -> Self {
        Self { value: self.value, slope: 0.0 }
    }
}

impl From<f64> for Dual {
    fn from(value: f64) -> Self {
        Self { value, slope: 0.0 }
    }
}

impl From<Dual> for f64 {
    fn from(x: Dual) -> Self {
        x.value
    }
}

impl Neg for Dual {
    type Output = Self;

    fn neg(self) -> Self {
        Self { value: -self.value, slope: -self.slope }
    }
}

impl Add for Dual {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, slope: self.slope + other.slope }
    }
}

impl Sub for Dual {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { value: self.value - other.value, slope: self.slope - other.slope }
    }
}

impl Mul for Dual {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self { value: self.value * other.value, slope: self.slope * other.value + self.value * other.slope }
    }
}

impl Div for Dual {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        Self { value, slope: (self.slope - value * other.slope) / other.value }
    }
}

macro_rules! with_numbers {
    ($($trait:ident $method:ident),*) => {
        $(impl $trait<f64> for Dual {
            type Output = Self;

            fn $method(self, other: f64) -> Self {
                $trait::$method(self, Self::from(other))
            }
        })*
    };
}

with_numbers!(Add add, Sub sub, Mul mul, Div div);

impl Sum for Dual {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(Self::from(0.0), |sum, x| sum + x)
    }
}

/// Value and gradient of `f` at a point, one partial derivative at a time.
pub fn gradient(at: &[f64], f: impl Fn(&[Dual]) -> Dual) -> (f64, Vec<f64>) {
    let mut x: Vec<Dual> = at.iter().copied().map(Dual::from).collect();
    let value = f(&x).value;
    let partial = |i: usize| {
        x[i].slope = 1.0;
        let slope = f(&x).slope;
        x[i].slope = 0.0;
        slope
    };
    (value, (0..at.len()).map(partial).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slope of `f` against central differences of its value.
    fn check(name: &str, at: f64, f: impl Fn(Dual) -> Dual) {
        let (value, slope) = gradient(&[at], |x| f(x[0]));
        let plain = |x: f64| f(Dual::from(x)).value;
        let h = 1e-6;
        let differences = (plain(at + h) - plain(at - h)) / (2.0 * h);
        assert!((value - plain(at)).abs() <= 0.0, "{name}");
        assert!(
            (slope[0] - differences).abs() < 1e-8 * differences.abs().max(1.0),
            "{name} at {at}: {slope:?}"
        );
    }

    #[test]
    fn every_function_has_its_slope() {
        for at in [-1.7, -0.2, 0.3, 2.1] {
            check("exp", at, Real::exp);
            check("exp_m1", at, Real::exp_m1);
            check("exp_m1_held", at, Real::exp_m1_held);
            check("abs", at, Real::abs);
            check("square", at, Real::square);
            check("relu", at, Real::relu);
            check("sigmoid", at, Real::sigmoid);
            check("softplus", at, Real::softplus);
            check("log_sigmoid", at, Real::log_sigmoid);
            check("clamp", at, |x| x.clamp(-0.5, 1.0));
            check("min", at, |x| x.min(x * x));
            check("max", at, |x| x.max(x * x));
            check("quotient", at, |x| (x * 2.0 + 1.0) / (x * x + 3.0) - x / 4.0 - 1.0);
        }
        for at in [0.2, 1.0, 5.0] {
            check("ln", at, Real::ln);
            check("ln_1p", at, Real::ln_1p);
            check("sqrt", at, Real::sqrt);
            check("powf", at, |x| x.powf(1.7));
        }
    }

    #[test]
    fn ties_and_ends() {
        let slope = |at: f64, f: &dyn Fn(Dual) -> Dual| gradient(&[at], |x| f(x[0])).1[0];
        // Both sides of the tie have slope 1 and 2: the half of each.
        assert!((slope(0.0, &|x| x.min(x * 2.0)) - 1.5).abs() <= 0.0);
        assert!((slope(1.0, &|x| x.clamp(0.0, 1.0)) - 1.0).abs() <= 0.0);
        assert!(slope(0.0, &Real::relu).abs() <= 0.0 && slope(0.0, &Real::abs).abs() <= 0.0);
    }

    #[test]
    fn nan_is_kept() {
        let nan = Dual::from(f64::NAN);
        assert!(nan.min(Dual::from(1.0)).value.is_nan() && Real::max(f64::NAN, 1.0).is_nan());
        assert!(Dual::from(1.0).min(nan).value.is_nan() && Real::max(1.0, f64::NAN).is_nan());
        assert!(Real::relu(f64::NAN).is_nan() && f64::NAN.exp_m1_held().is_nan());
    }

    #[test]
    fn a_held_exponential_goes_on_as_its_tangent() {
        let top = 70f64.exp();
        let (value, slope) = gradient(&[75.0], |x| x[0].exp_m1_held());
        assert!((value / (6.0 * top) - 1.0).abs() < 1e-15 && (slope[0] / top - 1.0).abs() < 1e-15);
        // Both sides meet.
        assert!((70f64.exp_m1_held() / 70f64.exp_m1() - 1.0).abs() < 1e-15);
    }
}
