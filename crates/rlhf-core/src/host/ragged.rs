//! Rows of different lengths: padding them, cutting them, and statistics that skip what is absent.
//!
//! On the host a batch is a list of rows and has no padding. These functions are for the edge where
//! rows become a rectangle for a device, or come back from one; what a device samples after the
//! first stop token, for instance, must not be trained on.

use super::whiten::{Moments, Spread};
use crate::real::Real;

/// Which side of a row is filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before the row: all rows end together, as generation wants its prompts.
    Left,
    /// Behind the row: all rows begin together, as training wants its sequences.
    Right,
}

/// All rows filled up with `fill` to the longest, and on to a multiple of `multiple_of`: kernels
/// like round lengths, and fewer different lengths are fewer shapes to compile for.
///
/// ```
/// use rlhf_core::host::ragged::{Side, pad};
/// assert_eq!(pad(&[&[1, 2, 3], &[4]], 0, Side::Left, 1), [[1, 2, 3], [0, 0, 4]]);
/// assert_eq!(pad(&[&[1, 2, 3], &[4]], 0, Side::Right, 4), [[1, 2, 3, 0], [4, 0, 0, 0]]);
/// ```
///
/// # Panics
/// When `multiple_of` is 0.
pub fn pad<T: Clone>(rows: &[&[T]], fill: T, side: Side, multiple_of: usize) -> Vec<Vec<T>> {
    let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let length = longest.next_multiple_of(multiple_of);
    let padded = |row: &&[T]| {
        let gap = vec![fill.clone(); length - row.len()];
        match side {
            Side::Left => [&gap, *row].concat(),
            Side::Right => [*row, &gap].concat(),
        }
    };
    rows.iter().map(padded).collect()
}

/// The entries that the mask lets through, in order: a padded row without its padding.
///
/// ```
/// use rlhf_core::host::ragged::kept;
/// assert_eq!(kept(&[0, 5, 6, 0], &[false, true, true, false]), [5, 6]);
/// ```
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn kept<T: Clone>(row: &[T], mask: &[bool]) -> Vec<T> {
    assert_eq!(row.len(), mask.len(), "kept: row and mask differ in length");
    row.iter().zip(mask).filter(|(_, on)| **on).map(|(x, _)| x.clone()).collect()
}

/// Every row's kept entries at its beginning, `fill` behind them, and no column without an entry:
/// after prompt and completion are joined, padding in the middle costs time and shifts positions.
///
/// ```
/// use rlhf_core::host::ragged::flush_left;
/// let (t, f) = (true, false);
/// let rows: [&[u8]; 2] = [&[9, 9, 2, 3], &[9, 5, 9, 9]];
/// assert_eq!(flush_left(&rows, &[&[f, f, t, t], &[f, t, f, f]], 0), [[2, 3], [5, 0]]);
/// ```
///
/// # Panics
/// On another number of masks than rows, or a mask of another length than its row.
#[track_caller]
pub fn flush_left<T: Clone>(rows: &[&[T]], masks: &[&[bool]], fill: T) -> Vec<Vec<T>> {
    assert_eq!(rows.len(), masks.len(), "flush_left: rows and masks differ in number");
    let kept: Vec<Vec<T>> = rows.iter().zip(masks).map(|(row, mask)| kept(row, mask)).collect();
    let kept: Vec<&[T]> = kept.iter().map(Vec::as_slice).collect();
    pad(&kept, fill, Side::Right, 1)
}

/// Where the first `true` is; the length where there is none, so that it is the number of entries
/// before the event either way.
///
/// ```
/// use rlhf_core::host::ragged::first_true;
/// assert_eq!(first_true(&[false, true, true]), 1);
/// assert_eq!(first_true(&[false, false]), 2);
/// ```
pub fn first_true(row: &[bool]) -> usize {
    row.iter().position(|on| *on).unwrap_or(row.len())
}

