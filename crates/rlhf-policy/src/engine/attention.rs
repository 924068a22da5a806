//! Attention of one row's query heads over the keys and values of its own blocks.
//!
//! Blocks are visited in order and every sum runs over positions in order, so that a result depends on
//! the row's own numbers and its length alone.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rlhf_kernels::slice;

use super::blocks::{POSITIONS, Pool, Table};

/// The query heads that share one key–value head, at one position.
pub(super) struct Query<'a> {
    /// `[group, head_dim]`, scaled.
    pub(super) q: &'a [f32],
    pub(super) table: &'a Table,
    /// Of the query: keys up to here are seen.
    pub(super) position: usize,
    /// Layer and key–value head.
    pub(super) at: [usize; 2],
    pub(super) window: Option<usize>,
    pub(super) softcap: Option<f32>,
}

impl Query<'_> {
    /// `out ← softmax(cap(q k)) v`, `[group, head_dim]`. `scores` is room to work in.
    pub(super) fn attend(&self, arch: Arch, pool: &Pool, scores: &mut Vec<f32>, out: &mut [f32]) {
        let d = pool.shape().head_dim;
        let group = self.q.len() / d;
        let first = self.window.map_or(0, |w| (self.position + 1).saturating_sub(w));
        let blocks = first / POSITIONS..self.position / POSITIONS + 1;
        let stride = blocks.len() * POSITIONS;
        let seen = first - blocks.start * POSITIONS..self.position + 1 - blocks.start * POSITIONS;
        if scores.len() < group * stride {
            scores.resize(group * stride, 0.0);
        }
        let scores = &mut scores[..group * stride];
        for (i, block) in blocks.clone().enumerate() {
            let keys = pool.read(self.table, block, self.at).0;
            arch.dispatch(Scores { q: self.q, keys, d, stride, out: &mut scores[i * POSITIONS..] });
        }
        for row in scores.chunks_exact_mut(stride) {
            let row = &mut row[seen.clone()];
            if let Some(cap) = self.softcap {
                slice::softcap(row, cap);
            }
            slice::softmax_in_place(row);
        }
        arch.dispatch(Mix { weights: scores, stride, seen, from: blocks.start, pool, query: self, out });
    }
}

/// Products of queries with the keys of one block.
struct Scores<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    d: usize,
    stride: usize,
    out: &'a mut [f32],
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let group = self.q.len() / self.d;
        let mut head = 0;
        while head < group {
            match group - head {
                1 => head += self.heads::<S, 1>(s, head),
                2 | 3 => head += self.heads::<S, 2>(s, head),
                _ => head += self.heads::<S, 4>(s, head),
            }
        }
    }
}

impl Scores<'_> {
    #[inline(always)]
    fn heads<S: Simd, const G: usize>(&mut self, s: S, head: usize) -> usize {
        let width = 2 * S::F32_LANES;
        let q: [&[f32]; G] = std::array::from_fn(|g| &self.q[(head + g) * self.d..][..self.d]);
        let mut column = 0;
        while column < POSITIONS {
            let mut sums = [[s.splat_f32s(0.0); 2]; G];
            for (i, line) in self.keys.as_chunks::<POSITIONS>().0.iter().enumerate() {
                let line = S::as_simd_f32s(&line[column..column + width]).0;
                for g in 0..G {
                    let q = s.splat_f32s(q[g][i]);
                    for w in 0..2 {
                        sums[g][w] = s.mul_add_e_f32s(q, line[w], sums[g][w]);
                    }
                }
            }
            for (g, sums) in sums.iter().enumerate() {
                let out = &mut self.out[(head + g) * self.stride + column..][..width];
                S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
            }
            column += width;
        }
        G
    }
}

/// Weighted sums of values.
struct Mix<'a> {
    weights: &'a [f32],
    stride: usize,
    /// Places that are seen, counted from the start of block `from`.
    seen: Range<usize>,
    from: usize,
    pool: &'a Pool,
    query: &'a Query<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let group = self.out.len() / self.pool.shape().head_dim;
        let mut head = 0;
        while head < group {
            match group - head {
                1 => head += self.heads::<S, 1>(s, head),
                2 | 3 => head += self.heads::<S, 2>(s, head),
                _ => head += self.heads::<S, 4>(s, head),
            }
        }
    }
}

/// Sums of `G` heads in `W` vectors each.
type Sums<S, const G: usize, const W: usize> = [[<S as Simd>::f32s; W]; G];

impl Mix<'_> {
    #[inline(always)]
    fn heads<S: Simd, const G: usize>(&mut self, s: S, head: usize) -> usize {
        let shape = self.pool.shape();
        let mut column = 0;
        while column < shape.head_dim {
            if column + 2 * S::F32_LANES <= shape.value_width() {
                self.columns::<S, G, 2>(s, head, column);
                column += 2 * S::F32_LANES;
            } else {
                self.columns::<S, G, 1>(s, head, column);
                column += S::F32_LANES;
            }
        }
        G
    }

    /// Even and odd places have sums of their own: twice the independent additions.
    #[inline(always)]
    fn columns<S: Simd, const G: usize, const W: usize>(&mut self, s: S, head: usize, column: usize) {
        let width = self.pool.shape().value_width();
        let mut even = [[s.splat_f32s(0.0); W]; G];
        let mut odd = [[s.splat_f32s(0.0); W]; G];
        let mut at = self.seen.start;
        while at < self.seen.end {
            let block = at / POSITIONS;
            let end = self.seen.end.min((block + 1) * POSITIONS);
            let weights: [&[f32]; G] =
                std::array::from_fn(|g| &self.weights[(head + g) * self.stride + at..][..end - at]);
            let values = self.pool.read(self.query.table, self.from + block, self.query.at).1;
            let values = &values[at % POSITIONS * width..][..(end - at) * width];
            let mut pairs = values.chunks_exact(2 * width);
            let mut place = 0;
            for pair in &mut pairs {
                let (first, second) = pair.split_at(width);
                add::<S, G, W>(s, weights.map(|w| w[place]), &first[column..], &mut even);
                add::<S, G, W>(s, weights.map(|w| w[place + 1]), &second[column..], &mut odd);
                place += 2;
            }
            let last = pairs.remainder();
            if !last.is_empty() {
                add::<S, G, W>(s, weights.map(|w| w[place]), &last[column..], &mut even);
            }
            at = end;
        }
        let d = self.pool.shape().head_dim;
        for g in 0..G {
            let row = &mut self.out[(head + g) * d..][..d];
            for w in 0..W {
                let from = column + w * S::F32_LANES;
                if from < d {
                    let to = d.min(from + S::F32_LANES);
                    s.partial_store_f32s(&mut row[from..to], s.add_f32s(even[g][w], odd[g][w]));
                }
            }
        }
    }
}

#[inline(always)]
fn add<S: Simd, const G: usize, const W: usize>(
    s: S,
    weights: [f32; G],
    line: &[f32],
    sums: &mut Sums<S, G, W>,
) {
    let line = S::as_simd_f32s(&line[..W * S::F32_LANES]).0;
    for g in 0..G {
        let weight = s.splat_f32s(weights[g]);
        for w in 0..W {
            sums[g][w] = s.mul_add_e_f32s(weight, line[w], sums[g][w]);
        }
    }
}
