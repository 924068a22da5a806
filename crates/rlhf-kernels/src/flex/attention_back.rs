//! Causal attention by tiles: backward.
//!
//! ```text
//! P = e^(S − max) / Σ    dP = dO Vᵀ     dS = P ⊙ (dP − Σ P ⊙ dP) ⊙ (1 − tanh²)
//! dV = Pᵀ dO            dQ = scale dS K    dK = scale dSᵀ Q
//! ```

use burn::backend::flex::FlexTensor;
use pulp::Simd;
use rayon::prelude::*;

use super::attention::{BLOCK, Block, Inputs, Place, Saved, Share, together};
use super::product::{Put, Target, View, product, product_t};
use super::{alike, numbers};
use crate::simd::{self, run};
use crate::slice::Tanh;

/// What the forward pass kept, and the gradient, as `q`.
#[derive(Clone, Copy)]
struct Results<'a> {
    shares: &'a [Share],
    grad: &'a [f32],
}

/// Gradients of one piece of work: `[T, group · D]` and twice `[T, D]`.
struct Piece {
    to_q: Vec<f32>,
    to_k: Vec<f32>,
    to_v: Vec<f32>,
}

/// Buffers of one block of queries.
struct Tile {
    /// P.
    weights: Vec<f32>,
    /// dP, then dS.
    pull: Vec<f32>,
    /// 1 − tanh², where there is a cap.
    slope: Vec<f32>,
    /// Scaled queries.
    queries: Vec<f32>,
    /// dO.
    grad: Vec<f32>,
}

/// Keys and values of a place as `[D, padded T]`.
struct Columns {
    keys: Vec<f32>,
    values: Vec<f32>,
}

#[inline(always)]
fn piece_with<S: Simd>(s: S, inputs: Inputs<'_>, results: Results<'_>, place: Place) -> Piece {
    let (t, d, group) = (inputs.t, inputs.how.head_dim, inputs.group());
    let columns = Columns { keys: inputs.columns(inputs.k, place), values: inputs.columns(inputs.v, place) };
    let mut piece = Piece { to_q: vec![0.0; t * group * d], to_k: vec![0.0; t * d], to_v: vec![0.0; t * d] };
    let size = BLOCK * inputs.padded();
    let mut tile = Tile {
        weights: vec![0.0; size],
        pull: vec![0.0; size],
        slope: vec![0.0; if inputs.how.softcap.is_some() { size } else { 0 }],
        queries: vec![0.0; BLOCK * d],
        grad: vec![0.0; BLOCK * d],
    };
    for head in 0..group {
        for start in (0..t).step_by(BLOCK) {
            let block = inputs.block(start);
            inputs.queries(place, head, &block, &mut tile.queries);
            let at = At { place, head, block: &block, columns: &columns };
            scores(s, &inputs, &at, &mut tile);
            tile_gradient(s, &inputs, &results, &at, &mut tile);
            products(s, &inputs, &at, &tile, &mut piece);
        }
    }
    piece
}

/// Which head and which of its queries.
struct At<'a> {
    place: Place,
    head: usize,
    block: &'a Block,
    columns: &'a Columns,
}

/// S.
#[inline(always)]
fn scores<S: Simd>(s: S, inputs: &Inputs<'_>, at: &At<'_>, tile: &mut Tile) {
    let (d, stride, block) = (inputs.how.head_dim, inputs.padded(), at.block);
    let left = View { data: &tile.queries, stride: d };
    let right = View { data: &at.columns.keys[block.from..], stride };
    let to = Target { data: &mut tile.weights, stride: block.n, how: Put::Replace };
    product(s, [block.m, block.n, d], left, right, to);
}

/// P from S, and dS.
#[inline(always)]
fn tile_gradient<S: Simd>(s: S, inputs: &Inputs<'_>, results: &Results<'_>, at: &At<'_>, tile: &mut Tile) {
    let (d, block, n) = (inputs.how.head_dim, at.block, at.block.n);
    let head = at.place.kv_head * inputs.group() + at.head;
    let shares = &results.shares[(at.place.row * inputs.how.heads + head) * inputs.t + block.start..];
    for i in 0..block.m {
        let start = inputs.q_at(at.place, at.head, block.start + i);
        let grad = &results.grad[start..][..d];
        tile.grad[i * d..][..d].copy_from_slice(grad);
    }
    let left = View { data: &tile.grad, stride: d };
    let right = View { data: &at.columns.values[block.from..], stride: inputs.padded() };
    let to = Target { data: &mut tile.pull, stride: n, how: Put::Replace };
    product(s, [block.m, n, d], left, right, to);
    for (i, share) in shares.iter().enumerate().take(block.m) {
        let seen = block.seen(inputs, i);
        let weights = &mut tile.weights[i * n..][..n];
        let pull = &mut tile.pull[i * n..][..n];
        for row in [&mut *weights, &mut *pull] {
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
        }
        let (weights, pull) = (&mut weights[seen.clone()], &mut pull[seen]);
        if let Some(cap) = inputs.how.softcap {
            let slope = &mut tile.slope[..weights.len()];
            cap_scores(s, cap as f32, weights, slope);
            shared(s, weights, *share);
            softmax_back(s, weights, pull);
            multiply(s, pull, slope);
        } else {
            shared(s, weights, *share);
            softmax_back(s, weights, pull);
        }
    }
}

