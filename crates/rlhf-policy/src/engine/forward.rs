//! One pass of some tokens through the blocks, on buffers that are made once.

use rayon::prelude::*;
use rlhf_kernels::slice;

use crate::architecture::{Architecture, Residual};

use super::attention::Query;
use super::blocks::{Pool, Table};
use super::kernel::{Put, Rows, SMALL, To, WIDTH, spread};
use super::pack::{HostNorm, Layer};
use super::{Engine, Turn};

/// A token and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its row's table.
    pub(super) table: usize,
    pub(super) position: usize,
    pub(super) token: u32,
}

/// Room for one pass. What is called blocked lies in blocks of columns: `[width / WIDTH][rows][WIDTH]`.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The stream, blocked.
    h: Vec<f32>,
    /// Normed rows.
    x: Vec<f32>,
    /// Queries, keys and values, blocked.
    qkv: Vec<f32>,
    /// Heads side by side, row after row.
    mixed: Vec<f32>,
    /// A part's result before its norm, blocked.
    part: Vec<f32>,
    /// Inside the feed-forward part, blocked; gate and up in turn.
    inner: Vec<f32>,
    /// Blocked.
    logits: Vec<f32>,
    /// Rows of `logits`.
    wanted: usize,
    /// One row.
    line: Vec<f32>,
    scratch: Vec<Scratch>,
}

/// Room for one piece of attention.
#[derive(Debug, Default)]
struct Scratch {
    /// Queries of a group, and one head more.
    q: Vec<f32>,
    scores: Vec<f32>,
}

fn grow(buffer: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    &mut buffer[..n]
}

/// Copies a row out of blocks, from column `from` on.
fn gather(blocked: &[f32], [rows, row, mut from]: [usize; 3], mut out: &mut [f32]) {
    while !out.is_empty() {
        let (block, at) = (from / WIDTH, from % WIDTH);
        let n = out.len().min(WIDTH - at);
        let (now, later) = out.split_at_mut(n);
        now.copy_from_slice(&blocked[(block * rows + row) * WIDTH + at..][..n]);
        (out, from) = (later, from + n);
    }
}

/// Norms chosen rows of blocked numbers into dense ones.
fn norm_rows(
    norm: &HostNorm,
    h: &[f32],
    rows: usize,
    which: impl ExactSizeIterator<Item = usize>,
    [line, out]: [&mut Vec<f32>; 2],
) {
    let width = norm.width();
    let line = grow(line, width);
    let out = grow(out, which.len() * width);
    for (row, out) in which.zip(out.chunks_exact_mut(width)) {
        gather(h, [rows, row, 0], line);
        norm.row(line, out);
    }
}

/// Does `one` on every piece of `size` numbers, each with its own scratch, side by side where `cost`
/// multiplications are worth it.
fn share(
    out: &mut [f32],
    size: usize,
    scratch: &mut [Scratch],
    cost: usize,
    one: impl Fn((usize, (&mut [f32], &mut Scratch))) + Send + Sync,
) {
    if cost < SMALL {
        out.chunks_mut(size).zip(scratch).enumerate().for_each(one);
    } else {
        out.par_chunks_mut(size).zip(scratch).enumerate().for_each(one);
    }
}

impl Buffers {
    /// The logits of wanted row `row`: `[V]`.
    pub(super) fn logits(&self, row: usize, out: &mut [f32]) {
        gather(&self.logits, [self.wanted, row, 0], out);
    }
}

