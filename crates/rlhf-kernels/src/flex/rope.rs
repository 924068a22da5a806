//! Rotary positions, in place where nothing else holds the buffer.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{dense, numbers, rows_per_piece, whole, width};
use crate::simd::run;
use crate::slice::rotate_with;

#[derive(Debug)]
struct Rope;

#[derive(Debug, Clone)]
struct Tables {
    cos: FlexTensor,
    sin: FlexTensor,
    heads: usize,
}

impl Tables {
    fn back(self) -> Self {
        let sin = numbers(&self.sin).iter().map(|x| -x).collect();
        Self { sin: super::alike(sin, &self.sin), ..self }
    }

    fn rotate(&self, x: FlexTensor) -> FlexTensor {
        let mut x = whole(x);
        let (n, half) = (width(&x), width(&self.cos));
        let (cos, sin) = (numbers(&self.cos), numbers(&self.sin));
        let (rows, t, d) = (rows_per_piece(n), cos.len() / half, n / self.heads);
        x.storage_mut::<f32>().par_chunks_mut(rows * n).enumerate().for_each(|(piece, x)| {
            let io = Rows { x, cos, sin, first: piece * rows % t, width: [n, d, half] };
            run!('a, rows_with(io: Rows<'a>) -> ());
        });
        x
    }
}

struct Rows<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    /// Position of the first row.
    first: usize,
    /// Of a row, a head and a table's row.
    width: [usize; 3],
}

#[inline(always)]
fn rows_with<S: pulp::Simd>(s: S, io: Rows<'_>) {
    let Rows { x, cos: cosines, sin: sines, first, width: [n, d, half] } = io;
    let t = cosines.len() / half;
    let mut position = first;
    for row in x.chunks_exact_mut(n) {
        let table = position * half..(position + 1) * half;
        let (cos, sin) = (&cosines[table.clone()], &sines[table]);
        for head in row.chunks_exact_mut(d) {
            rotate_with(s, head, cos, sin);
        }
        position = if position + 1 == t { 0 } else { position + 1 };
    }
}

impl Backward<Flex, 1> for Rope {
    type State = Tables;

    fn backward(self, ops: Ops<Tables, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let grad = grads.consume::<Flex>(&ops.node);
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, ops.state.back().rotate(grad));
        }
    }
}

pub(super) fn plain(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, heads: usize) -> FlexTensor {
    Tables { cos: dense(cos), sin: dense(sin), heads }.rotate(x)
}

pub(super) fn tracked<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    cos: FloatTensor<Autodiff<Flex, C>>,
    sin: FloatTensor<Autodiff<Flex, C>>,
    heads: usize,
) -> FloatTensor<Autodiff<Flex, C>> {
    let tables = Tables { cos: dense(cos.into_primitive()), sin: dense(sin.into_primitive()), heads };
    let node = x.node();
    let out = tables.rotate(x.into_primitive());
    match Rope.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(tables, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
