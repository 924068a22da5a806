//! Exponentials that neither overflow nor lose their tails.

use crate::real::Real;

/// `log(1 + eˣ)`: x for large x, eˣ for small ones, with all digits between.
///
/// ```
/// assert_eq!(rlhf_core::host::stable::softplus(1e4), 1e4);
/// ```
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `log σ(x)`, never above 0.
pub fn log_sigmoid(x: f64) -> f64 {
    -softplus(-x)
}

/// `σ(x) = 1 / (1 + e⁻ˣ)` with the digits of both tails.
pub fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// `log Σ exp xᵢ`; −∞ for an empty slice or one that holds nothing else.
pub fn logsumexp<R: Real>(x: &[R]) -> R {
    let max = largest(x);
    if max == f64::NEG_INFINITY {
        // `f64::max` ignores NaN: a slice of NaN must not pass for an empty one.
        return R::from(if x.iter().any(|x| x.value().is_nan()) { f64::NAN } else { max });
    }
    x.iter().map(|x| (*x - max).exp()).sum::<R>().ln() + max
}

/// `xᵢ − log Σ exp xⱼ`, computed from the largest so that a large common shift costs no digits.
pub fn log_softmax<R: Real>(x: &[R]) -> Vec<R> {
    let max = largest(x);
    let shifted: Vec<R> = x.iter().map(|x| *x - max).collect();
    let log_sum = shifted.iter().map(|x| x.exp()).sum::<R>().ln();
    shifted.into_iter().map(|x| x - log_sum).collect()
}

/// A shift that changes no value, so it carries no slope.
fn largest<R: Real>(x: &[R]) -> f64 {
    x.iter().map(|x| x.value()).fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    #[test]
    fn tails_keep_their_digits() {
        assert!((softplus(0.0) - LN_2).abs() < 1e-16);
        assert!((softplus(-700.0) / (-700f64).exp() - 1.0).abs() < 1e-14);
        assert!((log_sigmoid(-1e4) + 1e4).abs() < 1e-9);
        assert!((sigmoid(-700.0) / (-700f64).exp() - 1.0).abs() < 1e-14);
        assert!((sigmoid(40.0) + sigmoid(-40.0) - 1.0).abs() < 1e-16);
    }

    #[test]
    fn a_common_shift_moves_logsumexp_and_leaves_log_softmax() {
        let x = [0.1, -3.0, 2.0];
        let y = x.map(|x| x + 1e4);
        assert!((logsumexp(&y) - logsumexp(&x) - 1e4).abs() < 1e-11);
        for (a, b) in log_softmax(&x).iter().zip(log_softmax(&y)) {
            assert!((a - b).abs() < 1e-11);
        }
    }

    #[test]
    fn nothing_sums_to_nothing_and_nan_stays() {
        assert_eq!(logsumexp::<f64>(&[]).to_bits(), f64::NEG_INFINITY.to_bits());
        assert_eq!(logsumexp(&[f64::NEG_INFINITY]).to_bits(), f64::NEG_INFINITY.to_bits());
        assert!(logsumexp(&[f64::NAN]).is_nan() && logsumexp(&[1.0, f64::NAN]).is_nan());
    }
}
