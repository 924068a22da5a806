//! The exact best policy against given scores, under any mixture of pulls.
//!
//! ```text
//! max_q  Σ s q − a Σ q (log q − b) + f Σ μ log q − x Σ (q − μ)²/μ       Σ q = 1, q ≥ 0
//! a (log q_y − b_y) − f μ_y/q_y + 2x (q_y/μ_y − 1) = s_y − c            where q_y > 0
//! ```
//!
//! Where: a, f, x are `entropy`, `forward`, `chi2`; b is `base`, of which −∞ bars an action. The left
//! side of the second line rises with q_y and q_y falls with c, so that roots of one number are all
//! there is to find: first each q_y of a c, then the c at which they sum to 1.

use super::policy::Policy;
use super::root::root;

/// What holds the policy back, and where to.
#[derive(Debug)]
pub(super) struct Pull<'a> {
    /// a.
    pub(super) entropy: f64,
    /// b, in nats.
    pub(super) base: &'a [f64],
    /// f.
    pub(super) forward: f64,
    /// x.
    pub(super) chi2: f64,
    /// μ.
    pub(super) reference: &'a [f64],
}

/// The left side less the right at some log q, and its slope there.
struct Left {
    value: f64,
    slope: f64,
}

impl Pull<'_> {
    fn bars(&self, y: usize) -> bool {
        (self.entropy > 0.0 && self.base[y] == f64::NEG_INFINITY)
            || (self.chi2 > 0.0 && self.reference[y] <= 0.0)
    }

    /// q_y where its score less c is `v`; from 2 on, which no probability reaches, 2.
    fn share(&self, y: usize, v: f64) -> f64 {
        if self.bars(y) {
            return 0.0;
        }
        let mu = self.reference[y];
        let (f, x) = (self.forward * mu, self.chi2);
        let q = if self.entropy > 0.0 && f <= 0.0 && x <= 0.0 {
            (self.base[y] + v / self.entropy).exp()
        } else if self.entropy > 0.0 {
            self.mixed_share(y, v)
        } else if x > 0.0 {
            // 2x/μ q² − (v + 2x) q − f = 0, its root that is 0 or more without cancellation.
            let (b, curve) = (v + 2.0 * x, 2.0 * x / mu);
            let wide = (b * b + 4.0 * curve * f).sqrt();
            if b > 0.0 { (b + wide) / (2.0 * curve) } else { positive(2.0 * f / (wide - b)) }
        } else if v < 0.0 {
            f / -v
        } else {
            2.0
        };
        q.min(2.0)
    }

    /// The root in log q, since both ends are exponentially far.
    fn mixed_share(&self, y: usize, v: f64) -> f64 {
        let (a, b, mu) = (self.entropy, self.base[y], self.reference[y]);
        // 0 times an infinite exponential would be NaN.
        let scaled = |by: f64, exponent: f64| if by > 0.0 { by * exponent.exp() } else { 0.0 };
        let at = |u: f64| {
            let pulled = scaled(self.forward * mu, -u);
            let spread = scaled(2.0 * self.chi2 / mu, u);
            Left { value: a * (u - b) - pulled + spread - 2.0 * self.chi2 - v, slope: a + pulled + spread }
        };
        let high = 2f64.ln();
        if at(high).value <= 0.0 {
            return 2.0;
        }
        // Even the most that χ² can take at q ≤ 2 leaves the left side below v there.
        let most = if self.chi2 > 0.0 { 4.0 * self.chi2 / mu } else { 0.0 };
        let mut low = (b + (v - most) / a).min(high);
        let mut high = high;
        let mut u = (b + v / a).clamp(low, high);
        let mut last = f64::INFINITY;
        for _ in 0..200 {
            let Left { value, slope } = at(u);
            if value < 0.0 {
                low = u;
            } else {
                high = u;
            }
            // Newton's step where it is at most half of the last one: far down an exponential its steps
            // are all of length 1.
            let newton = u - value / slope;
            let is_fast = (newton - u).abs() <= 0.5 * last && newton >= low && newton <= high;
            let next = if is_fast { newton } else { low + 0.5 * (high - low) };
            last = (next - u).abs();
            u = next;
            if last <= f64::EPSILON * u.abs().max(1.0) {
                break;
            }
        }
        u.exp()
    }
}

