//! Causal attention by tiles: forward.
//!
//! One piece of work is one row of the batch and one key head with all its query heads, so that the
//! gradients of keys and values are sums within it. Of a block of queries the scores of all keys that
//! any of them sees exist at once.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use pulp::Simd;
use rayon::prelude::*;

use super::product::{Put, Target, View, product};
use super::{alike, attention_back, dense, numbers, rows_per_piece};
use crate::attention::Attention;
use crate::simd::{self, map_in_place, run};
use crate::slice::Cap;

/// Queries of a block.
pub(super) const BLOCK: usize = 32;

/// Columns of a tile start at a multiple of this, so that its rows are whole vectors.
const ALIGN: usize = 16;

/// The queries, keys and values of one call.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) how: &'a Attention,
    /// Positions.
    pub(super) t: usize,
}

/// One row of the batch and one key head.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) row: usize,
    pub(super) kv_head: usize,
}

/// A block of queries and the columns of keys its tile has.
pub(super) struct Block {
    /// First query.
    pub(super) start: usize,
    /// Queries.
    pub(super) m: usize,
    /// First key.
    pub(super) from: usize,
    /// Columns of the tile: the keys, and padding that is zero.
    pub(super) n: usize,
    /// Keys.
    pub(super) keys: usize,
}

impl Inputs<'_> {
    pub(super) fn place(&self, index: usize) -> Place {
        Place { row: index / self.how.kv_heads, kv_head: index % self.how.kv_heads }
    }

    pub(super) fn group(&self) -> usize {
        self.how.heads / self.how.kv_heads
    }

    /// Positions with padding.
    pub(super) fn padded(&self) -> usize {
        self.t.next_multiple_of(ALIGN)
    }

    pub(super) fn pieces(&self) -> usize {
        self.q.len() / (self.t * self.how.heads * self.how.head_dim) * self.how.kv_heads
    }

    /// Where the numbers of a query head at a position start.
    pub(super) fn q_at(&self, place: Place, head: usize, position: usize) -> usize {
        let head = place.kv_head * self.group() + head;
        ((place.row * self.t + position) * self.how.heads + head) * self.how.head_dim
    }

    /// The keys or values of a head from a position on.
    pub(super) fn kv<'a>(&self, x: &'a [f32], place: Place, position: usize) -> View<'a> {
        let Attention { kv_heads, head_dim, .. } = *self.how;
        let start = ((place.row * self.t + position) * kv_heads + place.kv_head) * head_dim;
        View { data: &x[start..], stride: kv_heads * head_dim }
    }

    /// Keys or values as `[D, padded T]`.
    pub(super) fn columns(&self, x: &[f32], place: Place) -> Vec<f32> {
        let (d, padded) = (self.how.head_dim, self.padded());
        let x = self.kv(x, place, 0);
        let mut out = vec![0.0; d * padded];
        for t in 0..self.t {
            let row = &x.data[t * x.stride..][..d];
            row.iter().enumerate().for_each(|(i, x)| out[i * padded + t] = *x);
        }
        out
    }

    /// The first key that a query sees.
    pub(super) fn first(&self, query: usize) -> usize {
        self.how.window.map_or(0, |window| (query + 1).saturating_sub(window))
    }

    pub(super) fn block(&self, start: usize) -> Block {
        let m = BLOCK.min(self.t - start);
        let from = self.first(start) / ALIGN * ALIGN;
        let n = (start + m).next_multiple_of(ALIGN) - from;
        Block { start, m, from, n, keys: start + m - from }
    }

    /// Scaled queries of a block, `[m, D]`.
    pub(super) fn queries(&self, place: Place, head: usize, block: &Block, out: &mut [f32]) {
        let (d, scale) = (self.how.head_dim, self.how.scale as f32);
        for (i, out) in out.chunks_exact_mut(d).take(block.m).enumerate() {
            let q = &self.q[self.q_at(place, head, block.start + i)..][..d];
            out.iter_mut().zip(q).for_each(|(out, q)| *out = q * scale);
        }
    }
}

impl Block {
    /// The columns that the `i`-th query of the block sees.
    pub(super) fn seen(&self, inputs: &Inputs<'_>, i: usize) -> std::ops::Range<usize> {
        let query = self.start + i;
        inputs.first(query) - self.from..query + 1 - self.from
    }
}

/// What makes a score a weight: `e^(s − largest) · share`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) largest: f32,
    pub(super) share: f32,
}

/// What one piece of work gives: `[T, group · D]` and `[group, T]`.
struct Piece {
    out: Vec<f32>,
    shares: Vec<Share>,
}

