//! Mean and variance, and what is whitened by them.
//!
//! ```text
//! μ = Σ xᵢ / n          σ² = Σ (xᵢ − μ)² / n   or   / (n − 1)          zᵢ = (xᵢ − μ) / d
//! ```
//!
//! Where: d is σ, kept from zero by a [`Guard`]; systems that write "whiten" differ in all three
//! choices. A deviation of exactly 0 stays 0 whatever d is, and a d of 0 scales nothing. Equal
//! numbers have deviations of exactly 0: the mean is counted from the first of them.

use serde::{Deserialize, Serialize};

use crate::number::Weight;

/// What the squared deviations are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// n, as NumPy's `std`.
    Biased,
    /// n − 1, as PyTorch's `std`; NaN for fewer than two numbers.
    Unbiased,
}

/// How the divisor is kept from zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// σ + ε.
    StdPlus(Weight),
    /// √(σ² + ε).
    VariancePlus(Weight),
    /// √max(σ², ε).
    VarianceAtLeast(Weight),
}

impl Guard {
    /// The divisor of a variance.
    pub fn divisor(self, variance: f64) -> f64 {
        match self {
            Self::StdPlus(epsilon) => variance.sqrt() + epsilon.get(),
            Self::VariancePlus(epsilon) => (variance + epsilon.get()).sqrt(),
            // `clamp` keeps a NaN, which `max` would not.
            Self::VarianceAtLeast(epsilon) => variance.clamp(epsilon.get(), f64::INFINITY).sqrt(),
        }
    }
}

/// Where the whitened numbers have their mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Centre {
    /// At 0.
    Zero,
    /// Where it was: only the spread is changed.
    Kept,
}

/// A way of whitening.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whiten {
    /// The variance.
    pub spread: Spread,
    /// What keeps the divisor from zero.
    pub guard: Guard,
    /// Where the mean ends.
    pub centre: Centre,
}

impl Whiten {
    /// `x` among numbers of these moments.
    pub fn apply(self, moments: &Moments, x: f64) -> f64 {
        let z = scaled(x - moments.mean, self.guard.divisor(moments.variance(self.spread)));
        match self.centre {
            Centre::Zero => z,
            Centre::Kept => z + moments.mean,
        }
    }
}

/// Count, mean and squared deviations of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// How many.
    pub n: usize,
    /// μ; NaN of none.
    pub mean: f64,
    /// Σ (xᵢ − μ)².
    pub squares: f64,
}

impl Moments {
    /// Of all numbers; a NaN among them makes all NaN.
    ///
    /// ```
    /// use rlhf_core::host::whiten::{Moments, Spread};
    ///
    /// let moments = Moments::of([1.0, 2.0, 6.0]);
    /// assert_eq!((moments.mean, moments.squares), (3.0, 14.0));
    /// assert_eq!(moments.variance(Spread::Unbiased), 7.0);
    /// ```
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let first = values.first().copied().unwrap_or(f64::NAN);
        let mean = first + values.iter().map(|x| x - first).sum::<f64>() / values.len() as f64;
        let squares = values.iter().map(|x| (x - mean).powi(2)).sum();
        Self { n: values.len(), mean, squares }
    }

    /// Of all numbers but the NaN among them.
    pub fn scorable(values: &[f64]) -> Self {
        Self::of(values.iter().copied().filter(|x| !x.is_nan()))
    }

    /// σ².
    pub fn variance(&self, spread: Spread) -> f64 {
        let n = self.n as f64;
        match spread {
            Spread::Biased => self.squares / n,
            Spread::Unbiased if self.n < 2 => f64::NAN,
            Spread::Unbiased => self.squares / (n - 1.0),
        }
    }
}

/// A deviation over a divisor, where zero of either needs no quotient.
pub(super) fn scaled(deviation: f64, divisor: f64) -> f64 {
    if deviation == 0.0 || divisor == 0.0 { deviation } else { deviation / divisor }
}

