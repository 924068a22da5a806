//! Kullback–Leibler divergence as a metric: exact on rows, estimated on sampled tokens.
//!
//! The estimators see a token drawn from the policy and estimate KL(policy ‖ reference), in nats.
//! Source: J. Schulman, *Approximating KL Divergence*, 2020 (a note, joschu.net/blog/kl-approx).

/// KL(p ‖ q) = Σ p (log p − log q) of two rows of log-probabilities. Where p is 0 the term is 0,
/// whatever q is; where only q is 0 the result is infinite.
///
/// ```
/// use rlhf_core::host::kl::exact_kl;
/// // p = (½, ½), q = (¾, ¼): ½ log(4/3).
/// let half = 0.5f64.ln();
/// assert!((exact_kl(&[half, half], &[0.75f64.ln(), 0.25f64.ln()]) - 0.14384103622589045).abs() < 1e-15);
/// ```
///
/// # Panics
/// On rows of different lengths.
pub fn exact_kl(p_logp: &[f64], q_logp: &[f64]) -> f64 {
    assert_eq!(p_logp.len(), q_logp.len(), "exact_kl: rows of different lengths");
    let term = |(p, q): (&f64, &f64)| if *p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) };
    p_logp.iter().zip(q_logp).map(term).sum()
}

/// `log p − log q`: unbiased, may be negative.
pub fn k1(policy_logp: f64, reference_logp: f64) -> f64 {
    policy_logp - reference_logp
}

/// `½ (log p − log q)²`: never negative, biased; its gradient's mean is that of the KL.
pub fn k2(policy_logp: f64, reference_logp: f64) -> f64 {
    0.5 * (policy_logp - reference_logp).powi(2)
}

/// `q/p − 1 − log(q/p)`: never negative and unbiased.
pub fn k3(policy_logp: f64, reference_logp: f64) -> f64 {
    let log_ratio = reference_logp - policy_logp;
    log_ratio.exp_m1() - log_ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f64; 3] = [0.5, 0.3, 0.2];
    const Q: [f64; 3] = [0.6, 0.3, 0.1];

    fn under_p(k: fn(f64, f64) -> f64) -> f64 {
        P.iter().zip(Q).map(|(p, q)| p * k(p.ln(), q.ln())).sum()
    }

    #[test]
    fn both_directions_to_the_digits() {
        assert!((exact_kl(&P.map(f64::ln), &Q.map(f64::ln)) - 0.04746866).abs() < 5e-9);
        assert!((exact_kl(&Q.map(f64::ln), &P.map(f64::ln)) - 0.04007822).abs() < 5e-9);
    }

    #[test]
    fn k1_and_k3_are_unbiased_and_k2_is_close() {
        let exact = exact_kl(&P.map(f64::ln), &Q.map(f64::ln));
        assert!((under_p(k1) - exact).abs() < 1e-15 && (under_p(k3) - exact).abs() < 1e-15);
        // k2 by hand: ½ (½ ln²(5/6) + ⅕ ln² 2).
        let by_hand = 0.5 * (0.5 * (5.0f64 / 6.0).ln().powi(2) + 0.2 * 2f64.ln().powi(2));
        assert!((under_p(k2) - by_hand).abs() < 1e-15 && (by_hand - exact).abs() > 1e-3);
    }

    #[test]
    fn k3_is_never_negative_and_keeps_small_values() {
        for d in [-30.0, -1.0, 0.0, 1.0, 30.0] {
            assert!(k3(0.0, d) >= 0.0);
        }
        // d²/2 for small d.
        assert!((k3(0.0, 1e-5) / 5e-11 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_token_that_p_cannot_draw_does_not_count() {
        let none = f64::NEG_INFINITY;
        assert!((exact_kl(&[0.0, none], &[0.5f64.ln(), 0.5f64.ln()]) - 2f64.ln()).abs() < 1e-15);
        assert!(exact_kl(&[0.5f64.ln(), 0.5f64.ln()], &[0.0, none]).is_infinite());
    }
}
