//! RMS norm: forward keeps the input and one number a row.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{alike, dense, numbers, rows_per_piece, tensor, width};
use crate::simd::run;
use crate::slice::norm::{RmsBack, rms_back, rms_with};

#[derive(Debug)]
struct RmsNorm;

#[derive(Debug, Clone)]
struct Saved {
    x: FlexTensor,
    weight: FlexTensor,
    inverse: Vec<f32>,
}

/// The result, and the reciprocal root of each row.
fn forward(x: &FlexTensor, weight: &FlexTensor, epsilon: f32) -> (FlexTensor, Vec<f32>) {
    let (n, w) = (width(x), numbers(weight));
    let values = numbers(x);
    let mut out = vec![0.0; values.len()];
    let mut inverse = vec![0.0; values.len() / n];
    let rows = rows_per_piece(n);
    let pieces = out.par_chunks_mut(rows * n).zip(values.par_chunks(rows * n));
    pieces.zip(inverse.par_chunks_mut(rows)).for_each(|((out, x), inverse)| {
        let io = Rows { x, weight: w, epsilon, out, inverse };
        run!('a, rows_with(io: Rows<'a>) -> ());
    });
    (alike(out, x), inverse)
}

struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
    inverse: &'a mut [f32],
}

#[inline(always)]
fn rows_with<S: pulp::Simd>(s: S, io: Rows<'_>) {
    let n = io.weight.len();
    for ((x, out), inverse) in io.x.chunks_exact(n).zip(io.out.chunks_exact_mut(n)).zip(io.inverse) {
        *inverse = rms_with(s, x, io.weight, io.epsilon, out);
    }
}

struct RowsBack<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    grad: &'a [f32],
    inverse: &'a [f32],
    to_x: &'a mut [f32],
    to_weight: &'a mut [f32],
}

#[inline(always)]
fn rows_back_with<S: pulp::Simd>(s: S, io: RowsBack<'_>) {
    let RowsBack { x, weight, grad, inverse, to_x, to_weight } = io;
    let n = weight.len();
    let rows = x.chunks_exact(n).zip(grad.chunks_exact(n)).zip(to_x.chunks_exact_mut(n));
    for (((x, grad), to_x), inverse) in rows.zip(inverse) {
        let to_weight = &mut *to_weight;
        rms_back(s, RmsBack { x, weight, grad, inverse: *inverse, to_x, to_weight });
    }
}

/// Gradients of input and weight.
fn backward(saved: &Saved, grad: &FlexTensor) -> [FlexTensor; 2] {
    let weight = numbers(&saved.weight);
    let (n, x, g) = (weight.len(), numbers(&saved.x), numbers(grad));
    let rows = rows_per_piece(n);
    let mut to_x = vec![0.0; x.len()];
    // One sum a piece, added up in the order of the pieces.
    let mut parts = vec![0.0; saved.inverse.len().div_ceil(rows) * n];
    let inputs = x.par_chunks(rows * n).zip(g.par_chunks(rows * n)).zip(saved.inverse.par_chunks(rows));
    let outputs = to_x.par_chunks_mut(rows * n).zip(parts.par_chunks_mut(n));
    inputs.zip(outputs).for_each(|(((x, grad), inverse), (to_x, to_weight))| {
        let io = RowsBack { x, weight, grad, inverse, to_x, to_weight };
        run!('a, rows_back_with(io: RowsBack<'a>) -> ());
    });
    [alike(to_x, &saved.x), tensor(added_up(&parts, n), [n])]
}

/// The sum of the rows of `parts`, first to last.
pub(super) fn added_up(parts: &[f32], n: usize) -> Vec<f32> {
    let mut sum = vec![0.0; n];
    for part in parts.chunks_exact(n) {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sum
}

impl Backward<Flex, 2> for RmsNorm {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x, weight] = ops.parents;
        let grad = dense(grads.consume::<Flex>(&ops.node));
        let [to_x, to_weight] = backward(&ops.state, &grad);
        if let Some(x) = x {
            grads.register::<Flex>(x.id, to_x);
        }
        if let Some(weight) = weight {
            grads.register::<Flex>(weight.id, to_weight);
        }
    }
}

pub(super) fn plain(x: FlexTensor, weight: FlexTensor, epsilon: f32) -> FlexTensor {
    forward(&dense(x), &dense(weight), epsilon).0
}

pub(super) fn tracked<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    epsilon: f32,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = [x.node(), weight.node()];
    let (x, weight) = (dense(x.into_primitive()), dense(weight.into_primitive()));
    let (out, inverse) = forward(&x, &weight, epsilon);
    match RmsNorm.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(Saved { x, weight, inverse }, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
