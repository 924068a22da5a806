//! A preference matrix.

use rlhf_core::contract::{Candidate, Comparison, PreferenceOracle};
use rlhf_core::number::Prob;

use super::error::GameError;
use super::policy::Policy;

/// How far `P + Pᵀ` may be from 1: decimals such as 0.30000000000000004 are meant as 0.3.
const SUM_TOLERANCE: f64 = 1e-9;

/// A symmetric two-player game: P(a ≻ b) of every two actions. Both players want to be preferred.
#[derive(Debug, Clone, PartialEq)]
pub struct Game {
    n_actions: usize,
    /// P − ½ by rows: skew-symmetric to the last bit, so that no policy is preferred to itself.
    margins: Vec<f64>,
}

impl Game {
    /// The game of these rows; row a holds P(a ≻ b) of every b.
    ///
    /// # Errors
    /// Fewer than 2 actions, rows that make no square, an entry outside [0, 1] or not finite, two
    /// entries that do not sum to 1 (to nine digits).
    pub fn new(rows: &[Vec<f64>]) -> Result<Self, GameError> {
        let n_actions = rows.len();
        if n_actions < 2 {
            return Err(GameError::new("P", "at least 2 actions", n_actions.to_string()));
        }
        for (a, row) in rows.iter().enumerate() {
            if row.len() != n_actions {
                let expected = format!("{n_actions} numbers, as many as rows");
                return Err(GameError::new(format!("P[{a}]"), expected, row.len().to_string()));
            }
            if let Some((b, p)) = row.iter().enumerate().find(|(_, p)| !(0.0..=1.0).contains(*p)) {
                return Err(GameError::new(format!("P[{a}][{b}]"), "a number from 0 to 1", p.to_string()));
            }
        }
        let mut margins = Vec::with_capacity(n_actions * n_actions);
        for (a, row) in rows.iter().enumerate() {
            for (b, p) in row.iter().enumerate() {
                let other = rows[b][a];
                if (p + other - 1.0).abs() > SUM_TOLERANCE {
                    let place = format!("P[{a}][{b}] + P[{b}][{a}]");
                    return Err(GameError::new(place, "the sum 1", (p + other).to_string()));
                }
                margins.push(0.5 * (p - other));
            }
        }
        Ok(Self { n_actions, margins })
    }

    /// How many actions there are.
    pub fn n_actions(&self) -> usize {
        self.n_actions
    }

    /// P(a ≻ b) of two actions by their index.
    ///
    /// # Panics
    /// On an index that is none of an action.
    #[track_caller]
    pub fn preference(&self, a: usize, b: usize) -> f64 {
        0.5 + self.margin(a, b)
    }

    /// P(y ≻ π) of each action y against `opponent`.
    ///
    /// # Panics
    /// On a policy over another number of actions.
    #[track_caller]
    pub fn win_rates(&self, opponent: &Policy) -> Vec<f64> {
        self.expected_margins(opponent.probs()).iter().map(|m| 0.5 + m).collect()
    }

    /// The duality gap `2 (max P(y ≻ π) − ½)`: 0 at an equilibrium and nowhere else.
    ///
    /// # Panics
    /// On a policy over another number of actions.
    #[track_caller]
    pub fn gap(&self, policy: &Policy) -> f64 {
        // A policy does not beat itself, so the largest is at least 0 but for rounding.
        let best = self.expected_margins(policy.probs()).into_iter().fold(f64::NEG_INFINITY, f64::max);
        2.0 * best.max(0.0)
    }

    /// P(a ≻ b) − ½.
    #[track_caller]
    pub(super) fn margin(&self, a: usize, b: usize) -> f64 {
        assert!(a < self.n_actions && b < self.n_actions, "an action of a game of {}", self.n_actions);
        self.margins[a * self.n_actions + b]
    }

    /// P(y ≻ π) − ½ of each action.
    #[track_caller]
    pub(super) fn expected_margins(&self, opponent: &[f64]) -> Vec<f64> {
        assert_eq!(opponent.len(), self.n_actions, "a policy over the actions of the game");
        let row = |row: &[f64]| row.iter().zip(opponent).map(|(m, p)| m * p).sum();
        self.margins.chunks(self.n_actions).map(row).collect()
    }
}

/// A completion is an action when its tokens are one: the action's index.
impl PreferenceOracle for Game {
    type Error = GameError;

    fn prefer(&mut self, pairs: &[Comparison<'_>]) -> Result<Vec<Prob>, GameError> {
        let action = |i: usize, side: &str, candidate: &Candidate<'_>| match candidate.completion_ids {
            [id] if (*id as usize) < self.n_actions => Ok(*id as usize),
            ids => {
                let expected = format!("one token below {}, an action", self.n_actions);
                Err(GameError::new(format!("pair {i}, {side}"), expected, format!("{ids:?}")))
            }
        };
        let one = |(i, pair): (usize, &Comparison<'_>)| {
            let p = self.preference(action(i, "a", &pair.a)?, action(i, "b", &pair.b)?);
            Prob::new(p).map_err(|e| GameError::new(format!("pair {i}"), e.expected, e.found.to_string()))
        };
        pairs.iter().enumerate().map(one).collect()
    }
}
