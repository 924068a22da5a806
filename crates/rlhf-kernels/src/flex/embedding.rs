//! Rows of a table. Its gradient is added up by ranges of the table, each in the order of the batch.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use rayon::prelude::*;

use super::{dense, indices, numbers, tensor, width};

#[derive(Debug)]
struct Embedding;

#[derive(Debug, Clone)]
struct Saved {
    tokens: Vec<usize>,
    rows: usize,
}

/// Rows of the table that one thread adds up at a time.
const RANGE: usize = 1024;

fn forward(weight: &FlexTensor, tokens: &[usize], shape: [usize; 2]) -> FlexTensor {
    let (w, n) = (numbers(weight), width(weight));
    let mut out = Vec::with_capacity(tokens.len() * n);
    for token in tokens {
        out.extend_from_slice(&w[token * n..(token + 1) * n]);
    }
    tensor(out, [shape[0], shape[1], n])
}

fn backward(saved: &Saved, grad: &FlexTensor) -> FlexTensor {
    let (g, n) = (numbers(grad), width(grad));
    let mut sum = vec![0.0; saved.rows * n];
    sum.par_chunks_mut(RANGE * n).enumerate().for_each(|(range, sum)| {
        let first = range * RANGE;
        let here = first..first + sum.len() / n;
        for (token, g) in saved.tokens.iter().zip(g.chunks_exact(n)) {
            if here.contains(token) {
                let row = &mut sum[(token - first) * n..][..n];
                row.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
            }
        }
    });
    tensor(sum, [saved.rows, n])
}

impl Backward<Flex, 1> for Embedding {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let grad = dense(grads.consume::<Flex>(&ops.node));
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, backward(&ops.state, &grad));
        }
    }
}

fn shape_of(tokens: &FlexTensor) -> [usize; 2] {
    let shape = tokens.layout().shape();
    [shape[0], shape[1]]
}

pub(super) fn plain(weight: FlexTensor, tokens: FlexTensor, _: Option<u32>) -> FlexTensor {
    let (weight, shape) = (dense(weight), shape_of(&tokens));
    let rows = weight.layout().shape()[0];
    forward(&weight, &indices("embedding", tokens, rows), shape)
}

pub(super) fn tracked<C: CheckpointStrategy>(
    weight: FloatTensor<Autodiff<Flex, C>>,
    tokens: IntTensor<Autodiff<Flex, C>>,
    padding: Option<u32>,
) -> FloatTensor<Autodiff<Flex, C>> {
    let node = weight.node();
    let (weight, shape) = (dense(weight.into_primitive()), shape_of(&tokens));
    let rows = weight.layout().shape()[0];
    let mut tokens = indices("embedding", tokens, rows);
    let out = forward(&weight, &tokens, shape);
    if let Some(padding) = padding.and_then(|p| usize::try_from(p).ok()) {
        // A row beyond the table is in no range: nothing is added for it.
        tokens.iter_mut().filter(|token| **token == padding).for_each(|token| *token = rows);
    }
    match Embedding.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(Saved { tokens, rows }, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
