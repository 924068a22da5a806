//! The equilibrium of a regularised game, by an interior-point method with a certificate.
//!
//! ```text
//! −A π + τ_r log(π/μ) + 2 τ_χ (π/μ − 1) + c = s        A = P − ½
//! π_y s_y = τ_f μ_y + ν        Σ π = 1,  π > 0,  s > 0        ν → 0
//! ```
//!
//! Where: s is the slack of each action, of which the forward KL fixes the product with π; c is the
//! multiplier of the sum. A is skew-symmetric and the pulls rise with π, so the problem is monotone: the
//! path in ν exists and ends at an equilibrium. Newton's method follows it.

use super::error::GameError;
use super::linear;
use super::policy::Policy;
use super::regularized::RegularizedGame;

/// The gap that [`solve`] undercuts, in units of preference.
pub const GAP_TOLERANCE: f64 = 1e-10;

/// Newton steps at the most; games of 50 actions take some dozens.
const MAX_STEPS: u32 = 400;
/// Newton steps at the end of the path, where each squares the error.
const MAX_LAST_STEPS: u32 = 10;
/// ν at the start and at the end of the path. At the end an action at the edge of being abandoned has
/// about √ν.
const NU: [f64; 2] = [0.1, 1e-21];
/// Share of the way to the boundary that a step may go.
const REACH: f64 = 0.95;
/// Below this an action's probability is the path's remainder and is replaced by what it ends at.
const REMAINDER: f64 = 1e-9;

/// What [`solve`] finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Equilibrium {
    /// The policy.
    pub policy: Policy,
    /// Its regularised duality gap: the certificate.
    pub regularized_gap: f64,
    /// Its duality gap in the game without the pull.
    pub gap: f64,
    /// Newton steps taken.
    pub n_steps: u32,
}

/// Finds the equilibrium. Without a pull it is a von Neumann winner, and where there are several, the
/// one at which the path ends: the analytic centre of their set, the same for any order of actions.
///
/// # Errors
/// A gap that stays above [`GAP_TOLERANCE`].
pub fn solve(game: &RegularizedGame) -> Result<Equilibrium, GameError> {
    let mut path = Path::new(game);
    let mut n_steps = 0;
    while n_steps < MAX_STEPS && path.step().is_some() {
        n_steps += 1;
    }
    let plain = path.policy();
    let finished = path.finished(&plain);
    // What replaces the remainder is exact where the rest is; where it is not, it may do harm.
    let gaps = [&plain, &finished].map(|policy| game.regularized_gap(policy));
    let (policy, regularized_gap) =
        if gaps[1] <= gaps[0].max(1e-3 * GAP_TOLERANCE) { (finished, gaps[1]) } else { (plain, gaps[0]) };
    if regularized_gap.is_nan() || regularized_gap > GAP_TOLERANCE {
        let expected = format!("a regularised duality gap of at most {GAP_TOLERANCE:e}");
        return Err(GameError::new("solve", expected, format!("{regularized_gap:e} after {n_steps} steps")));
    }
    let gap = game.gap(&policy);
    Ok(Equilibrium { policy, regularized_gap, gap, n_steps })
}

struct Path<'a> {
    game: &'a RegularizedGame,
    /// The actions that may be played; the vectors below have one entry for each.
    support: Vec<usize>,
    reference: Vec<f64>,
    policy: Vec<f64>,
    slack: Vec<f64>,
    multiplier: f64,
    nu: f64,
    /// Steps taken with ν at its end.
    n_last: u32,
}

/// A Newton step.
struct Step {
    /// Relative to the policy.
    policy: Vec<f64>,
    /// Relative to the slack.
    slack: Vec<f64>,
    multiplier: f64,
}

impl<'a> Path<'a> {
    fn new(game: &'a RegularizedGame) -> Self {
        let mu = game.reference().probs();
        let barred = game.tau().bars_what_reference_bars();
        let support: Vec<usize> = (0..mu.len()).filter(|y| !barred || mu[*y] > 0.0).collect();
        let reference: Vec<f64> = support.iter().map(|y| mu[*y]).collect();
        // Half way to uniform: inside, also for a skewed μ, and not far from the end for a strong pull.
        let even = 1.0 / support.len() as f64;
        let policy: Vec<f64> =
            reference.iter().map(|m| if barred { 0.5 * (m + even) } else { even }).collect();
        let forward = game.tau().forward_kl.get();
        let slack = policy.iter().zip(&reference).map(|(p, m)| (forward * m + NU[0]) / p).collect();
        Self { game, support, reference, policy, slack, multiplier: 0.0, nu: NU[0], n_last: 0 }
    }

