//! Means, intervals, correlations and other figures that a report states.
//!
//! Every function refuses data that it is not defined for: too few values, NaN or infinity, slices of different
//! lengths. Nothing is dropped in silence.

use std::cmp::Ordering;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::error::EvalError;

/// The usual confidence level.
pub const LEVEL_95: f64 = 0.95;

/// An estimate and the interval around it, in the unit of the data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The estimate itself.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How often something was so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Times it was so.
    pub hits: u64,
    /// Times it was looked at.
    pub total: u64,
}

impl Tally {
    /// `hits / total`, in [0, 1]; NaN where nothing was looked at.
    pub fn share(self) -> f64 {
        self.hits as f64 / self.total as f64
    }
}

/// Arithmetic mean of at least one value.
///
/// # Errors
/// No value, or one that is not finite.
pub fn mean(values: &[f64]) -> Result<f64, EvalError> {
    check("mean", values, 1)?;
    Ok(plain_mean(values))
}

/// The middle of at least one value, or the mean of the two in the middle.
///
/// ```
/// use rlhf_eval::stats::median;
/// assert_eq!(median(&[3.0, 1.0, 2.0])?, 2.0);
/// assert_eq!(median(&[3.0, 1.0, 8.0, 2.0])?, 2.5);
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// No value, or one that is not finite.
pub fn median(values: &[f64]) -> Result<f64, EvalError> {
    check("median", values, 1)?;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let below = if sorted.len().is_multiple_of(2) { middle - 1 } else { middle };
    Ok((sorted[below] + sorted[middle]) / 2.0)
}

/// Sample standard deviation (divisor n - 1) of at least two values.
///
/// # Errors
/// Fewer than two values, or one that is not finite.
pub fn sample_sd(values: &[f64]) -> Result<f64, EvalError> {
    check("standard deviation", values, 2)?;
    Ok(plain_sd(values))
}

/// Mean of at least two independent values with Student's t interval at `level`, a number in (0, 1):
/// `x̄ ± t s / √n`, t the quantile `(1 + level) / 2` with n - 1 degrees of freedom.
///
/// ```
/// use rlhf_eval::stats::{LEVEL_95, mean_interval};
/// // t = 2.776445 with 4 degrees of freedom, s = √2.5, so 3 ± 1.963243.
/// let found = mean_interval(&[1.0, 2.0, 3.0, 4.0, 5.0], LEVEL_95)?;
/// assert!((found.low - 1.036_757).abs() < 1e-6 && (found.high - 4.963_243).abs() < 1e-6);
/// # Ok::<(), rlhf_eval::error::EvalError>(())
/// ```
///
/// # Errors
/// Fewer than two values, one that is not finite, or a level outside (0, 1).
pub fn mean_interval(values: &[f64], level: f64) -> Result<Interval, EvalError> {
    check("mean interval", values, 2)?;
    check_level(level)?;
    let n = values.len() as f64;
    let estimate = plain_mean(values);
    let half = student_t_quantile(f64::midpoint(1.0, level), n - 1.0)? * plain_sd(values) / n.sqrt();
    Ok(Interval { estimate, low: estimate - half, high: estimate + half })
}

/// Mean of the differences `a[i] - b[i]` of at least two pairs, with Student's t interval at `level`.
///
/// # Errors
/// As [`mean_interval`], or slices of different lengths.
pub fn paired_difference(a: &[f64], b: &[f64], level: f64) -> Result<Interval, EvalError> {
    check_pairs("paired difference", a, b, 2)?;
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    mean_interval(&differences, level)
}

/// Quantile of Student's t distribution: the t with `P(T ≤ t) = probability`.
///
/// # Errors
/// A probability outside (0, 1), or degrees of freedom that are not positive and finite.
pub fn student_t_quantile(probability: f64, degrees_of_freedom: f64) -> Result<f64, EvalError> {
    check_probability("probability", probability)?;
    if !(degrees_of_freedom > 0.0 && degrees_of_freedom.is_finite()) {
        let (what, expected) = ("degrees of freedom", "a positive finite number");
        return Err(EvalError::Range { what, expected, found: degrees_of_freedom });
    }
    if degrees_of_freedom > EXPANDED {
        return Ok(expanded_quantile(probability, degrees_of_freedom));
    }
    let t =
        StudentsT::new(0.0, 1.0, degrees_of_freedom).expect("the scale is 1 and the degrees are positive");
    Ok(t.inverse_cdf(probability))
}