impl Engine {
    /// Computes the tokens at `places`, whose tables have room for them, and the logits after those
    /// of index `wanted`.
    pub(super) fn forward(
        &self,
        places: &[Place],
        wanted: &[usize],
        (pool, tables): (&mut Pool, &[Table]),
        buffers: &mut Buffers,
    ) {
        self.embed(places, buffers);
        let rows = places.len();
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let norm = &layer.before_attention;
            norm_rows(norm, &buffers.h, rows, 0..rows, [&mut buffers.line, &mut buffers.x]);
            self.project(i, layer, places, (&mut *pool, tables), buffers);
            self.attend(i, layer, places, (&*pool, tables), buffers);
            self.join(layer, rows, buffers);
        }
        let norm = &self.weights.norm;
        norm_rows(norm, &buffers.h, rows, wanted.iter().copied(), [&mut buffers.line, &mut buffers.x]);
        let head = &self.weights.head;
        let out = grow(&mut buffers.logits, head.n_panels() * wanted.len() * WIDTH);
        let x = Rows::dense(&buffers.x, self.architecture.hidden_size);
        let to = To { out, rows: wanted.len(), put: Put::Replace };
        let cap = self.architecture.logit_softcap;
        head.multiply(self.arch, x, to, &|logits| {
            if let Some(cap) = cap {
                slice::softcap(logits, cap as f32);
            }
        });
        buffers.wanted = wanted.len();
    }

    fn embed(&self, places: &[Place], buffers: &mut Buffers) {
        let Architecture { hidden_size: d, embedding_scale, .. } = self.architecture;
        let scale = embedding_scale as f32;
        let rows = places.len();
        buffers.h.clear();
        buffers.h.resize(d.div_ceil(WIDTH) * rows * WIDTH, 0.0);
        let line = grow(&mut buffers.line, d);
        for (row, place) in places.iter().enumerate() {
            line.copy_from_slice(&self.weights.embedding[place.token as usize * d..][..d]);
            line.iter_mut().for_each(|x| *x *= scale);
            if !self.weights.places.is_empty() {
                let learned = &self.weights.places[place.position * d..][..d];
                line.iter_mut().zip(learned).for_each(|(x, p)| *x += p);
            }
            for (block, x) in line.chunks(WIDTH).enumerate() {
                buffers.h[(block * rows + row) * WIDTH..][..x.len()].copy_from_slice(x);
            }
        }
    }

    /// Queries, keys and values of all rows; keys and values into the rows' blocks.
    fn project(
        &self,
        index: usize,
        layer: &Layer,
        places: &[Place],
        (pool, tables): (&mut Pool, &[Table]),
        buffers: &mut Buffers,
    ) {
        let it = &self.architecture;
        let (d, rows) = (it.head_dim, places.len());
        let [q_width, kv_width] = [it.num_attention_heads * d, it.num_key_value_heads * d];
        let out = grow(&mut buffers.qkv, layer.qkv.n_panels() * rows * WIDTH);
        let to = To { out: &mut *out, rows, put: Put::Replace };
        layer.qkv.multiply(self.arch, Rows::dense(&buffers.x, it.hidden_size), to, &|_| ());
        let line = grow(&mut buffers.line, 2 * kv_width + d);
        let (line, spare) = line.split_at_mut(2 * kv_width);
        let turn = layer.plan.rope.map(|rope| &self.turns[rope]);
        for (row, place) in places.iter().enumerate() {
            gather(out, [rows, row, q_width], line);
            let (k, v) = line.split_at_mut(kv_width);
            for (i, (k, v)) in k.chunks_exact_mut(d).zip(v.chunks_exact(d)).enumerate() {
                finish(k, layer.k_norm.as_ref(), turn, place.position, spare);
                pool.write(&tables[place.table], place.position, [index, i], [k, v]);
            }
        }
    }

    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        places: &[Place],
        (pool, tables): (&Pool, &[Table]),
        buffers: &mut Buffers,
    ) {
        let it = &self.architecture;
        let kv_heads = it.num_key_value_heads;
        let group = it.num_attention_heads / kv_heads * it.head_dim;
        let n = places.len() * kv_heads;
        let out = grow(&mut buffers.mixed, n * group);
        // A few pieces a thread, each with its own room for scores.
        let per = n.div_ceil(4 * rayon::current_num_threads());
        let pieces = n.div_ceil(per);
        if buffers.scratch.len() < pieces {
            buffers.scratch.resize_with(pieces, Scratch::default);
        }
        let qkv = &buffers.qkv;
        let turn = layer.plan.rope.map(|rope| &self.turns[rope]);
        let scale = layer.plan.scale as f32;
        let piece = |(first, (out, scratch)): (usize, (&mut [f32], &mut Scratch))| {
            let (q, spare) = grow(&mut scratch.q, group + it.head_dim).split_at_mut(group);
            for (i, out) in out.chunks_exact_mut(group).enumerate() {
                let item = first * per + i;
                let place = places[item / kv_heads];
                gather(qkv, [places.len(), item / kv_heads, item % kv_heads * group], q);
                for head in q.chunks_exact_mut(it.head_dim) {
                    finish(head, layer.q_norm.as_ref(), turn, place.position, spare);
                }
                q.iter_mut().for_each(|x| *x *= scale);
                let query = Query {
                    q: &*q,
                    table: &tables[place.table],
                    position: place.position,
                    at: [index, item % kv_heads],
                    window: layer.plan.window,
                    softcap: it.attention_softcap.map(|cap| cap as f32),
                };
                query.attend(self.arch, pool, &mut scratch.scores, out);
            }
        };
        let seen: usize = places.iter().map(|p| p.position + 1).sum();
        share(out, per * group, &mut buffers.scratch, seen * group * kv_heads, piece);
    }

    /// Adds attention's part and the feed-forward part to the stream.
    fn join(&self, layer: &Layer, rows: usize, buffers: &mut Buffers) {
        let it = &self.architecture;
        let blocks = it.hidden_size.div_ceil(WIDTH) * rows * WIDTH;
        let mixed = Rows::dense(&buffers.mixed, layer.o.inputs);
        if let (Residual::Sandwich, Some(before), Some(after)) =
            (it.residual, &layer.before_mlp, &layer.after_mlp)
        {
            let to = To { out: grow(&mut buffers.part, blocks), rows, put: Put::Replace };
            layer.o.multiply(self.arch, mixed, to, &|_| ());
            add_normed(&layer.second, rows, buffers);
            norm_rows(before, &buffers.h, rows, 0..rows, [&mut buffers.line, &mut buffers.x]);
            self.feed(layer, rows, buffers);
            let to = To { out: grow(&mut buffers.part, blocks), rows, put: Put::Replace };
            layer.down.multiply(self.arch, layer.inner(&buffers.inner, rows), to, &|_| ());
            add_normed(after, rows, buffers);
            return;
        }
        if it.residual == Residual::Parallel {
            norm_rows(&layer.second, &buffers.h, rows, 0..rows, [&mut buffers.line, &mut buffers.x]);
        }
        let to = To { out: &mut buffers.h[..blocks], rows, put: Put::Add };
        layer.o.multiply(self.arch, mixed, to, &|_| ());
        if it.residual != Residual::Parallel {
            norm_rows(&layer.second, &buffers.h, rows, 0..rows, [&mut buffers.line, &mut buffers.x]);
        }
        self.feed(layer, rows, buffers);
        let to = To { out: &mut buffers.h[..blocks], rows, put: Put::Add };
        layer.down.multiply(self.arch, layer.inner(&buffers.inner, rows), to, &|_| ());
    }

    /// The inside of the feed-forward part.
    fn feed(&self, layer: &Layer, rows: usize, buffers: &mut Buffers) {
        let how = self.architecture.activation;
        let x = Rows::dense(&buffers.x, self.architecture.hidden_size);
        let size = layer.inner_block(rows);
        let out = grow(&mut buffers.inner, layer.up.n_panels() * size);
        let cost = size * layer.up.inputs;
        spread(out, size, cost, |(panel, out)| match &layer.gate {
            Some(gate) => {
                let (g, u) = out.split_at_mut(rows * WIDTH);
                gate.panel(self.arch, panel, x, g, Put::Replace);
                layer.up.panel(self.arch, panel, x, u, Put::Replace);
                slice::gate_mul(how, g, u);
            }
            None => {
                layer.up.panel(self.arch, panel, x, out, Put::Replace);
                slice::activate(how, out);
            }
        });
    }
}

