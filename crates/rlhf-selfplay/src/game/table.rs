//! The loss of RSPO on a softmax table: the same scalar twin that defines it for a language model.
//!
//! ```text
//! L(θ) = Σ_rows w ℓ(y)            ℓ as `rlhf_core::loss::rspo`, of log π_θ(y)
//! expected     a row for each action: w = 2 π_t(y), and P(y ≻ π_t)
//! sampled      rows for K draws of π_t: w = 2/K of all, or 1 of the best and of the worst;
//!              the win rate of a draw against the K, itself included
//! ```
//!
//! Where: the weights are those of pairs, as one pair is two responses.

use rand::RngExt;
use rlhf_core::host::stable::{log_softmax, logsumexp};
use rlhf_core::loss::rspo::{References, RspoConfig, rspo_response_scalar};
use rlhf_core::number::Positive;
use rlhf_core::real::{Real, gradient};
use rlhf_core::rng::stream;

use super::error::GameError;
use super::matrix::Game;
use super::policy::Policy;
use super::root::root;

/// What a slope may be off at a minimum before it counts as not found.
const BALANCE_TOLERANCE: f64 = 1e-8;
/// What the probabilities may be off a sum of 1 there.
const SUM_TOLERANCE: f64 = 1e-9;

/// RSPO as an update of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Rspo {
    /// The loss.
    pub config: RspoConfig,
    /// Which responses it is of.
    pub responses: Responses,
    /// How far it is minimised.
    pub update: Update,
}

/// Which responses of π_t the loss is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Responses {
    /// All, each as often as it is played.
    Expected,
    /// Draws.
    Sampled(Draws),
}

/// Draws of π_t.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    n: usize,
    choice: Choice,
    seed: u64,
}

/// Which of the draws the loss is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Every one.
    All,
    /// The one that wins most and the one that wins least, as in the authors' code.
    BestWorst,
}

/// How far the loss of one iterate is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Update {
    /// To its minimum over all policies.
    Minimum,
    /// By steps of gradient descent on the logits, from those of π_t.
    Gradient {
        /// Their length.
        learning_rate: Positive,
        /// How many.
        n_steps: u32,
    },
}

impl Draws {
    /// `n` draws a step.
    ///
    /// # Errors
    /// Fewer than 2: one alone wins against nobody.
    pub fn new(n: usize, choice: Choice, seed: u64) -> Result<Self, GameError> {
        if n < 2 {
            return Err(GameError::new("responses", "at least 2 a step", n.to_string()));
        }
        Ok(Self { n, choice, seed })
    }

    fn rows(self, game: &Game, policy: &Policy, step: u64) -> Vec<Row> {
        let one = |k: u64| draw(policy.probs(), stream(self.seed, "game responses", step, k).random());
        let drawn: Vec<usize> = (0..self.n as u64).map(one).collect();
        let win_rate = |y: &usize| drawn.iter().map(|z| game.preference(*y, *z)).sum::<f64>() / self.n as f64;
        let row = |y: &usize, weight| Row { action: *y, weight, win_rate: win_rate(y) };
        match self.choice {
            Choice::All => drawn.iter().map(|y| row(y, 2.0 / self.n as f64)).collect(),
            Choice::BestWorst => {
                let by_rate = |a: &&usize, b: &&usize| win_rate(a).total_cmp(&win_rate(b));
                let ends = [drawn.iter().max_by(by_rate), drawn.iter().min_by(by_rate)];
                ends.into_iter().flatten().map(|y| row(y, 1.0)).collect()
            }
        }
    }
}

/// The action at which the running sum of `probs` passes `at`, from 0 to 1.
fn draw(probs: &[f64], at: f64) -> usize {
    let mut sum = 0.0;
    let passes = |p: &f64| {
        sum += p;
        sum > at
    };
    // Rounding may leave the whole sum below; then the last action that is played.
    let last = || probs.iter().rposition(|p| *p > 0.0).unwrap_or(0);
    probs.iter().position(passes).unwrap_or_else(last)
}

