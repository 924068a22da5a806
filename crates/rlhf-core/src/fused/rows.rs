//! Rows of the batch, each over the whole vocabulary, tile after tile.
//!
//! What a tile says is put together with what the tiles before it said. Of the columns so far, with
//! normaliser Z, let P = Σ p c W and U = Σ p log p, Q = Σ p log p c W; a new tile has its own.
//! Under the common normaliser the old probabilities shrink by a = Z_old / Z, the new by b:
//!
//! ```text
//! P = a P_old + b P_tile          U = a (U_old + log a) + b (U_tile + log b)
//! ```

use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor};

use super::FusedConfig;
use super::head::{Head, Tile};

/// What the logits of all rows are made from, without a graph.
pub(super) struct Rows {
    config: FusedConfig,
    /// Scaled as the products want it.
    hidden: Tensor<2>,
    head: Head,
    tokens: Tensor<1, Int>,
    /// Whether a gradient goes into `hidden`.
    tracked: bool,
    /// Whether more is asked for than log-probabilities.
    stats: bool,
}

/// Results of some rows: `[rows, 1]`, slopes `[rows, H]`.
pub(super) struct Block {
    pub(super) logp: Tensor<2>,
    pub(super) log_z: Tensor<2>,
    /// log Z of each tile alone.
    pub(super) log_parts: Vec<Tensor<2>>,
    /// c of the token, where there is a cap.
    pub(super) token_slope: Option<Tensor<2>>,
    pub(super) logp_slope: Option<Tensor<2>>,
    pub(super) stats: Option<Stats>,
}

/// The same of what the distributions are like.
pub(super) struct Stats {
    pub(super) entropy: Tensor<2>,
    pub(super) log_sum_sq_prob: Tensor<2>,
    pub(super) mean_logit: Tensor<2>,
    /// 1 or 0.
    pub(super) top1: Tensor<2>,
    pub(super) entropy_slope: Option<Tensor<2>>,
}

/// What the tiles so far say of their rows.
struct Sums {
    log_z: Tensor<2>,
    /// The token's logit and c; 0 until its tile was there.
    at: Tensor<2>,
    token_slope: Option<Tensor<2>>,
    /// P.
    pull: Option<Tensor<2>>,
    more: Option<More>,
}

struct More {
    /// U.
    log_prob: Tensor<2>,
    /// Q.
    pull: Option<Tensor<2>>,
    sum_sq_prob: Tensor<2>,
    sum: Tensor<2>,
    largest: Tensor<2>,
    /// 1 where the token is the first of the largest.
    top1: Tensor<2>,
}

impl Rows {
    pub(super) fn new(
        config: FusedConfig,
        hidden: &Tensor<2>,
        head: &Head,
        tokens: &Tensor<1, Int>,
        stats: bool,
    ) -> Self {
        let tracked = hidden.is_tracked();
        let (hidden, tokens) = (config.scaled(hidden.clone().inner()), tokens.clone().inner());
        Self { config, hidden, head: head.inner(), tokens, tracked, stats }
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let ([m, _], [v, _]) = (self.hidden.dims(), self.head.weight.dims());
        let [n, width] = self.config.shape(m, v);
        (0..m).step_by(n).map(|start| self.block(start, n.min(m - start), width)).collect()
    }

    fn block(&self, start: usize, n: usize, width: usize) -> Block {
        let [v, _] = self.head.weight.dims();
        let hidden = self.hidden.clone().narrow(0, start, n);
        let tokens = self.tokens.clone().narrow(0, start, n);
        let index = tokens.clone().reshape([n, 1]);
        let (mut sums, mut log_parts): (Option<Sums>, _) = (None, Vec::new());
        for start in (0..v).step_by(width) {
            let columns = self.head.columns(start, width.min(v - start));
            let index = index.clone().sub_scalar(start as i64);
            let new = self.sums(columns.tile(self.config, hidden.clone()), &columns.weight, &index);
            log_parts.push(new.log_z.clone());
            sums = Some(match sums {
                Some(old) => old.and(new),
                None => new,
            });
        }
        let of_token = self.tracked.then(|| self.head.weight.clone().select(0, tokens));
        let sums = sums.expect("a column, as checked at the door");
        Block { log_parts, ..sums.block(self.config.slope(), of_token, v) }
    }