/// A completion up to its first stop token, that token included: it was chosen, so it is trained on;
/// what a batched sampler went on to write was not.
///
/// ```
/// use rlhf_core::host::ragged::truncate_right;
/// assert_eq!(truncate_right(&[5, 6, 2, 7, 2], &[2]), [5, 6, 2]);
/// assert_eq!(truncate_right(&[5, 6], &[2]), [5, 6]);
/// ```
pub fn truncate_right<'a>(row: &'a [u32], stop: &[u32]) -> &'a [u32] {
    let n = row.iter().position(|token| stop.contains(token)).map_or(row.len(), |at| at + 1);
    &row[..n]
}

fn present(x: &[f64]) -> impl Iterator<Item = f64> {
    x.iter().copied().filter(|x| !x.is_nan())
}

/// Standard deviation of the numbers, without those that are NaN, which a reward function that does
/// not apply to an example leaves: `√(Σ (x − mean)² / (n − 1))`. NaN for fewer than two numbers.
///
/// ```
/// use rlhf_core::host::ragged::nan_std;
/// assert!((nan_std(&[1.0, f64::NAN, 3.0]) - 2f64.sqrt()).abs() < 1e-15);
/// assert!(nan_std(&[1.0, f64::NAN]).is_nan());
/// ```
pub fn nan_std(x: &[f64]) -> f64 {
    Moments::scorable(x).variance(Spread::Unbiased).sqrt()
}

/// The least number that is not NaN; NaN where there is none, so that a metric of nothing does not
/// pass for one.
///
/// ```
/// assert_eq!(rlhf_core::host::ragged::nan_min(&[2.0, f64::NAN, 1.0]), 1.0);
/// assert!(rlhf_core::host::ragged::nan_min(&[]).is_nan());
/// ```
pub fn nan_min(x: &[f64]) -> f64 {
    present(x).reduce(f64::min).unwrap_or(f64::NAN)
}

/// The largest number that is not NaN; NaN where there is none.
///
/// ```
/// assert_eq!(rlhf_core::host::ragged::nan_max(&[2.0, f64::NAN, 1.0]), 2.0);
/// ```
pub fn nan_max(x: &[f64]) -> f64 {
    present(x).reduce(f64::max).unwrap_or(f64::NAN)
}

/// log(1 − eˣ) of x < 0, with the digits of both ends: the log-probability of not doing what has
/// the log-probability x, as odds need it. Nearer to 0 than −log 2 it is log(−expm1 x), beyond
/// log1p(−eˣ), and each is only evaluated on its side.
///
/// ```
/// let x = 0.25f64.ln();
/// assert!((rlhf_core::host::ragged::log1mexp(x) - 0.75f64.ln()).abs() < 1e-15);
/// ```
pub fn log1mexp<R: Real>(x: R) -> R {
    let v = x.value();
    let value = if v < -std::f64::consts::LN_2 { (-v.exp()).ln_1p() } else { (-v.exp_m1()).ln() };
    x.chain(value, -(-v).exp_m1().recip())
}

/// Cuts a batch into `n` parts of equal size, for micro-batches. What is left over at the end is in
/// no part.
///
/// ```
/// use rlhf_core::host::ragged::split;
/// assert_eq!(split(&[1, 2, 3, 4, 5], 2), [[1, 2], [3, 4]]);
/// ```
///
/// # Panics
/// When `n` is 0.
pub fn split<T>(batch: &[T], n: usize) -> Vec<&[T]> {
    let size = batch.len() / n;
    (0..n).map(|i| &batch[i * size..(i + 1) * size]).collect()
}

/// How often each example comes, and how many belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// Times an example comes in a row: the completions of its group.
    pub in_a_row: usize,
    /// Different examples of a batch; a batch that is not full is left out.
    pub batch: usize,
    /// Times the whole batch comes: the optimiser steps on one set of rollouts.
    pub times: usize,
}

