//! Best-of-N and SuperHF on a finite set of answers, by enumeration.
//!
//! ```text
//! q_N(a) = F(a)ᴺ − F(a⁻)ᴺ                 F the distribution function of p in the order of R
//! p*     = (q + β p₀) / (1 + β)           minimises CE_q(p) + β KL(p₀ ‖ p)
//! (1 + β) p = q_N(p) + β p₀               the fixed point of the loop
//! ```
//!
//! Where: p is the policy, p₀ the prior, R the rewards, N the samples of a prompt. Answers of equal
//! reward share the mass of their class in proportion to p, as when ties go to the earlier sample.
//! Only the ranks of R matter.
//! Paper: Mukobi et al., *SuperHF*, arXiv:2310.16763, for the loop; its bandit form is derived here.

/// The law of the best of `n` samples of `p`, which is normalised first.
///
/// ```
/// use rlhf_core::host::best_of_n::best_of_n;
/// // Uniform on two, best of two: the worse wins only when both are worse.
/// assert_eq!(best_of_n(&[0.5, 0.5], &[1.0, 0.0], 2), [0.75, 0.25]);
/// ```
///
/// # Panics
/// On no sample, different lengths or a NaN reward.
pub fn best_of_n(p: &[f64], rewards: &[f64], n: u32) -> Vec<f64> {
    assert!(n > 0, "best of n: expected at least one sample, found none");
    let mut q = vec![0.0; p.len()];
    let classes = classes(p, rewards);
    // Summed in the same order as F below, so that the last F is exactly 1.
    let total: f64 = classes.iter().map(|c| c.iter().map(|a| p[*a]).sum::<f64>()).fold(0.0, |s, m| s + m);
    let mut below = 0.0;
    for class in classes {
        let mass: f64 = class.iter().map(|a| p[*a]).sum();
        let upto = below + mass;
        let won = power(upto / total, n) - power(below / total, n);
        for a in class {
            // A class without mass wins nothing; 0 / 0 must not say otherwise.
            q[a] = if mass > 0.0 { won * p[a] / mass } else { 0.0 };
        }
        below = upto;
    }
    q
}

/// The policy that minimises `CE_q(p) + β KL(p₀ ‖ p)`: β counts as pseudo-samples of the prior.
pub fn inner_minimiser(q: &[f64], prior: &[f64], beta: f64) -> Vec<f64> {
    q.iter().zip(prior).map(|(q, p0)| (q + beta * p0) / (1.0 + beta)).collect()
}

/// Where the loop ends.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedPoint {
    /// The policy.
    pub policy: Vec<f64>,
    /// `max |(1 + β) p − q_N(p) − β p₀|` of it, recomputed from the policy itself.
    pub residual: f64,
}

/// The policy at which a round changes nothing, starting from the prior.
///
/// Summed over the answers up to a reward class, the equation reads `(1 + β) F = Fᴺ + β F₀`, so
/// each value of the distribution function is found alone. `Fᴺ − (1 + β) F + β F₀` is convex, not
/// negative at 0 and negative at 1 when β > 0 and F₀ < 1: it has exactly one root there, which
/// bisection brackets to the last bit. With β = 0 and N > 1 the mass ends on the best class.
///
/// ```
/// use rlhf_core::host::best_of_n::fixed_point;
/// // β = 1, N = 2, two answers: the better one has √½.
/// let end = fixed_point(&[0.5, 0.5], &[0.0, 1.0], 2, 1.0);
/// assert!((end.policy[1] - 0.5f64.sqrt()).abs() < 1e-15);
/// ```
///
/// # Panics
/// On no sample, different lengths, a NaN reward or a negative β.
pub fn fixed_point(prior: &[f64], rewards: &[f64], n: u32, beta: f64) -> FixedPoint {
    assert!(beta >= 0.0, "fixed_point: beta: expected a number of at least 0, found {beta}");
    let total: f64 = prior.iter().sum();
    let classes = classes(prior, rewards);
    let masses: Vec<f64> = classes.iter().map(|c| c.iter().map(|a| prior[*a]).sum::<f64>() / total).collect();
    let mut policy = vec![0.0; prior.len()];
    let (mut below, mut prior_upto) = (0.0, 0.0);
    for (k, class) in classes.iter().enumerate() {
        prior_upto += masses[k];
        let last = masses[k + 1..].iter().all(|m| *m <= 0.0);
        let upto = if last { 1.0 } else { root(prior_upto.min(1.0), n, beta) };
        for a in class {
            let share = if masses[k] > 0.0 { prior[*a] / total / masses[k] } else { 0.0 };
            policy[*a] = (upto - below).max(0.0) * share;
        }
        below = upto;
    }
    let q = best_of_n(&policy, rewards, n);
    let gap = |a: usize| ((1.0 + beta) * policy[a] - q[a] - beta * prior[a] / total).abs();
    // Not `f64::max`, which would drop a NaN.
    let worse = |m: f64, g: f64| if m.is_nan() || g <= m { m } else { g };
    let residual = (0..policy.len()).map(gap).fold(0.0, worse);
    FixedPoint { policy, residual }
}