/// Rows whitened by the moments of all their numbers together.
///
/// ```
/// use rlhf_core::host::whiten::{Centre, Guard, Spread, Whiten, whiten};
/// use rlhf_core::number::Weight;
///
/// // Mean 3, variance (4 + 1 + 9) / 2.
/// let how = Whiten { spread: Spread::Unbiased, guard: Guard::StdPlus(Weight::ZERO), centre: Centre::Zero };
/// let rows = whiten(how, &[vec![1.0, 2.0], vec![6.0]]);
/// assert!((rows[1][0] - 3.0 / 7f64.sqrt()).abs() < 1e-15);
/// ```
pub fn whiten(how: Whiten, rows: &[impl AsRef<[f64]>]) -> Vec<Vec<f64>> {
    let moments = Moments::of(rows.iter().flat_map(|row| row.as_ref().iter().copied()));
    rows.iter().map(|row| row.as_ref().iter().map(|x| how.apply(&moments, *x)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(x: f64) -> Weight {
        Weight::new(x).expect("a weight")
    }

    #[test]
    fn three_guards_by_hand() {
        // σ² = 9, ε = 7 or 16.
        let of = |guard: Guard| guard.divisor(9.0);
        assert!((of(Guard::StdPlus(weight(7.0))) - 10.0).abs() <= 0.0);
        assert!((of(Guard::VariancePlus(weight(7.0))) - 4.0).abs() <= 0.0);
        assert!((of(Guard::VarianceAtLeast(weight(7.0))) - 3.0).abs() <= 0.0);
        assert!((of(Guard::VarianceAtLeast(weight(16.0))) - 4.0).abs() <= 0.0);
        assert!(Guard::VarianceAtLeast(weight(1.0)).divisor(f64::NAN).is_nan());
    }

    #[test]
    fn whitened_numbers_have_the_moments_they_should() {
        let rows = [vec![1.0, -2.0, 0.5], vec![], vec![7.0, 3.0]];
        for (spread, centre, mean) in [
            (Spread::Biased, Centre::Zero, 0.0),
            (Spread::Unbiased, Centre::Zero, 0.0),
            // Σ x = 9.5.
            (Spread::Unbiased, Centre::Kept, 1.9),
        ] {
            let how = Whiten { spread, guard: Guard::StdPlus(Weight::ZERO), centre };
            let found = whiten(how, &rows);
            assert_eq!([3, 0, 2], [found[0].len(), found[1].len(), found[2].len()]);
            let moments = Moments::of(found.concat());
            assert!((moments.mean - mean).abs() < 1e-15, "{moments:?}");
            assert!((moments.variance(spread) - 1.0).abs() < 1e-15, "{moments:?}");
        }
    }

    #[test]
    fn equal_numbers_stay_at_exactly_zero() {
        // The plain mean of three 0.1 is not 0.1 in floating point.
        for guard in [Guard::StdPlus(Weight::ZERO), Guard::VariancePlus(weight(1e-8))] {
            let how = Whiten { spread: Spread::Unbiased, guard, centre: Centre::Zero };
            for row in [vec![0.1; 3], vec![0.7; 6], vec![5.0]] {
                assert!(whiten(how, &[row])[0].iter().all(|z| z.abs() <= 0.0));
            }
        }
    }

    #[test]
    fn nan_is_left_out_only_where_it_is_asked_for() {
        assert!(Moments::of([1.0, f64::NAN]).mean.is_nan());
        assert_eq!(Moments::scorable(&[1.0, f64::NAN, 3.0]), Moments::of([1.0, 3.0]));
        assert!(Moments::of([2.0]).variance(Spread::Unbiased).is_nan());
        assert!(Moments::of([2.0]).variance(Spread::Biased).abs() <= 0.0);
        assert!(Moments::scorable(&[f64::NAN]).mean.is_nan());
    }
}