    fn target(&self, i: usize) -> f64 {
        self.game.tau().forward_kl.get() * self.reference[i] + self.nu
    }

    /// How far the first line is from holding, one number an action.
    fn residual(&self) -> Vec<f64> {
        let tau = self.game.tau();
        let (r, x) = (tau.reverse_kl.get(), tau.chi2.get());
        let one = |i: usize| {
            let against = self.support.iter().zip(&self.policy);
            let won: f64 = against.map(|(y, p)| self.game.game().margin(self.support[i], *y) * p).sum();
            let (p, m) = (self.policy[i], self.reference[i]);
            let reverse = if r > 0.0 { r * (p / m).ln() } else { 0.0 };
            let chi2 = if x > 0.0 { 2.0 * x * (p / m - 1.0) } else { 0.0 };
            self.multiplier + reverse + chi2 - won - self.slack[i]
        };
        (0..self.support.len()).map(one).collect()
    }

    /// The direction in which all equations would hold if they were straight. Unknowns are relative
    /// changes δ of π, so that the matrix is scaled alike for all sizes of π.
    fn direction(&self) -> Option<Step> {
        let n = self.support.len();
        let tau = self.game.tau();
        let residual = self.residual();
        let mut matrix = vec![0.0; (n + 1) * (n + 1)];
        let mut right = vec![0.0; n + 1];
        for i in 0..n {
            for j in 0..n {
                let margin = self.game.game().margin(self.support[i], self.support[j]);
                matrix[i * (n + 1) + j] = -margin * self.policy[j];
            }
            let spread = match tau.chi2.get() {
                x if x > 0.0 => 2.0 * x * self.policy[i] / self.reference[i],
                _ => 0.0,
            };
            matrix[i * (n + 1) + i] += tau.reverse_kl.get() + spread + self.slack[i];
            matrix[i * (n + 1) + n] = 1.0;
            matrix[n * (n + 1) + i] = self.policy[i];
            right[i] = self.target(i) / self.policy[i] - self.slack[i] - residual[i];
        }
        right[n] = 1.0 - self.policy.iter().sum::<f64>();
        let mut policy = linear::solve(matrix, right)?;
        let multiplier = policy.pop()?;
        let slack = |i: usize| self.target(i) / (self.policy[i] * self.slack[i]) - 1.0 - policy[i];
        let slack = (0..n).map(slack).collect();
        Some(Step { policy, slack, multiplier })
    }

    /// One step; nothing when the end is reached.
    fn step(&mut self) -> Option<()> {
        let step = self.direction()?;
        let fall = step.policy.iter().chain(&step.slack).fold(0.0, |a: f64, d| a.max(-d));
        let length = f64::min(1.0, REACH / fall);
        let size = step.policy.iter().chain(&step.slack).fold(0.0, |a: f64, b| a.max(b.abs()));
        for (p, d) in self.policy.iter_mut().zip(&step.policy) {
            *p *= 1.0 + length * d;
        }
        for (s, d) in self.slack.iter_mut().zip(&step.slack) {
            *s *= 1.0 + length * d;
        }
        self.multiplier += length * step.multiplier;
        if self.nu <= NU[1] {
            // Where actions are at the edge, rounding keeps the last steps from shrinking.
            self.n_last += 1;
            if size < 1e-12 || self.n_last > MAX_LAST_STEPS {
                return None;
            }
        }
        // As far ahead on the path as the last step was good.
        if length > 0.9 {
            self.nu = (self.nu * 0.1).max(NU[1]);
        } else if length > 0.3 {
            self.nu = (self.nu * 0.5).max(NU[1]);
        }
        Some(())
    }

    /// The path's policy over all actions.
    fn policy(&self) -> Policy {
        let mut weights = vec![0.0; self.game.reference().n_actions()];
        for (y, p) in self.support.iter().zip(&self.policy) {
            weights[*y] = *p;
        }
        Policy::of_weights(&weights)
    }

    /// With what the path leaves on abandoned actions replaced by what the equations say at ν = 0.
    fn finished(&self, policy: &Policy) -> Policy {
        let best = self.game.best_response(policy);
        let is_none = self.game.tau().is_none();
        let ends = policy.probs().iter().zip(best.probs());
        let one = |(p, q): (&f64, &f64)| match *p {
            p if p >= REMAINDER => p,
            _ if is_none => 0.0,
            _ => *q,
        };
        Policy::of_weights(&ends.map(one).collect::<Vec<_>>())
    }
}