/// The order in which group methods go through examples: each of a batch `in_a_row` times, the
/// batch `times` times, then the next. Shuffle `indices` before.
///
/// ```
/// use rlhf_core::host::ragged::{Repeat, repeated};
/// let how = Repeat { in_a_row: 2, batch: 2, times: 2 };
/// assert_eq!(repeated(&[7, 3, 5], how), [7, 7, 3, 3, 7, 7, 3, 3]);
/// ```
///
/// # Panics
/// When `batch` is 0.
pub fn repeated(indices: &[usize], how: Repeat) -> Vec<usize> {
    let group = |i: &usize| std::iter::repeat_n(*i, how.in_a_row);
    let batch = |batch: &[usize]| batch.iter().flat_map(group).collect::<Vec<_>>().repeat(how.times);
    indices.chunks_exact(how.batch).flat_map(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_goes_and_comes_back() {
        let rows: [&[u32]; 3] = [&[1, 2], &[], &[3]];
        for side in [Side::Left, Side::Right] {
            let padded = pad(&rows, 9, side, 3);
            assert!(padded.iter().all(|row| row.len() == 3));
            let back = padded.iter().map(|row| kept(row, &row.iter().map(|x| *x != 9).collect::<Vec<_>>()));
            assert!(back.zip(rows).all(|(found, row)| found == row));
        }
        assert!(pad::<u32>(&[], 0, Side::Left, 8).is_empty());
    }

    #[test]
    fn a_length_that_is_a_multiple_stays() {
        assert_eq!(pad(&[&[1, 2]], 0, Side::Right, 2), [[1, 2]]);
    }

    #[test]
    fn rows_are_flushed_whatever_lies_between() {
        let (t, f) = (true, false);
        // A hole in the middle closes, which rolling a row as TRL does would not.
        assert_eq!(flush_left(&[&[1, 2, 3]], &[&[t, f, t]], 0), [[1, 3]]);
        assert_eq!(flush_left(&[&[1, 2]], &[&[f, f]], 0), [[0u8; 0]]);
    }

    #[test]
    fn log1mexp_keeps_both_tails() {
        // log(1 − e^−ε) ≈ log ε, and −e^−x far out.
        assert!((log1mexp(-1e-12) - 1e-12f64.ln()).abs() < 1e-11);
        assert!((log1mexp(-700.0) / -(-700f64).exp() - 1.0).abs() < 1e-14);
        let (_, slope) = crate::real::gradient(&[-1e-12], |x| log1mexp(x[0]));
        // −1 / expm1(−x).
        assert!((slope[0] / -1e12 - 1.0).abs() < 1e-11);
    }

    #[test]
    fn the_stop_token_belongs_to_its_completion() {
        assert_eq!(truncate_right(&[5, 6, 2, 7, 3], &[3, 2]), [5, 6, 2]);
        assert_eq!(truncate_right(&[5, 6], &[2]), [5, 6]);
        assert!(truncate_right(&[], &[2]).is_empty());
        assert_eq!([first_true(&[false, false, true, true]), first_true(&[false; 3])], [2, 3]);
    }

    #[test]
    fn a_number_that_is_missing_does_not_count() {
        // Mean 0: (16 + 4 + 36) / 2.
        let x = [4.0, f64::NAN, 2.0, -6.0];
        assert!((nan_std(&x) - 28f64.sqrt()).abs() < 1e-15);
        assert!((nan_std(&[1.0, 3.0]) - 2f64.sqrt()).abs() < 1e-15 && nan_std(&[1.0, f64::NAN]).is_nan());
        assert!((nan_min(&x) + 6.0).abs() <= 0.0 && (nan_max(&x) - 4.0).abs() <= 0.0);
        assert!(nan_min(&[f64::NAN]).is_nan() && nan_max(&[]).is_nan());
    }

    #[test]
    fn what_is_left_over_is_in_no_part() {
        assert_eq!(split(&[1, 2, 3], 3), [[1], [2], [3]]);
        assert_eq!(repeated(&[4, 5, 6], Repeat { in_a_row: 1, batch: 2, times: 1 }), [4, 5]);
        assert_eq!(repeated(&[4], Repeat { in_a_row: 3, batch: 1, times: 1 }), [4, 4, 4]);
    }
}