/// Degrees of freedom from which the expansion below is exact to 1e-9, while the iteration that serves below
/// them loses digits (1e-5 at 100 000).
const EXPANDED: f64 = 1000.0;

/// Student's quantile by its expansion around the normal one: Abramowitz and Stegun, equation 26.7.5.
fn expanded_quantile(probability: f64, degrees_of_freedom: f64) -> f64 {
    let z = Normal::standard().inverse_cdf(probability);
    let terms = [
        z,
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| sum / degrees_of_freedom + term)
}

/// Wilson's score interval of a share at `level`; it stays within [0, 1] and is honest for small counts.
///
/// ```text
/// (p̂ + z²/2n ± z √(p̂(1 - p̂)/n + z²/4n²)) / (1 + z²/n)
/// ```
///
/// Where: p̂ is `tally.share()`, n is `tally.total`, z the normal quantile `(1 + level) / 2`.
/// Paper: E. B. Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, JASA 22, 1927.
///
/// # Errors
/// A total of 0, more hits than the total, or a level outside (0, 1).
pub fn wilson(tally: Tally, level: f64) -> Result<Interval, EvalError> {
    check_level(level)?;
    if tally.total == 0 {
        return Err(EvalError::TooFew { what: "Wilson interval", expected: 1, found: 0 });
    }
    if tally.hits > tally.total {
        let (what, expected) = ("Wilson interval", "at most as many hits as looks");
        return Err(EvalError::Range { what, expected, found: tally.hits as f64 });
    }
    let z = Normal::standard().inverse_cdf(f64::midpoint(1.0, level));
    let (n, share) = (tally.total as f64, tally.share());
    let z2 = z * z / n;
    let centre = (share + z2 / 2.0) / (1.0 + z2);
    let half = (z2 * (share * (1.0 - share) + z2 / 4.0)).sqrt() / (1.0 + z2);
    // Rounding must not leave the range, nor exclude the estimate where it is 0 or 1.
    Ok(Interval {
        estimate: share,
        low: (centre - half).clamp(0.0, share),
        high: (centre + half).clamp(share, 1.0),
    })
}

/// What [`bootstrap`] does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Resamples drawn, at least 1.
    pub n_resamples: usize,
    /// Confidence level in (0, 1).
    pub level: f64,
}

/// Percentile bootstrap of any statistic: resamples as many items as there are, with replacement, and takes the
/// quantiles `(1 ∓ level) / 2` of the statistic (linear between order statistics).
///
/// Items may be anything that is drawn together, such as pairs. The result depends on `rng` only.
///
/// # Errors
/// No item, no resample, a level outside (0, 1), or a statistic that is not finite on some resample.
pub fn bootstrap<T: Clone>(
    items: &[T],
    statistic: impl Fn(&[T]) -> f64,
    how: Bootstrap,
    rng: &mut impl Rng,
) -> Result<Interval, EvalError> {
    check_level(how.level)?;
    for (what, found) in [("bootstrap items", items.len()), ("bootstrap resamples", how.n_resamples)] {
        if found == 0 {
            return Err(EvalError::TooFew { what, expected: 1, found });
        }
    }
    let estimate = statistic(items);
    check("bootstrap statistic of all items", &[estimate], 1)?;
    let mut resample = items.to_vec();
    let mut found = Vec::with_capacity(how.n_resamples);
    for _ in 0..how.n_resamples {
        for slot in &mut resample {
            slot.clone_from(&items[rng.random_range(0..items.len())]);
        }
        found.push(statistic(&resample));
    }
    check("bootstrap statistic", &found, 1)?;
    found.sort_by(f64::total_cmp);
    let tail = (1.0 - how.level) / 2.0;
    Ok(Interval {
        estimate,
        low: quantile_of_sorted(&found, tail),
        high: quantile_of_sorted(&found, 1.0 - tail),
    })
}