/// `pull ← weights ⊙ (pull − Σ weights ⊙ pull)`. The sum is over the tile's own numbers, not dO ⊙ O:
/// where a query sees one key, the gradient is then exactly 0.
#[inline(always)]
fn softmax_back<S: Simd>(s: S, weights: &[f32], pull: &mut [f32]) {
    let level = simd::dot(s, weights, pull);
    let splat = s.splat_f32s(level);
    let (w, w_rest) = S::as_simd_f32s(weights);
    let (p, p_rest) = S::as_mut_simd_f32s(pull);
    for (p, w) in p.iter_mut().zip(w) {
        *p = s.mul_f32s(*w, s.sub_f32s(*p, splat));
    }
    for (p, w) in p_rest.iter_mut().zip(w_rest) {
        *p = w * (*p - level);
    }
}

/// Weights from scores.
#[inline(always)]
fn shared<S: Simd>(s: S, scores: &mut [f32], share: Share) {
    simd::exp_shifted(s, scores, share.largest, 1.0);
    simd::scale(s, scores, share.share);
}

/// `scores ← cap · tanh(scores / cap)`, and the slope.
#[inline(always)]
fn cap_scores<S: Simd>(s: S, cap: f32, scores: &mut [f32], slope: &mut [f32]) {
    simd::scale(s, scores, 1.0 / cap);
    simd::map_in_place(s, Tanh, scores);
    slope.iter_mut().zip(&*scores).for_each(|(slope, t)| *slope = 1.0 - t * t);
    simd::scale(s, scores, cap);
}

/// `x ← x ⊙ y`.
#[inline(always)]
fn multiply<S: Simd>(_: S, x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x *= y);
}

/// What the tile adds to the gradients.
#[inline(always)]
fn products<S: Simd>(s: S, inputs: &Inputs<'_>, at: &At<'_>, tile: &Tile, piece: &mut Piece) {
    let (d, group, block) = (inputs.how.head_dim, inputs.group(), at.block);
    let rows = View { data: &tile.grad, stride: d };
    let weights = View { data: &tile.weights, stride: block.n };
    let pull = View { data: &tile.pull, stride: block.n };
    let to = Target { data: &mut piece.to_v[block.from * d..], stride: d, how: Put::Add };
    product_t(s, [block.keys, d, block.m], weights, rows, to);
    let queries = View { data: &tile.queries, stride: d };
    let to = Target { data: &mut piece.to_k[block.from * d..], stride: d, how: Put::Add };
    product_t(s, [block.keys, d, block.m], pull, queries, to);
    let out = &mut piece.to_q[(block.start * group + at.head) * d..];
    let keys = inputs.kv(inputs.k, at.place, block.from);
    let to = Target { data: &mut *out, stride: group * d, how: Put::Replace };
    product(s, [block.m, d, block.keys], pull, keys, to);
    for row in out.chunks_mut(group * d).take(block.m) {
        simd::scale(s, &mut row[..d], inputs.how.scale as f32);
    }
}

/// Gradients of queries, keys and values.
pub(super) fn backward(saved: &Saved, grad: &FlexTensor) -> [FlexTensor; 3] {
    let (how, t) = (&saved.how, saved.q.layout().shape()[1]);
    let inputs = Inputs { q: numbers(&saved.q), k: numbers(&saved.k), v: numbers(&saved.v), how, t };
    let results = Results { shares: &saved.shares, grad: numbers(grad) };
    let one = |index: usize| {
        let place = inputs.place(index);
        run!('a, piece_with(inputs: Inputs<'a>, results: Results<'a>, place: Place) -> Piece)
    };
    let pieces: Vec<Piece> = (0..inputs.pieces()).into_par_iter().map(one).collect();
    let (mut to_q, mut to_k, mut to_v) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        to_q.push(piece.to_q);
        to_k.push(piece.to_k);
        to_v.push(piece.to_v);
    }
    [(to_q, &saved.q), (to_k, &saved.k), (to_v, &saved.v)]
        .map(|(parts, like)| alike(together(&parts, t, how.kv_heads), like))
}