/// One response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// y.
    pub action: usize,
    /// w.
    pub weight: f64,
    /// P(y ≻ π_t), or what stands for it.
    pub win_rate: f64,
}

/// The loss of one iterate as a function of a table of logits.
#[derive(Debug, Clone)]
pub struct Table<'a> {
    /// The loss.
    pub config: &'a RspoConfig,
    /// π_t.
    pub previous: &'a Policy,
    /// μ.
    pub original: &'a Policy,
    /// The responses.
    pub rows: Vec<Row>,
}

impl Table<'_> {
    /// L of these logits.
    ///
    /// # Panics
    /// On a row whose action is beyond the logits or policies.
    #[track_caller]
    pub fn loss<R: Real>(&self, logits: &[R]) -> R {
        let logp = log_softmax(logits);
        self.rows.iter().map(|row| self.response(row, logp[row.action]) * row.weight).sum()
    }

    /// Its gradient by the logits.
    ///
    /// # Panics
    /// As [`loss`](Self::loss).
    #[track_caller]
    pub fn gradient(&self, logits: &[f64]) -> Vec<f64> {
        let logp = log_softmax(logits);
        let mut by_logp = vec![0.0; logits.len()];
        for row in &self.rows {
            by_logp[row.action] += row.weight * self.slope(row, logp[row.action]);
        }
        // Through log π = θ − log Σ exp θ.
        let sum: f64 = by_logp.iter().sum();
        logp.iter().zip(by_logp).map(|(l, slope)| slope - l.exp() * sum).collect()
    }

    fn response<R: Real>(&self, row: &Row, logp: R) -> R {
        let (previous, original) = (self.previous.logp()[row.action], self.original.logp()[row.action]);
        rspo_response_scalar(self.config, logp, References { previous, original }, row.win_rate)
    }

    fn slope(&self, row: &Row, logp: f64) -> f64 {
        gradient(&[logp], |x| self.response(row, x[0])).1[0]
    }

    /// The minimum of L over all policies, when the rows are the expected ones: each response's slope
    /// is K π(y)/π_t(y) with one K, and K is such that Σ π = 1.
    fn minimum(&self) -> Option<Policy> {
        let free = self.rows.iter().map(|row| self.free(row)).collect::<Option<Vec<_>>>()?;
        // The smaller K, the smaller each π. Where the rows are not balanced at all, K is too large.
        let mut excess = |k: f64| self.others(&free, k, None).map_or(f64::INFINITY, |logp| logsumexp(&logp));
        let k = root(&mut excess, 0.0, 0.125)?;
        if let Some(logp) = self.others(&free, k, None).filter(|logp| logsumexp(logp).abs() < SUM_TOLERANCE) {
            return Some(self.policy(&logp));
        }
        // One response at the most may lie where L bends downwards along its own axis: what the others
        // leave of the sum is its share.
        let candidates = (0..self.rows.len()).filter_map(|last| self.with_last(&free, last));
        let loss = |policy: &Policy| self.loss(policy.logp());
        candidates.min_by(|a, b| loss(a).total_cmp(&loss(b)))
    }

    /// The policy whose gradient vanishes and whose response of row `last` has what the others leave.
    fn with_last(&self, free: &[f64], last: usize) -> Option<Policy> {
        let row = &self.rows[last];
        let complete = |k: f64| -> Option<Vec<f64>> {
            let mut logp = self.others(free, k, Some(last))?;
            logp[last] = (-logsumexp(&logp).exp()).ln_1p();
            logp[last].is_finite().then_some(logp)
        };
        let mut excess = |k: f64| {
            complete(k).map_or(f64::INFINITY, |logp| {
                k * (logp[last] - self.previous.logp()[row.action]).exp() - self.slope(row, logp[last])
            })
        };
        let k = root(&mut excess, 0.0, 1e-3)?;
        let balanced = excess(k).abs() <= BALANCE_TOLERANCE * (1.0 + k);
        complete(k).filter(|_| balanced).map(|logp| self.policy(&logp))
    }

    /// log π of each row at K, by itself; −∞ for the one left out.
    fn others(&self, free: &[f64], k: f64, out: Option<usize>) -> Option<Vec<f64>> {
        let one = |(i, row): (usize, &Row)| {
            if out == Some(i) {
                return Some(f64::NEG_INFINITY);
            }
            // Of the two places where the slope of the response is K π(y)/π_t(y), the lower.
            let previous = self.previous.logp()[row.action];
            let mut excess = |logp: f64| self.slope(row, logp) - k * (logp - previous).exp();
            if k.abs() <= 0.0 { Some(free[i]) } else { root(&mut excess, free[i], 0.0625) }
        };
        self.rows.iter().enumerate().map(one).collect()
    }

    /// log π(y) where the response has no slope.
    fn free(&self, row: &Row) -> Option<f64> {
        root(&mut |logp| self.slope(row, logp), self.previous.logp()[row.action], 0.5)
    }

    /// The rows' log-probabilities as a policy; what has no row is not played.
    fn policy(&self, logp: &[f64]) -> Policy {
        let mut logits = vec![f64::NEG_INFINITY; self.previous.n_actions()];
        for (row, logp) in self.rows.iter().zip(logp) {
            logits[row.action] = *logp;
        }
        Policy::from_logits(&logits)
    }
}

