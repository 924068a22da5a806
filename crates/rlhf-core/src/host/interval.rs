//! An interval that a number may be held in.

use serde::{Deserialize, Serialize};

use crate::error::NumError;

/// From `low` to `high`, both ends included; either may be infinite. Written `[low, high]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 2]", into = "[f64; 2]")]
pub struct Interval {
    low: f64,
    high: f64,
}

impl Interval {
    /// From `low` to `high`.
    ///
    /// # Errors
    /// An upper end that is below the lower one, or NaN.
    pub fn new(low: f64, high: f64) -> Result<Self, NumError> {
        if low <= high {
            Ok(Self { low, high })
        } else {
            Err(NumError { what: "Interval", expected: "an upper end not below the lower one", found: high })
        }
    }

    /// The lower end.
    pub fn low(self) -> f64 {
        self.low
    }

    /// The upper end.
    pub fn high(self) -> f64 {
        self.high
    }

    /// `x`, or the nearer end. NaN stays.
    pub fn clamp(self, x: f64) -> f64 {
        x.clamp(self.low, self.high)
    }

    /// Whether `x` is below the lower end or above the upper one. NaN is neither.
    pub fn excludes(self, x: f64) -> bool {
        x < self.low || x > self.high
    }
}

impl TryFrom<[f64; 2]> for Interval {
    type Error = NumError;

    fn try_from([low, high]: [f64; 2]) -> Result<Self, NumError> {
        Self::new(low, high)
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_belong_to_it_and_nan_to_nothing() {
        let interval = Interval::new(-0.5, 1.5).expect("ordered");
        assert!(!interval.excludes(-0.5) && !interval.excludes(1.5) && !interval.excludes(f64::NAN));
        assert!(interval.excludes(-0.6) && interval.excludes(f64::INFINITY));
        assert!((interval.clamp(-3.0) + 0.5).abs() <= 0.0 && (interval.clamp(3.0) - 1.5).abs() <= 0.0);
        assert!((interval.clamp(0.25) - 0.25).abs() <= 0.0 && interval.clamp(f64::NAN).is_nan());
        assert!((interval.low() + 0.5).abs() <= 0.0 && (interval.high() - 1.5).abs() <= 0.0);
    }

    #[test]
    fn the_wrong_way_round_fails_when_it_is_read() {
        let error = serde_json::from_str::<Interval>("[1.0, 0.5]").expect_err("turned round");
        assert!(error.to_string().starts_with("Interval: expected an upper end not below"), "{error}");
        let interval: Interval = serde_json::from_str("[0.5, 0.5]").expect("one point");
        assert_eq!(serde_json::to_string(&interval).expect("written"), "[0.5,0.5]");
        assert!(Interval::new(f64::NAN, 1.0).is_err() && Interval::new(0.0, f64::NAN).is_err());
        assert!(Interval::new(f64::NEG_INFINITY, f64::INFINITY).is_ok());
    }
}