#[inline(always)]
fn piece_with<S: Simd>(s: S, inputs: Inputs<'_>, place: Place) -> Piece {
    let (t, d, group) = (inputs.t, inputs.how.head_dim, inputs.group());
    let keys = inputs.columns(inputs.k, place);
    let keys = View { data: &keys, stride: inputs.padded() };
    let none = Share { largest: 0.0, share: 0.0 };
    let mut piece = Piece { out: vec![0.0; t * group * d], shares: vec![none; group * t] };
    let mut tile = vec![0.0; BLOCK * inputs.padded()];
    let mut queries = vec![0.0; BLOCK * d];
    for head in 0..group {
        for start in (0..t).step_by(BLOCK) {
            let block = inputs.block(start);
            inputs.queries(place, head, &block, &mut queries);
            let tile = &mut tile[..block.m * block.n];
            let to = Target { data: tile, stride: block.n, how: Put::Replace };
            let left = View { data: &queries, stride: d };
            let right = View { data: &keys.data[block.from..], ..keys };
            product(s, [block.m, block.n, d], left, right, to);
            let shares = &mut piece.shares[head * t + start..][..block.m];
            for (i, row) in tile.chunks_exact_mut(block.n).enumerate() {
                let seen = block.seen(&inputs, i);
                shares[i] = weights(s, row, seen, inputs.how.softcap);
            }
            let out = &mut piece.out[(start * group + head) * d..];
            let left = View { data: tile, stride: block.n };
            let to = Target { data: &mut *out, stride: group * d, how: Put::Replace };
            product(s, [block.m, d, block.keys], left, inputs.kv(inputs.v, place, block.from), to);
            for (out, share) in out.chunks_mut(group * d).zip(shares) {
                simd::scale(s, &mut out[..d], share.share);
            }
        }
    }
    piece
}

/// A row of scores becomes e^(s − max), 0 where nothing is seen; what they are times 1 / Σ.
#[inline(always)]
fn weights<S: Simd>(s: S, row: &mut [f32], seen: std::ops::Range<usize>, softcap: Option<f64>) -> Share {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    let row = &mut row[seen];
    if let Some(cap) = softcap {
        map_in_place(s, Cap(cap as f32), row);
    }
    let largest = simd::max(s, row);
    let sum = simd::exp_shifted(s, row, largest, 1.0);
    Share { largest, share: 1.0 / sum }
}

/// `[T, w]` parts of rows and key heads, put together as `[B, T, heads · w]`.
pub(super) fn together(parts: &[Vec<f32>], t: usize, kv_heads: usize) -> Vec<f32> {
    let w = parts.first().map_or(0, |part| part.len() / t);
    let mut out = vec![0.0; parts.len() * t * w];
    let rows = rows_per_piece(kv_heads * w);
    out.par_chunks_mut(rows * kv_heads * w).enumerate().for_each(|(chunk, out)| {
        for (i, out) in out.chunks_exact_mut(kv_heads * w).enumerate() {
            let (row, position) = ((chunk * rows + i) / t, (chunk * rows + i) % t);
            for (head, out) in out.chunks_exact_mut(w).enumerate() {
                out.copy_from_slice(&parts[row * kv_heads + head][position * w..][..w]);
            }
        }
    });
    out
}

/// The result, and `[B, H, T]`.
fn forward(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, how: &Attention) -> (FlexTensor, Vec<Share>) {
    let t = q.layout().shape()[1];
    let inputs = Inputs { q: numbers(q), k: numbers(k), v: numbers(v), how, t };
    let one = |index: usize| {
        let place = inputs.place(index);
        run!('a, piece_with(inputs: Inputs<'a>, place: Place) -> Piece)
    };
    let pieces: Vec<Piece> = (0..inputs.pieces()).into_par_iter().map(one).collect();
    let shares = pieces.iter().flat_map(|piece| piece.shares.iter().copied()).collect();
    let parts: Vec<Vec<f32>> = pieces.into_iter().map(|piece| piece.out).collect();
    (alike(together(&parts, t, how.kv_heads), q), shares)
}

#[derive(Debug)]
struct Node;

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) q: FlexTensor,
    pub(super) k: FlexTensor,
    pub(super) v: FlexTensor,
    pub(super) shares: Vec<Share>,
    pub(super) how: Attention,
}

impl Backward<Flex, 3> for Node {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = dense(grads.consume::<Flex>(&ops.node));
        for (parent, to_parent) in ops.parents.into_iter().zip(attention_back::backward(&ops.state, &grad)) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, to_parent);
            }
        }
    }
}

pub(super) fn plain(q: FlexTensor, k: FlexTensor, v: FlexTensor, how: Attention) -> FlexTensor {
    forward(&dense(q), &dense(k), &dense(v), &how).0
}

pub(super) fn tracked<C: CheckpointStrategy>(
    q: FloatTensor<Autodiff<Flex, C>>,
    k: FloatTensor<Autodiff<Flex, C>>,
    v: FloatTensor<Autodiff<Flex, C>>,
    how: Attention,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = [q.node(), k.node(), v.node()];
    let [q, k, v] = [q, k, v].map(|x| dense(x.into_primitive()));
    let (out, shares) = forward(&q, &k, &v, &how);
    match Node.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(Saved { q, k, v, shares, how }, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
