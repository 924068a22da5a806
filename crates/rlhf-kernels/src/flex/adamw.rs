//! AdamW in one pass over its four buffers.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use pulp::Simd;
use rayon::prelude::*;

use super::{PIECE, dense, numbers, whole};
use crate::adamw::{AdamWState, AdamWStep};
use crate::simd::run;

/// The numbers of a step as each element needs them.
#[derive(Clone, Copy)]
struct Numbers {
    scale: f32,
    beta1: f32,
    take1: f32,
    beta2: f32,
    take2: f32,
    root_debt: f32,
    epsilon: f32,
    rate: f32,
    keep: f32,
}

impl Numbers {
    fn of(how: &AdamWStep) -> Self {
        let f = how.factors();
        Self {
            scale: if how.scale < 1.0 { how.scale as f32 } else { 1.0 },
            beta1: how.beta1 as f32,
            take1: (1.0 - how.beta1) as f32,
            beta2: how.beta2 as f32,
            take2: (1.0 - how.beta2) as f32,
            root_debt: (1.0 / f.root_debt) as f32,
            epsilon: how.epsilon as f32,
            rate: f.rate as f32,
            keep: f.keep as f32,
        }
    }
}

struct Piece<'a> {
    theta: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    grad: &'a [f32],
}

#[inline(always)]
fn piece_with<S: Simd>(s: S, x: Numbers, io: Piece<'_>) {
    let splat = |v| s.splat_f32s(v);
    let update = |g: S::f32s, m: S::f32s, v: S::f32s, theta: S::f32s| {
        let g = s.mul_f32s(g, splat(x.scale));
        let m = s.mul_add_e_f32s(m, splat(x.beta1), s.mul_f32s(g, splat(x.take1)));
        let v = s.mul_add_e_f32s(v, splat(x.beta2), s.mul_f32s(s.mul_f32s(g, g), splat(x.take2)));
        let root = s.mul_add_e_f32s(s.sqrt_f32s(v), splat(x.root_debt), splat(x.epsilon));
        let delta = s.div_f32s(s.mul_f32s(m, splat(x.rate)), root);
        [s.sub_f32s(s.mul_f32s(theta, splat(x.keep)), delta), m, v]
    };
    let Piece { theta, first, second, grad } = io;
    let (theta, theta_rest) = S::as_mut_simd_f32s(theta);
    let (first, first_rest) = S::as_mut_simd_f32s(first);
    let (second, second_rest) = S::as_mut_simd_f32s(second);
    let (grad, grad_rest) = S::as_simd_f32s(grad);
    for (((theta, m), v), g) in theta.iter_mut().zip(first).zip(second).zip(grad) {
        [*theta, *m, *v] = update(*g, *m, *v, *theta);
    }
    if !grad_rest.is_empty() {
        let load = |x: &[f32]| s.partial_load_f32s(x);
        let new = update(load(grad_rest), load(first_rest), load(second_rest), load(theta_rest));
        s.partial_store_f32s(theta_rest, new[0]);
        s.partial_store_f32s(first_rest, new[1]);
        s.partial_store_f32s(second_rest, new[2]);
    }
}

fn primitive(x: Tensor<1>) -> FlexTensor {
    x.try_into_primitive::<Flex>().expect("a plain tensor on flex")
}

pub(crate) fn adamw(how: &AdamWStep, state: AdamWState, grad: Tensor<1>) -> AdamWState {
    let AdamWState { theta, first, second } = state;
    let [mut theta, mut first, mut second] = [theta, first, second].map(|x| whole(primitive(x)));
    let (grad, x) = (dense(primitive(grad)), Numbers::of(how));
    let pieces = theta
        .storage_mut::<f32>()
        .par_chunks_mut(PIECE)
        .zip(first.storage_mut::<f32>().par_chunks_mut(PIECE))
        .zip(second.storage_mut::<f32>().par_chunks_mut(PIECE))
        .zip(numbers(&grad).par_chunks(PIECE));
    pieces.for_each(|(((theta, first), second), grad)| {
        let io = Piece { theta, first, second, grad };
        run!('a, piece_with(x: Numbers, io: Piece<'a>) -> ());
    });
    let [theta, first, second] = [theta, first, second].map(Tensor::from_primitive::<Flex>);
    AdamWState { theta, first, second }
}

/// Σ x² of one tensor, piece by piece in `f64`.
pub(crate) fn sum_of_squares(x: Tensor<1>) -> f64 {
    let x = dense(primitive(x));
    let parts: Vec<f64> = numbers(&x).par_chunks(PIECE).map(squares).collect();
    parts.iter().sum()
}

/// Eight sums side by side, for the machine's vectors.
fn squares(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    let rest: f64 = rest.iter().map(|x| f64::from(*x).powi(2)).sum();
    sums.iter().sum::<f64>() + rest
}
