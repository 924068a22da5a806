//! Activations: forward keeps the inputs alone.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{PIECE, alike, dense, numbers, whole};
use crate::activation::Activation;
use crate::slice::activation::{GateBack, activate_back, gate_back};
use crate::slice::{self};

#[derive(Debug)]
struct Activate;

#[derive(Debug)]
struct Gated;

fn activated(x: FlexTensor, how: Activation) -> FlexTensor {
    let mut x = whole(x);
    x.storage_mut::<f32>().par_chunks_mut(PIECE).for_each(|x| slice::activate(how, x));
    x
}

pub(super) fn forward(gate: FlexTensor, up: &FlexTensor, how: Activation) -> FlexTensor {
    let mut gate = whole(gate);
    let pieces = gate.storage_mut::<f32>().par_chunks_mut(PIECE).zip(numbers(up).par_chunks(PIECE));
    pieces.for_each(|(gate, up)| slice::gate_mul(how, gate, up));
    gate
}

impl Backward<Flex, 1> for Activate {
    type State = (FlexTensor, Activation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let mut grad = whole(grads.consume::<Flex>(&ops.node));
        let (x, how) = ops.state;
        let pieces = grad.storage_mut::<f32>().par_chunks_mut(PIECE).zip(numbers(&x).par_chunks(PIECE));
        pieces.for_each(|(grad, x)| activate_back(how, x, grad));
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, grad);
        }
    }
}

/// Gradients of gate and `up` from that of their product, whose buffer becomes the second.
pub(super) fn gate_gradients(
    gate: &FlexTensor,
    up: &FlexTensor,
    grad: FlexTensor,
    how: Activation,
) -> [FlexTensor; 2] {
    let mut grad = whole(grad);
    let mut to_gate = vec![0.0; numbers(gate).len()];
    let inputs = numbers(gate).par_chunks(PIECE).zip(numbers(up).par_chunks(PIECE));
    let outputs = to_gate.par_chunks_mut(PIECE).zip(grad.storage_mut::<f32>().par_chunks_mut(PIECE));
    inputs.zip(outputs).for_each(|((gate, up), (to_gate, grad))| {
        gate_back(how, GateBack { gate, up, grad, to_gate });
    });
    [alike(to_gate, gate), grad]
}

#[derive(Debug, Clone)]
struct Saved {
    gate: FlexTensor,
    up: FlexTensor,
    how: Activation,
}

impl Backward<Flex, 2> for Gated {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate, up] = ops.parents;
        let (saved, grad) = (ops.state, grads.consume::<Flex>(&ops.node));
        let [to_gate, to_up] = gate_gradients(&saved.gate, &saved.up, grad, saved.how);
        if let Some(gate) = gate {
            grads.register::<Flex>(gate.id, to_gate);
        }
        if let Some(up) = up {
            grads.register::<Flex>(up.id, to_up);
        }
    }
}

pub(super) fn activate(x: FlexTensor, how: Activation) -> FlexTensor {
    activated(x, how)
}

pub(super) fn activate_tracked<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    how: Activation,
) -> FloatTensor<Autodiff<Flex, C>> {
    let node = x.node();
    match Activate.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let x = dense(x.into_primitive());
            prep.finish((x.clone(), how), activated(x, how))
        }
        OpsKind::UnTracked(prep) => prep.finish(activated(x.into_primitive(), how)),
    }
}

pub(super) fn gated(gate: FlexTensor, up: FlexTensor, how: Activation) -> FlexTensor {
    forward(gate, &dense(up), how)
}

pub(super) fn gated_tracked<C: CheckpointStrategy>(
    gate: FloatTensor<Autodiff<Flex, C>>,
    up: FloatTensor<Autodiff<Flex, C>>,
    how: Activation,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = [gate.node(), up.node()];
    let (gate, up) = (dense(gate.into_primitive()), dense(up.into_primitive()));
    match Gated.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let out = forward(gate.clone(), &up, how);
            prep.finish(Saved { gate, up, how }, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(forward(gate, &up, how)),
    }
}
