//! Mean and variance of a gradient estimator, by enumeration.

use rlhf_core::host::off_policy::correction_weights;
use rlhf_core::loss::ppo_clip::{PpoClipConfig, ppo_clip_scalar};
use rlhf_core::real::gradient;
use rlhf_nested::step::RolloutCorrection;

use super::law::{Table, Token};

/// A completion with its reward.
pub(super) struct Answer {
    pub(super) tokens: Vec<Token>,
    pub(super) reward: f64,
}

impl Answer {
    pub(super) fn logps(&self, table: &Table) -> Vec<f64> {
        self.tokens.iter().map(|t| t.logp(table)).collect()
    }

    pub(super) fn logp(&self, table: &Table) -> f64 {
        self.logps(table).iter().sum()
    }
}

/// How completions of b become a gradient for π.
pub(super) struct Estimator<'a> {
    pub(super) correction: RolloutCorrection,
    pub(super) clip: PpoClipConfig,
    pub(super) policy: &'a Table,
}

impl Estimator<'_> {
    /// What each token's ∂ log π counts, before any update: the negative slope of its corrected loss.
    pub(super) fn coefficients(&self, answer: &Answer, behavior: &[f64], advantage: f64) -> Vec<f64> {
        let policy = answer.logps(self.policy);
        let weights = match self.correction {
            RolloutCorrection::BaseClip => vec![1.0; policy.len()],
            RolloutCorrection::Weights(weights) => {
                let log_ratio: Vec<f64> = policy.iter().zip(behavior).map(|(p, b)| p - b).collect();
                correction_weights(weights, &[log_ratio]).concat()
            }
        };
        let old = if self.correction == RolloutCorrection::BaseClip { behavior } else { &policy };
        let one = |t: usize| {
            let loss = |x: &[_]| ppo_clip_scalar(self.clip, x[0], old[t], weights[t] * advantage);
            -gradient(&[policy[t]], loss).1[0]
        };
        (0..policy.len()).map(one).collect()
    }
}

/// E g and E ‖g‖² of g = Σ_t c_t ∂ log π(o_t)/∂z.
pub(super) struct Moments {
    pub(super) mean: Vec<Vec<f64>>,
    pub(super) square: f64,
}

impl Moments {
    pub(super) fn new(policy: &Table) -> Self {
        Self { mean: policy.iter().map(|row| vec![0.0; row.len()]).collect(), square: 0.0 }
    }

    /// One outcome. Each token of a completion has a row of its own, so the squares of its tokens add up.
    pub(super) fn add(&mut self, prob: f64, answer: &Answer, coefficients: &[f64], policy: &Table) {
        for (token, c) in answer.tokens.iter().zip(coefficients) {
            for (mean, slope) in self.mean[token.row].iter_mut().zip(token.slope(policy)) {
                *mean += prob * c * slope;
                self.square += prob * (c * slope).powi(2);
            }
        }
    }

    /// The trace of the variance.
    pub(super) fn variance(&self) -> f64 {
        self.square - dot(&self.mean, &self.mean)
    }
}

pub(super) fn dot(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a * b).sum()
}

pub(super) fn norm(a: &[Vec<f64>]) -> f64 {
    dot(a, a).sqrt()
}

/// ‖a − f b‖.
pub(super) fn distance(a: &[Vec<f64>], factor: f64, b: &[Vec<f64>]) -> f64 {
    let square = |(a, b): (&f64, &f64)| (a - factor * b).powi(2);
    a.iter().flatten().zip(b.iter().flatten()).map(square).sum::<f64>().sqrt()
}