/// Pearson's correlation of at least two pairs, in [-1, 1].
///
/// # Errors
/// Different lengths, fewer than two pairs, a value that is not finite, or a slice whose values are all equal.
pub fn pearson(x: &[f64], y: &[f64]) -> Result<f64, EvalError> {
    check_pairs("Pearson correlation", x, y, 2)?;
    correlation("Pearson correlation", x, y)
}

/// Spearman's rank correlation of at least two pairs, in [-1, 1]; tied values share the mean of their ranks.
///
/// # Errors
/// As [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Result<f64, EvalError> {
    check_pairs("Spearman correlation", x, y, 2)?;
    correlation("Spearman correlation", &ranks(x), &ranks(y))
}

/// How many pairs are scored in the right order: `chosen[i] > rejected[i]`, so a tie counts as wrong.
///
/// # Errors
/// Different lengths, no pair, or a score that is not finite.
pub fn pairwise_accuracy(chosen: &[f64], rejected: &[f64]) -> Result<Tally, EvalError> {
    check_pairs("pairwise accuracy", chosen, rejected, 1)?;
    let hits = chosen.iter().zip(rejected).filter(|(chosen, rejected)| chosen > rejected).count();
    Ok(Tally { hits: hits as u64, total: chosen.len() as u64 })
}

/// Perplexity `exp(nll / n)` of `n_tokens` tokens whose negative log-probabilities, in nats, sum to `sum_nll`.
///
/// # Errors
/// No token, or a sum that is not finite.
pub fn perplexity(sum_nll: f64, n_tokens: u64) -> Result<f64, EvalError> {
    if n_tokens == 0 {
        return Err(EvalError::TooFew { what: "perplexity", expected: 1, found: 0 });
    }
    check("perplexity", &[sum_nll], 1)?;
    Ok((sum_nll / n_tokens as f64).exp())
}

/// Ranks from 1; equal values share the mean of the ranks that they take up.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].partial_cmp(&values[j]).unwrap_or(Ordering::Equal));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tie in order.chunk_by(|&i, &j| values[i] >= values[j]) {
        let shared = start as f64 + f64::midpoint(1.0, tie.len() as f64);
        for &i in tie {
            ranks[i] = shared;
        }
        start += tie.len();
    }
    ranks
}

fn correlation(what: &'static str, x: &[f64], y: &[f64]) -> Result<f64, EvalError> {
    for values in [x, y] {
        // Compared, not computed: the sum of squares of equal values need not be exactly 0.
        if values.iter().all(|&value| value.total_cmp(&values[0]).is_eq()) {
            return Err(EvalError::Constant { what, found: values[0] });
        }
    }
    let (mean_x, mean_y) = (plain_mean(x), plain_mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    Ok((xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
}

fn plain_mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn plain_sd(values: &[f64]) -> f64 {
    let mean = plain_mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

/// Linear between order statistics (type 7 of Hyndman and Fan, the default of R and NumPy).
fn quantile_of_sorted(sorted: &[f64], probability: f64) -> f64 {
    let at = probability * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (at - at.floor()) * (sorted[above] - sorted[below])
}

fn check(what: &'static str, values: &[f64], expected: usize) -> Result<(), EvalError> {
    if values.len() < expected {
        return Err(EvalError::TooFew { what, expected, found: values.len() });
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(EvalError::NotFinite { what, index, found: values[index] }),
        None => Ok(()),
    }
}

fn check_pairs(what: &'static str, x: &[f64], y: &[f64], expected: usize) -> Result<(), EvalError> {
    if x.len() != y.len() {
        return Err(EvalError::Lengths { what, left: x.len(), right: y.len() });
    }
    check(what, x, expected)?;
    check(what, y, expected)
}

fn check_level(level: f64) -> Result<(), EvalError> {
    check_probability("confidence level", level)
}

fn check_probability(what: &'static str, found: f64) -> Result<(), EvalError> {
    if found > 0.0 && found < 1.0 {
        return Ok(());
    }
    Err(EvalError::Range { what, expected: "a number between 0 and 1, both excluded", found })
}