    /// Of one tile; `index` counts from its first column and may lie beside it.
    fn sums(&self, tile: Tile, weight: &Tensor<2>, index: &Tensor<2, Int>) -> Sums {
        let Tile { z, slope } = tile;
        let [_, width] = z.dims();
        let beside = index.clone().lower_elem(0).bool_or(index.clone().greater_equal_elem(width as i64));
        let inside = index.clone().clamp(0, width as i64 - 1);
        let token = |x: &Tensor<2>| x.clone().gather(1, inside.clone()).mask_fill(beside.clone(), 0.0);
        let (at, token_slope) = (token(&z), slope.as_ref().map(token));
        let largest = z.clone().max_dim(1);
        let p = softmax(z.clone(), 1);
        // The largest probability is at least 1 / width: its logarithm loses nothing.
        let log_z = largest.clone() - p.clone().max_dim(1).log();
        let pulled = |x: Tensor<2>| {
            let capped = match &slope {
                Some(slope) => x * slope.clone(),
                None => x,
            };
            self.tracked.then(|| capped.matmul(weight.clone()))
        };
        let more = self.stats.then(|| {
            let (first, sum) = (z.clone().argmax(1), z.clone().sum_dim(1));
            let terms = (z - log_z.clone()) * p.clone();
            More {
                log_prob: terms.clone().sum_dim(1),
                pull: pulled(terms),
                sum_sq_prob: (p.clone() * p.clone()).sum_dim(1),
                sum,
                largest,
                top1: first.equal(index.clone()).float(),
            }
        });
        Sums { log_z, at, token_slope, pull: pulled(p), more }
    }
}

impl Sums {
    /// With the tile behind it.
    fn and(self, new: Self) -> Self {
        let largest = self.log_z.clone().max_pair(new.log_z.clone());
        let share = |log_z: &Tensor<2>| (log_z.clone() - largest.clone()).exp();
        let log_z = (share(&self.log_z) + share(&new.log_z)).log() + largest;
        let (old, new) = (self.under(&log_z), new.under(&log_z));
        Self {
            log_z,
            at: old.at + new.at,
            token_slope: both(old.token_slope, new.token_slope),
            pull: both(old.pull, new.pull),
            more: old.more.zip(new.more).map(|(old, new)| old.and(new)),
        }
    }

    /// Under the normaliser of more columns than its own.
    fn under(self, log_z: &Tensor<2>) -> Self {
        let log_share = self.log_z.clone() - log_z.clone();
        let share = log_share.clone().exp();
        let more = self.more.map(|more| More {
            log_prob: (more.log_prob + log_share.clone()) * share.clone(),
            pull: both(more.pull, self.pull.clone().map(|p| p * log_share)).map(|q| q * share.clone()),
            sum_sq_prob: more.sum_sq_prob * share.clone() * share.clone(),
            ..more
        });
        Self { pull: self.pull.map(|p| p * share), more, ..self }
    }

    /// Of all columns, with the token's row of W where a gradient goes into `hidden`.
    fn block(self, slope: f64, of_token: Option<Tensor<2>>, v: usize) -> Block {
        let pull = self.pull;
        let of_token = match &self.token_slope {
            Some(slope) => of_token.map(|w| w * slope.clone()),
            None => of_token,
        };
        let stats = self.more.map(|more| Stats {
            // −s (Q + H P) with H = −U.
            entropy_slope: more
                .pull
                .zip(pull.clone())
                .map(|(q, p)| (p * more.log_prob.clone() - q).mul_scalar(slope)),
            entropy: more.log_prob.neg(),
            log_sum_sq_prob: more.sum_sq_prob.log(),
            mean_logit: more.sum.div_scalar(v as f64),
            top1: more.top1,
        });
        Block {
            logp: self.at - self.log_z.clone(),
            log_z: self.log_z,
            log_parts: Vec::new(),
            token_slope: self.token_slope,
            logp_slope: of_token.zip(pull).map(|(w, p)| (w - p).mul_scalar(slope)),
            stats,
        }
    }
}

impl More {
    fn and(self, new: Self) -> Self {
        let later = new.largest.clone().greater(self.largest.clone());
        Self {
            log_prob: self.log_prob + new.log_prob,
            pull: both(self.pull, new.pull),
            sum_sq_prob: self.sum_sq_prob + new.sum_sq_prob,
            sum: self.sum + new.sum,
            top1: self.top1.mask_where(later, new.top1),
            largest: self.largest.max_pair(new.largest),
        }
    }
}

fn both(old: Option<Tensor<2>>, new: Option<Tensor<2>>) -> Option<Tensor<2>> {
    Some(old? + new?)
}

/// The parts that each block has, as one.
pub(super) fn joined(blocks: &[Block], of: impl Fn(&Block) -> Option<Tensor<2>>) -> Option<Tensor<2>> {
    let parts: Option<Vec<Tensor<2>>> = blocks.iter().map(of).collect();
    parts.map(|parts| Tensor::cat(parts, 0))
}