/// The root in [0, 1) of `Fᴺ − (1 + β) F + β F₀`, to the last bit.
fn root(prior_upto: f64, n: u32, beta: f64) -> f64 {
    if n <= 1 {
        return prior_upto;
    }
    let above = |x: f64| power(x, n) - (1.0 + beta) * x + beta * prior_upto > 0.0;
    let (mut low, mut high) = (0.0f64, 1.0f64);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high || high < f64::MIN_POSITIVE {
            return low;
        }
        if above(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// What a reward-maximising method with a KL price ends at.
#[derive(Debug, Clone, PartialEq)]
pub struct RlOptimum {
    /// `p ∝ p₀ exp(R / β)`.
    pub policy: Vec<f64>,
    /// `J* = max E_p R − β KL(p ‖ p₀) = β log E_{p₀} exp(R / β)`.
    pub objective: f64,
}

/// The optimum of `E_p R − β KL(p ‖ p₀)`: unlike SuperHF's end it depends on the size of R.
///
/// # Panics
/// Unless β is positive.
pub fn rl_optimum(prior: &[f64], rewards: &[f64], beta: f64) -> RlOptimum {
    assert!(beta > 0.0, "rl_optimum: beta: expected a positive number, found {beta}");
    let tilted: Vec<f64> = prior.iter().zip(rewards).map(|(p0, r)| p0.ln() + r / beta).collect();
    let log_mean = super::stable::logsumexp(&tilted);
    RlOptimum { policy: tilted.iter().map(|t| (t - log_mean).exp()).collect(), objective: beta * log_mean }
}

/// `E_p x`.
pub fn expectation(p: &[f64], x: &[f64]) -> f64 {
    p.iter().zip(x).map(|(p, x)| p * x).sum()
}

/// `KL(p ‖ q)` of two probability vectors, in nats; 0 log 0 is 0.
pub fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum()
}

/// `Σ p²`: the chance that two samples agree; 1 for a policy that has collapsed.
pub fn collision(p: &[f64]) -> f64 {
    p.iter().map(|p| p * p).sum()
}

/// Answers by rising reward, those of equal reward together.
fn classes(p: &[f64], rewards: &[f64]) -> Vec<Vec<usize>> {
    assert_eq!(p.len(), rewards.len(), "best of n: one reward an answer");
    assert!(!rewards.iter().any(|r| r.is_nan()), "best of n: a reward is NaN");
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| rewards[*a].partial_cmp(&rewards[*b]).unwrap_or(std::cmp::Ordering::Equal));
    let mut classes: Vec<Vec<usize>> = Vec::new();
    for a in order {
        match classes.last_mut() {
            Some(class) if rewards[class[0]] >= rewards[a] => class.push(a),
            _ => classes.push(vec![a]),
        }
    }
    classes
}

fn power(x: f64, n: u32) -> f64 {
    i32::try_from(n).map_or_else(|_| x.powf(f64::from(n)), |n| x.powi(n))
}

#[cfg(test)]
mod tests;
