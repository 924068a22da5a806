//! A policy over finitely many actions.

use rlhf_core::host::stable::log_softmax;

use super::error::GameError;

/// How far a policy may be from a sum of 1, for decimals that were rounded; it is divided by its sum.
const SUM_TOLERANCE: f64 = 1e-6;

/// Probabilities of the actions, and their logarithms: the latter keep what is too small for the former.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    probs: Vec<f64>,
    logp: Vec<f64>,
}

impl Policy {
    /// A policy from its probabilities; `place` names them in errors.
    ///
    /// # Errors
    /// No entry, an entry that is negative or not finite, a sum that is not 1 to six digits.
    pub fn new(place: &str, probs: &[f64]) -> Result<Self, GameError> {
        if probs.is_empty() {
            return Err(GameError::new(place, "at least 1 number", "none"));
        }
        let wrong = probs.iter().enumerate().find(|(_, p)| !p.is_finite() || **p < 0.0);
        if let Some((i, p)) = wrong {
            return Err(GameError::new(format!("{place}[{i}]"), "a number from 0 to 1", p.to_string()));
        }
        let sum: f64 = probs.iter().sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(GameError::new(place, "numbers with the sum 1", format!("the sum {sum}")));
        }
        // Rounding of a sum is no reason to change the numbers that were given.
        let by = if (sum - 1.0).abs() <= 1e-15 { 1.0 } else { sum };
        let probs: Vec<f64> = probs.iter().map(|p| p / by).collect();
        let logp = probs.iter().map(|p| p.ln()).collect();
        Ok(Self { probs, logp })
    }

    /// The softmax of `logits`, of which −∞ bars an action.
    ///
    /// # Panics
    /// On an empty slice.
    #[track_caller]
    pub fn from_logits(logits: &[f64]) -> Self {
        assert!(!logits.is_empty(), "a policy has at least one action");
        let logp = log_softmax(logits);
        Self { probs: logp.iter().map(|l| l.exp()).collect(), logp }
    }

    /// The same probability for each of `n_actions`.
    ///
    /// # Panics
    /// On 0 actions.
    #[track_caller]
    pub fn uniform(n_actions: usize) -> Self {
        Self::from_logits(&vec![0.0; n_actions])
    }

    /// How many actions there are.
    pub fn n_actions(&self) -> usize {
        self.probs.len()
    }

    /// The probability of each action.
    pub fn probs(&self) -> &[f64] {
        &self.probs
    }

    /// The log-probability of each action, in nats; −∞ where there is none.
    pub fn logp(&self) -> &[f64] {
        &self.logp
    }

    /// KL(this ‖ other), in nats; ∞ where the other bars what this plays.
    ///
    /// # Panics
    /// On policies over different numbers of actions.
    #[track_caller]
    pub fn kl(&self, other: &Self) -> f64 {
        assert_eq!(self.n_actions(), other.n_actions(), "kl: policies over different numbers of actions");
        let terms = self.probs.iter().zip(self.logp.iter().zip(&other.logp));
        terms.filter(|(p, _)| **p > 0.0).map(|(p, (l, m))| p * (l - m)).sum()
    }

    /// Whether every log-probability is a number and one is finite.
    pub(super) fn is_sound(&self) -> bool {
        self.logp.iter().all(|l| !l.is_nan() && *l < f64::INFINITY) && self.logp.iter().any(|l| l.is_finite())
    }

    /// From what is 0 or more, divided by its sum.
    pub(super) fn of_weights(weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let probs: Vec<f64> = weights.iter().map(|w| w / sum).collect();
        let logp = probs.iter().map(|p| p.ln()).collect();
        Self { probs, logp }
    }
}
