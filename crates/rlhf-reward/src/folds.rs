//! Splits of a data set, from the caller's random stream.

use rand::Rng;
use rand::seq::SliceRandom;

use crate::error::Error;

/// `k` disjoint lists of indices that cover `0..n`, sizes differing by at most one, in an order
/// drawn from `rng`.
///
/// # Errors
/// Fewer than two folds, or fewer examples than folds.
pub fn folds(n: usize, k: usize, rng: &mut impl Rng) -> Result<Vec<Vec<usize>>, Error> {
    if k < 2 || n < k {
        return Err(Error::TooFew { what: "k-fold split", expected: k.max(2), found: n.min(k) });
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(rng);
    Ok((0..k).map(|f| order.iter().copied().skip(f).step_by(k).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_core::rng::stream;

    #[test]
    fn folds_cover_everything_once() {
        let folds = folds(11, 3, &mut stream(1, "test", 0, 0)).expect("splits");
        assert_eq!(folds.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 3]);
        let mut all: Vec<usize> = folds.concat();
        all.sort_unstable();
        assert_eq!(all, (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn a_fold_is_never_empty() {
        assert!(folds(2, 3, &mut stream(1, "test", 0, 0)).is_err());
        assert!(folds(9, 1, &mut stream(1, "test", 0, 0)).is_err());
    }
}
