//! Layer norm: forward keeps the input and two numbers a row.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::rms_norm::added_up;
use super::{alike, dense, numbers, rows_per_piece, tensor, width};
use crate::simd::run;
use crate::slice::norm::{Affine, LayerBack, RowMoments, layer_back, layer_with};

#[derive(Debug)]
struct LayerNorm;

#[derive(Debug, Clone)]
struct Saved {
    x: FlexTensor,
    weight: FlexTensor,
    moments: Vec<RowMoments>,
}

/// The result, and the moments of each row.
fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    epsilon: f32,
) -> (FlexTensor, Vec<RowMoments>) {
    let n = width(x);
    let affine = Affine { weight: numbers(weight), bias: numbers(bias) };
    let values = numbers(x);
    let mut out = vec![0.0; values.len()];
    let mut moments = vec![RowMoments { mean: 0.0, inverse: 0.0 }; values.len() / n];
    let rows = rows_per_piece(n);
    let pieces = out.par_chunks_mut(rows * n).zip(values.par_chunks(rows * n));
    pieces.zip(moments.par_chunks_mut(rows)).for_each(|((out, x), moments)| {
        let io = Rows { x, affine, epsilon, out, moments };
        run!('a, rows_with(io: Rows<'a>) -> ());
    });
    (alike(out, x), moments)
}

struct Rows<'a> {
    x: &'a [f32],
    affine: Affine<'a>,
    epsilon: f32,
    out: &'a mut [f32],
    moments: &'a mut [RowMoments],
}

#[inline(always)]
fn rows_with<S: pulp::Simd>(s: S, io: Rows<'_>) {
    let n = io.affine.weight.len();
    for ((x, out), moments) in io.x.chunks_exact(n).zip(io.out.chunks_exact_mut(n)).zip(io.moments) {
        *moments = layer_with(s, x, io.affine, io.epsilon, out);
    }
}

struct RowsBack<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    grad: &'a [f32],
    moments: &'a [RowMoments],
    to_x: &'a mut [f32],
    /// For the weight, then for the bias.
    sums: &'a mut [f32],
}

#[inline(always)]
fn rows_back_with<S: pulp::Simd>(s: S, io: RowsBack<'_>) {
    let RowsBack { x, weight, grad, moments, to_x, sums } = io;
    let n = weight.len();
    let (to_weight, to_bias) = sums.split_at_mut(n);
    let rows = x.chunks_exact(n).zip(grad.chunks_exact(n)).zip(to_x.chunks_exact_mut(n));
    for (((x, grad), to_x), moments) in rows.zip(moments) {
        let (to_weight, to_bias) = (&mut *to_weight, &mut *to_bias);
        layer_back(s, LayerBack { x, weight, grad, moments: *moments, to_x, to_weight, to_bias });
    }
}

/// Gradients of input, weight and bias.
fn backward(saved: &Saved, grad: &FlexTensor) -> [FlexTensor; 3] {
    let weight = numbers(&saved.weight);
    let (n, x, g) = (weight.len(), numbers(&saved.x), numbers(grad));
    let rows = rows_per_piece(n);
    let mut to_x = vec![0.0; x.len()];
    let mut parts = vec![0.0; saved.moments.len().div_ceil(rows) * 2 * n];
    let inputs = x.par_chunks(rows * n).zip(g.par_chunks(rows * n)).zip(saved.moments.par_chunks(rows));
    let outputs = to_x.par_chunks_mut(rows * n).zip(parts.par_chunks_mut(2 * n));
    inputs.zip(outputs).for_each(|(((x, grad), moments), (to_x, sums))| {
        let io = RowsBack { x, weight, grad, moments, to_x, sums };
        run!('a, rows_back_with(io: RowsBack<'a>) -> ());
    });
    let mut sums = added_up(&parts, 2 * n);
    let to_bias = sums.split_off(n);
    [alike(to_x, &saved.x), tensor(sums, [n]), tensor(to_bias, [n])]
}

impl Backward<Flex, 3> for LayerNorm {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = dense(grads.consume::<Flex>(&ops.node));
        for (parent, to_parent) in ops.parents.into_iter().zip(backward(&ops.state, &grad)) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, to_parent);
            }
        }
    }
}

pub(super) fn plain(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f32) -> FlexTensor {
    forward(&dense(x), &dense(weight), &dense(bias), epsilon).0
}

pub(super) fn tracked<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    bias: FloatTensor<Autodiff<Flex, C>>,
    epsilon: f32,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = [x.node(), weight.node(), bias.node()];
    let (x, weight) = (dense(x.into_primitive()), dense(weight.into_primitive()));
    let (out, moments) = forward(&x, &weight, &dense(bias.into_primitive()), epsilon);
    match LayerNorm.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(Saved { x, weight, moments }, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
