//! A policy made of layers whose logits add up, so that leaving some out is another policy in closed form.

use rand::{Rng, RngExt};
use rlhf_core::host::stable::log_softmax;
use rlhf_core::rng::stream;

/// z_l of every row and token.
pub(super) struct Layers {
    logits: Vec<Vec<Vec<f64>>>,
}

/// The deviation of a layer's logits, and how many there are of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: usize,
    /// Contexts with logits of their own.
    pub(super) rows: usize,
    pub(super) vocabulary: usize,
    pub(super) scale: f64,
}

/// log p of every token in every row.
pub(super) type Table = Vec<Vec<f64>>;

impl Layers {
    /// Normal logits of deviation `scale`, each layer from its own stream.
    pub(super) fn random(shape: Shape, seed: u64) -> Self {
        let layer = |l: usize| {
            let mut rng = stream(seed, "bandit/nested/layer", l as u64, 0);
            let mut row =
                || (0..shape.vocabulary).map(|_| shape.scale * normal(&mut rng)).collect::<Vec<f64>>();
            (0..shape.rows).map(|_| row()).collect()
        };
        Self { logits: (0..shape.layers).map(layer).collect() }
    }

    pub(super) fn count(&self) -> usize {
        self.logits.len()
    }

    /// Adds to all layers alike, one row of numbers a row of logits: since ∂z/∂z_l = 1, that is what a
    /// step on each layer's table does.
    pub(super) fn add(&mut self, change: &[Vec<f64>], factor: f64) {
        for (row, change) in self.logits.iter_mut().flat_map(|layer| layer.iter_mut().zip(change)) {
            row.iter_mut().zip(change).for_each(|(z, c)| *z += factor * c);
        }
    }

    /// The policy of these layers.
    pub(super) fn through(&self, layers: &[usize]) -> Table {
        let (rows, v) = (self.logits[0].len(), self.logits[0][0].len());
        let sum = |row: usize, token: usize| layers.iter().map(|l| self.logits[*l][row][token]).sum::<f64>();
        (0..rows).map(|row| log_softmax(&(0..v).map(|token| sum(row, token)).collect::<Vec<f64>>())).collect()
    }

    /// The policy of all layers.
    pub(super) fn whole(&self) -> Table {
        self.through(&(0..self.count()).collect::<Vec<_>>())
    }
}

/// Box and Muller's transform.
fn normal(rng: &mut impl Rng) -> f64 {
    // 1 − u is never 0.
    let (u, v) = (rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A token of a completion: its row and what it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) row: usize,
    pub(super) token: usize,
}

impl Token {
    pub(super) fn logp(self, table: &Table) -> f64 {
        table[self.row][self.token]
    }

    /// ∂ log π(token) / ∂z over its row: one minus the probability at the token, minus it elsewhere.
    pub(super) fn slope(self, policy: &Table) -> impl Iterator<Item = f64> {
        let one = move |(v, logp): (usize, &f64)| f64::from(u8::from(v == self.token)) - logp.exp();
        policy[self.row].iter().enumerate().map(one)
    }
}
