//! Decoding on the CPU without tensors: a decoder's parameters packed for the product of few rows, keys
//! and values in shared blocks, every step on buffers that are made once.
//!
//! A row's numbers depend on its own tokens alone, to the bit: not on the rows beside it, on how many
//! there are, on whether its tokens came together or one by one, nor on the number of threads.

use burn::tensor::Device;
use pulp::Arch;

use crate::architecture::Architecture;
use crate::decoder::Decoder;
use crate::rope::Rope;

pub(crate) mod host;
pub(crate) mod mixture;
pub(crate) mod schedule;
pub(crate) mod tensors;

mod attention;
mod blocks;
mod forward;
mod kernel;
mod pack;

use blocks::{Pool, Shape, Table};
use forward::{Buffers, Place};
use pack::Weights;

/// Tokens that are computed together while prompts are read.
const CHUNK: usize = 192;

/// Whether the engine does what tensors on `device` would.
pub(crate) fn engine_serves(device: &Device) -> bool {
    rlhf_kernels::on_host(device)
}

/// A decoder that is ready to decode on the CPU: its parameters as they were when it was made.
#[derive(Debug)]
pub struct Engine {
    architecture: Architecture,
    weights: Weights,
    turns: Vec<Turn>,
    arch: Arch,
    n_positions: usize,
}

/// Cosines and sines of one rotation: `[positions, R / 2]` each.
#[derive(Debug)]
struct Turn {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Turn {
    fn new(rope: &Rope, n_positions: usize) -> Self {
        let inverse = rope.inverse();
        let angles = (0..n_positions).flat_map(|p| inverse.iter().map(move |f| p as f32 * f));
        let (cos, sin) = angles.map(|a| (a.cos(), a.sin())).unzip();
        Self { half: inverse.len(), cos, sin }
    }

    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let from = position * self.half;
        (&self.cos[from..from + self.half], &self.sin[from..from + self.half])
    }
}

impl Engine {
    /// Reads `model`'s parameters, adapters merged, for rows of up to `n_positions` tokens. With `layers`
    /// only these blocks are computed, in that order.
    ///
    /// # Panics
    /// On an index of no block, or more positions than were learned.
    #[track_caller]
    pub fn new(model: &Decoder, layers: Option<&[usize]>, n_positions: usize) -> Self {
        let architecture = model.model.architecture().clone();
        let all: Vec<usize> = (0..architecture.layers.len()).collect();
        let layers = layers.unwrap_or(&all);
        if let Some(i) = layers.iter().find(|i| **i >= all.len()) {
            panic!("engine: layers: expected indices below {}, found {i}", all.len());
        }
        let weights = Weights::read(model, layers);
        let learned = weights.places.len() / architecture.hidden_size;
        assert!(
            weights.places.is_empty() || n_positions <= learned,
            "engine: {n_positions} positions, expected at most {learned}"
        );
        let turns = architecture.ropes.iter().map(|rope| Turn::new(rope, n_positions)).collect();
        Self { architecture, weights, turns, arch: Arch::new(), n_positions }
    }

    /// The logits after every token of one row: `[T, V]`, row after row.
    ///
    /// # Panics
    /// On no token, on more tokens than positions, on a token outside the vocabulary.
    #[track_caller]
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let v = self.architecture.vocab_size;
        let (n, most) = (tokens.len(), self.n_positions);
        assert!((1..=most).contains(&n), "engine: {n} tokens, expected 1 to {most}");
        let outside = tokens.iter().find(|t| **t as usize >= v);
        assert!(outside.is_none(), "engine: token {outside:?}, expected tokens below {v}");
        let (mut pool, mut buffers) = (self.pool(), Buffers::default());
        let mut tables = [Table::default()];
        let mut out = vec![0.0; n * v];
        for (chunk, out) in tokens.chunks(CHUNK).zip(out.chunks_mut(CHUNK * v)) {
            let from = tables[0].length();
            pool.extend(&mut tables[0], chunk.len());
            let place = |(i, token): (usize, &u32)| Place { table: 0, position: from + i, token: *token };
            let places: Vec<Place> = chunk.iter().enumerate().map(place).collect();
            let wanted: Vec<usize> = (0..chunk.len()).collect();
            self.forward(&places, &wanted, (&mut pool, &tables), &mut buffers);
            for (row, out) in out.chunks_exact_mut(v).enumerate() {
                buffers.logits(row, out);
            }
        }
        out
    }

    fn pool(&self) -> Pool {
        Pool::new(Shape {
            layers: self.weights.layers.len(),
            kv_heads: self.architecture.num_key_value_heads,
            head_dim: self.architecture.head_dim,
        })
    }
}