fn positive(x: f64) -> f64 {
    // 0/0 where nothing pulls up at the end of χ²'s reach.
    if x.is_nan() { 0.0 } else { x }
}

/// The best policy; where nothing pulls, the first of the best actions.
pub(super) fn respond(scores: &[f64], pull: &Pull<'_>) -> Policy {
    if pull.forward <= 0.0 && pull.chi2 <= 0.0 {
        if pull.entropy > 0.0 {
            let logits: Vec<f64> = scores.iter().zip(pull.base).map(|(s, b)| b + s / pull.entropy).collect();
            return Policy::from_logits(&logits);
        }
        return pure(scores);
    }
    let total = |c: f64| -> f64 { scores.iter().enumerate().map(|(y, s)| pull.share(y, s - c)).sum() };
    // Log of the sum: nearly straight in c where the entropy rules.
    let mut excess = |c: f64| -total(c).ln();
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let step = pull.entropy + pull.forward + pull.chi2;
    // The sum falls from beyond 1 to 0, so there is a root; NaN among the scores stays NaN.
    let c = root(&mut excess, best, step).unwrap_or(f64::NAN);
    Policy::of_weights(&scores.iter().enumerate().map(|(y, s)| pull.share(y, s - c)).collect::<Vec<_>>())
}

fn pure(scores: &[f64]) -> Policy {
    let mut best = 0;
    for (y, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = y;
        }
    }
    let weights: Vec<f64> = (0..scores.len()).map(|y| f64::from(u8::from(y == best))).collect();
    Policy::of_weights(&weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MU: [f64; 3] = [0.6, 0.3, 0.1];
    const SCORES: [f64; 3] = [0.2, 0.5, -0.1];

    fn check(entropy: f64, forward: f64, chi2: f64) {
        let base = MU.map(f64::ln);
        let pull = Pull { entropy, base: &base, forward, chi2, reference: &MU };
        let q = respond(&SCORES, &pull);
        let value = |q: &[f64]| -> f64 {
            (0..3)
                .map(|y| {
                    let ratio = if q[y] > 0.0 { (q[y] / MU[y]).ln() } else { 0.0 };
                    let up = if forward > 0.0 { forward * MU[y] * ratio } else { 0.0 };
                    SCORES[y] * q[y] - entropy * q[y] * ratio + up - chi2 * (q[y] - MU[y]).powi(2) / MU[y]
                })
                .sum()
        };
        let best = value(q.probs());
        // No neighbour is better: the objective is concave, so none at all.
        for from in 0..3 {
            for to in 0..3 {
                let h = 1e-5f64.min(q.probs()[from]);
                let mut other = q.probs().to_vec();
                other[from] -= h;
                other[to] += h;
                assert!(value(&other) <= best + 1e-16, "{entropy} {forward} {chi2}: {other:?} beats {q:?}");
            }
        }
    }

    #[test]
    fn no_neighbour_is_better() {
        for a in [0.0, 1e-4, 0.3, 10.0] {
            for f in [0.0, 1e-4, 0.3, 10.0] {
                for x in [0.0, 1e-4, 0.3, 10.0] {
                    check(a, f, x);
                }
            }
        }
    }

    #[test]
    fn a_barred_action_is_not_played() {
        let base = [0.0, f64::NEG_INFINITY, 0.0];
        for chi2 in [0.0, 0.2] {
            let pull = Pull { entropy: 0.1, base: &base, forward: 0.0, chi2, reference: &MU };
            assert!(respond(&SCORES, &pull).probs()[1] <= 0.0);
        }
    }
}