impl Layer {
    /// From a block of `inner` to the next.
    fn inner_block(&self, rows: usize) -> usize {
        let maps = if self.gate.is_some() { 2 } else { 1 };
        maps * rows * WIDTH
    }

    fn inner<'a>(&self, inner: &'a [f32], rows: usize) -> Rows<'a> {
        Rows::blocked(inner, self.inner_block(rows))
    }
}

/// `h ← h + norm(part)`.
fn add_normed(norm: &HostNorm, rows: usize, buffers: &mut Buffers) {
    let part = &buffers.part[..buffers.h.len()];
    norm_rows(norm, part, rows, 0..rows, [&mut buffers.line, &mut buffers.x]);
    for (row, x) in buffers.x.chunks_exact(norm.width()).take(rows).enumerate() {
        for (block, x) in x.chunks(WIDTH).enumerate() {
            let h = &mut buffers.h[(block * rows + row) * WIDTH..][..x.len()];
            h.iter_mut().zip(x).for_each(|(h, x)| *h += x);
        }
    }
}

/// Norms and turns one head.
fn finish(head: &mut [f32], norm: Option<&HostNorm>, turn: Option<&Turn>, at: usize, spare: &mut [f32]) {
    if let Some(norm) = norm {
        spare.copy_from_slice(head);
        norm.row(spare, head);
    }
    if let Some(turn) = turn {
        let (cos, sin) = turn.at(at);
        slice::rotate(head, cos, sin);
    }
}
