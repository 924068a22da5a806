//! Numbers that know their range: one that parses is valid, and nobody checks it again.

use serde::{Deserialize, Serialize};

use crate::error::NumError;

macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $expected:literal, |$x:ident| $valid:expr) => {
        ranged!($(#[$doc])* $name, $expected, |$x| $valid, "f64", "f64");
    };
    ($(#[$doc:meta])* $name:ident, $expected:literal, |$x:ident| $valid:expr, $from:literal, $into:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = $from, into = $into)]
        pub struct $name(f64);

        impl $name {
            #[doc = concat!("`x` if it is ", $expected, ".")]
            ///
            /// # Errors
            /// A number outside the range, or NaN.
            pub fn new($x: f64) -> Result<Self, NumError> {
                if $valid {
                    Ok(Self($x))
                } else {
                    Err(NumError { what: stringify!($name), expected: $expected, found: $x })
                }
            }

            /// The number.
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = NumError;

            fn try_from(x: f64) -> Result<Self, NumError> {
                Self::new(x)
            }
        }

        impl From<$name> for f64 {
            fn from(x: $name) -> f64 {
                x.0
            }
        }
    };
}

ranged!(
    /// The pull towards the reference: positive and finite.
    Beta, "a positive finite number", |x| x > 0.0 && x.is_finite()
);
ranged!(
    /// A rate, a temperature, a scale: positive and finite.
    Positive, "a positive finite number", |x| x > 0.0 && x.is_finite()
);
ranged!(
    /// A bound from above; infinite switches it off. Written as a number, or as the text `inf`, which
    /// JSON has no number for; both are read.
    Bound, "a positive number, inf for no bound", |x| x > 0.0, "NumberOrInf", "NumberOrInf"
);

/// How a number that may be infinite is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a positive number, or \"inf\" for no bound")]
enum NumberOrInf {
    Number(f64),
    Text(Infinite),
}

#[derive(Serialize, Deserialize)]
enum Infinite {
    #[serde(rename = "inf")]
    Inf,
}

impl TryFrom<NumberOrInf> for Bound {
    type Error = NumError;

    fn try_from(x: NumberOrInf) -> Result<Self, NumError> {
        match x {
            NumberOrInf::Number(x) => Self::new(x),
            NumberOrInf::Text(Infinite::Inf) => Ok(Self::NONE),
        }
    }
}

impl From<Bound> for NumberOrInf {
    fn from(x: Bound) -> Self {
        if x == Bound::NONE { Self::Text(Infinite::Inf) } else { Self::Number(x.0) }
    }
}
ranged!(
    /// The weight of an optional term: zero switches it off.
    Weight, "a finite number of at least 0", |x| x >= 0.0 && x.is_finite()
);
ranged!(
    /// A probability.
    Prob, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x)
);
ranged!(
    /// A probability that is neither certain nor impossible.
    OpenProb, "a number above 0 and below 1", |x| x > 0.0 && x < 1.0
);
ranged!(
    /// How often a label is wrong: less than every second time, or it would say the opposite.
    FlipRate, "a number of at least 0 and below 0.5", |x| (0.0..0.5).contains(&x)
);
ranged!(
    /// Any number of either sign but neither infinite nor NaN.
    Finite, "a finite number", |x| x.is_finite()
);

impl Bound {
    /// A number of a preset's source; its test reads each one back, range and all.
    pub(crate) const fn literal(x: f64) -> Self {
        Self(x)
    }

    /// No bound.
    pub const NONE: Self = Self(f64::INFINITY);
}

impl FlipRate {
    /// No label is wrong.
    pub const ZERO: Self = Self(0.0);
}

impl Prob {
    /// Impossible.
    pub const ZERO: Self = Self(0.0);
    /// Certain.
    pub const ONE: Self = Self(1.0);
}

impl Weight {
    /// A number of a preset's source; its test reads each one back, range and all.
    pub(crate) const fn literal(x: f64) -> Self {
        Self(x)
    }

    /// The term is off.
    pub const ZERO: Self = Self(0.0);
    /// The term counts as it stands.
    pub const ONE: Self = Self(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_at_their_ends() {
        assert!(Beta::new(0.0).is_err() && Beta::new(f64::MIN_POSITIVE).is_ok());
        assert!(Beta::new(f64::INFINITY).is_err() && Beta::new(f64::NAN).is_err());
        assert!(Weight::new(0.0).is_ok() && Weight::new(-1e-300).is_err() && Weight::new(f64::NAN).is_err());
        assert!(FlipRate::new(0.0).is_ok() && FlipRate::new(0.5).is_err() && FlipRate::new(-0.1).is_err());
        assert!(OpenProb::new(0.0).is_err() && OpenProb::new(1.0).is_err() && OpenProb::new(1e-300).is_ok());
        assert!(Finite::new(-3.0).is_ok() && Finite::new(f64::NEG_INFINITY).is_err());
        assert!(Prob::new(0.0).is_ok() && Prob::new(1.0).is_ok() && Prob::new(1.0 + f64::EPSILON).is_err());
    }

    #[test]
    fn a_bound_survives_writing_and_reading() {
        for (bound, text) in [(Bound::NONE, "\"inf\""), (Bound(2.5), "2.5")] {
            assert_eq!(serde_json::to_string(&bound).expect("a bound"), text);
            assert_eq!(serde_json::from_str::<Bound>(text).expect("a bound"), bound);
        }
        for text in ["0", "-1.0", "\"none\"", "null"] {
            let error = serde_json::from_str::<Bound>(text).expect_err("no bound").to_string();
            assert!(error.contains("expected a positive number"), "{text}: {error}");
        }
    }

    #[test]
    fn a_bad_number_fails_when_it_is_read() {
        let error = serde_json::from_str::<Prob>("1.5").expect_err("out of range");
        assert!(error.to_string().starts_with("Prob: expected a number from 0 to 1, found 1.5"), "{error}");
    }
}
