//! Small dense systems of linear equations.

/// Solves `A x = b` by elimination with partial pivoting; `a` holds A by rows. Nothing where A is singular
/// or not finite.
pub(super) fn solve(mut a: Vec<f64>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[i * n + k].abs().total_cmp(&a[j * n + k].abs()))?;
        if a[pivot * n + k] == 0.0 || !a[pivot * n + k].is_finite() {
            return None;
        }
        if pivot != k {
            for j in k..n {
                a.swap(pivot * n + j, k * n + j);
            }
            b.swap(pivot, k);
        }
        let (above, below) = a.split_at_mut((k + 1) * n);
        let row = &above[k * n..];
        for (i, other) in below.chunks_mut(n).enumerate() {
            let factor = other[k] / row[k];
            if factor != 0.0 {
                for j in k..n {
                    other[j] -= factor * row[j];
                }
                b[k + 1 + i] -= factor * b[k];
            }
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| a[k * n + j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k * n + k];
    }
    b.iter().all(|x| x.is_finite()).then_some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_needs_its_pivot() {
        // y = 2, x + z = 4, x − z = −2.
        let x =
            solve(vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, -1.0], vec![2.0, 4.0, -2.0]).expect("regular");
        for (found, expected) in x.iter().zip([1.0, 2.0, 3.0]) {
            assert!((found - expected).abs() < 1e-15);
        }
        assert_eq!(solve(vec![1.0, 2.0, 2.0, 4.0], vec![1.0, 1.0]), None);
    }
}