impl Rspo {
    /// The loss of iterate number `step`, of which `policy` is π_t.
    ///
    /// # Panics
    /// On policies over another number of actions than the game.
    #[track_caller]
    pub fn table<'a>(
        &'a self,
        game: &Game,
        policy: &'a Policy,
        original: &'a Policy,
        step: u64,
    ) -> Table<'a> {
        assert_eq!(original.n_actions(), game.n_actions(), "a reference over the actions of the game");
        let rows = match self.responses {
            Responses::Sampled(draws) => draws.rows(game, policy, step),
            Responses::Expected => {
                let rates = game.win_rates(policy).into_iter().enumerate();
                let row = |(action, win_rate)| Row { action, weight: 2.0 * policy.probs()[action], win_rate };
                rates.map(row).filter(|row| policy.logp()[row.action] > f64::NEG_INFINITY).collect()
            }
        };
        Table { config: &self.config, previous: policy, original, rows }
    }

    /// π_{t+1}.
    ///
    /// # Errors
    /// A minimum of sampled responses, which nothing holds on the actions that were not drawn; a
    /// minimum that is not found; logits that are not finite.
    ///
    /// # Panics
    /// As [`table`](Self::table).
    #[track_caller]
    pub fn step(
        &self,
        game: &Game,
        policy: &Policy,
        original: &Policy,
        step: u64,
    ) -> Result<Policy, GameError> {
        let table = self.table(game, policy, original, step);
        let next = match (self.update, self.responses) {
            (Update::Minimum, Responses::Expected) => table.minimum().ok_or_else(|| {
                GameError::new(format!("step {step}"), "a minimum of the loss", "none near the last policy")
            })?,
            (Update::Minimum, Responses::Sampled(_)) => {
                return Err(GameError::new("update", "gradient steps with sampled responses", "the minimum"));
            }
            (Update::Gradient { learning_rate, n_steps }, _) => {
                let mut logits = policy.logp().to_vec();
                for _ in 0..n_steps {
                    let slopes = table.gradient(&logits);
                    for (logit, slope) in logits.iter_mut().zip(slopes) {
                        *logit -= learning_rate.get() * slope;
                    }
                }
                Policy::from_logits(&logits)
            }
        };
        if next.is_sound() {
            Ok(next)
        } else {
            Err(GameError::new(format!("step {step}: policy"), "finite log-probabilities", "NaN or infinity"))
        }
    }
}
