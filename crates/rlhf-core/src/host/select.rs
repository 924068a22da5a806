//! The best of a list.

/// Indices of the `k` largest scores, best first; ties keep their order, so the earlier of two
/// equal ones wins. All indices, sorted, when `k` is at least the length. NaN ranks below every
/// number: a score that is not one is never preferred.
///
/// ```
/// use rlhf_core::host::select::top_k;
/// assert_eq!(top_k(&[1.0, 3.0, 3.0, 2.0], 2), [1, 2]);
/// assert_eq!(top_k(&[f64::NAN, f64::NEG_INFINITY], 1), [1]);
/// ```
pub fn top_k(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // `partial_cmp` holds −0 and +0 equal, which `total_cmp` does not.
    order.sort_by(|a, b| {
        let (a, b) = (scores[*a], scores[*b]);
        a.is_nan().cmp(&b.is_nan()).then(b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal))
    });
    order.truncate(k);
    order
}

#[cfg(test)]
mod tests {
    use super::top_k;

    #[test]
    fn all_of_them_come_back_sorted() {
        assert_eq!(top_k(&[1.0, 3.0, 3.0, 2.0], 4), [1, 2, 3, 0]);
        assert_eq!(top_k(&[1.0, 3.0, 3.0, 2.0], 9), [1, 2, 3, 0]);
        assert!(top_k(&[], 3).is_empty() && top_k(&[1.0], 0).is_empty());
    }

    #[test]
    fn only_ranks_matter() {
        let scores = [0.3, -1.0, 0.3, 5.0, -2.0];
        let maps: [fn(f64) -> f64; 3] = [|x| x + 7.0, |x| 0.01 * x, f64::exp];
        for map in maps {
            assert_eq!(top_k(&scores.map(map), 3), top_k(&scores, 3));
        }
    }

    #[test]
    fn one_candidate_needs_no_score() {
        for score in [-1e9, 0.0, f64::NAN] {
            assert_eq!(top_k(&[score], 1), [0]);
        }
    }

    #[test]
    fn what_is_no_number_comes_last() {
        assert_eq!(top_k(&[f64::NAN, 1.0, f64::NEG_INFINITY, f64::NAN], 4), [1, 2, 0, 3]);
    }

    #[test]
    fn the_two_zeros_are_a_tie() {
        assert_eq!(top_k(&[-0.0, 0.0], 2), [0, 1]);
    }
}
