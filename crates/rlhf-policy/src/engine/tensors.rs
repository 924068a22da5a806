//! The decoder's own tensors as what the schedule drives.

use std::rc::Rc;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::cache::KvCache;
use crate::decoder::Decoder;

use super::schedule::Machine;

/// Rows in a cache of tensors.
#[derive(Debug)]
pub(crate) struct Tensors<'a> {
    model: &'a Decoder,
    device: &'a Device,
    layers: Vec<usize>,
    /// Stands behind shorter prompts.
    pad: u32,
    /// Most positions of a row.
    capacity: usize,
    active: KvCache,
    /// The cache of each prompt that may still be continued, and its row there.
    held: Vec<Option<(Rc<KvCache>, usize)>>,
}

impl<'a> Tensors<'a> {
    pub(crate) fn new(
        model: &'a Decoder,
        device: &'a Device,
        layers: Vec<usize>,
        pad: u32,
        capacity: usize,
    ) -> Self {
        let active = KvCache::through(layers.clone(), 0, capacity);
        Self { model, device, layers, pad, capacity, active, held: Vec::new() }
    }
}

fn numbers(logits: Tensor<2>) -> Vec<f32> {
    logits.into_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

impl Machine for Tensors<'_> {
    fn prefill(&mut self, prompts: &[&[u32]]) -> Vec<Vec<f32>> {
        let lengths: Vec<usize> = prompts.iter().map(|p| p.len()).collect();
        let (b, t) = (prompts.len(), lengths.iter().copied().max().unwrap_or(0));
        let mut tokens = vec![i64::from(self.pad); b * t];
        for (row, prompt) in tokens.chunks_exact_mut(t).zip(prompts) {
            for (to, token) in row.iter_mut().zip(*prompt) {
                *to = i64::from(*token);
            }
        }
        let mut cache = KvCache::through(self.layers.clone(), b, t);
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [b, t]), self.device);
        let hidden = self.model.hidden_cached(tokens, &mut cache);
        cache.set_lengths(&lengths);
        let d = hidden.dims()[2];
        let last: Vec<i64> = lengths.iter().enumerate().map(|(i, n)| (i * t + n - 1) as i64).collect();
        let last = Tensor::<1, Int>::from_data(TensorData::new(last, [b]), self.device);
        let logits = self.model.head(hidden.reshape([b * t, d]).select(0, last));
        let v = logits.dims()[1];
        let cache = Rc::new(cache);
        self.held.extend((0..b).map(|row| Some((Rc::clone(&cache), row))));
        numbers(logits).chunks_exact(v).map(<[f32]>::to_vec).collect()
    }

    fn start(&mut self, prompts: &[usize]) {
        let mut runs: Vec<(Rc<KvCache>, Vec<usize>)> = Vec::new();
        for prompt in prompts {
            let (cache, row) = self.held[*prompt].as_ref().expect("not released");
            match runs.last_mut() {
                Some((last, rows)) if Rc::ptr_eq(last, cache) => rows.push(*row),
                _ => runs.push((Rc::clone(cache), vec![*row])),
            }
        }
        for (cache, rows) in runs {
            self.active.append_rows(&cache, &rows);
        }
    }

    fn release(&mut self, prompt: usize) {
        self.held[prompt] = None;
    }

    fn decode(&mut self, tokens: &[u32], logits: &mut Vec<f32>) {
        let ids: Vec<i64> = tokens.iter().map(|t| i64::from(*t)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [tokens.len(), 1]), self.device);
        let hidden = self.model.hidden_cached(ids, &mut self.active);
        let [b, _, d] = hidden.dims();
        *logits = numbers(self.model.head(hidden.reshape([b, d])));
    }

    fn keep(&mut self, alive: &[bool]) {
        let rows: Vec<usize> = (0..alive.len()).filter(|i| alive[*i]).collect();
        if rows.is_empty() {
            self.active = KvCache::through(self.layers.clone(), 0, self.capacity);
        } else {
            self.active.select(&rows);
        }
    }
}
