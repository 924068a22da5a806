//! A gate and the linear map behind it: forward keeps the inputs of the gate alone.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;

use super::activation::{forward, gate_gradients};
use super::{dense, matmul, transposed};
use crate::activation::Activation;

#[derive(Debug)]
struct GatedLinear;

#[derive(Debug, Clone)]
struct Saved {
    gate: FlexTensor,
    up: FlexTensor,
    weight: FlexTensor,
    how: Activation,
}

impl Backward<Flex, 3> for GatedLinear {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate, up, weight] = ops.parents;
        let grad = grads.consume::<Flex>(&ops.node);
        let saved = ops.state;
        if let Some(weight) = weight {
            let between = forward(saved.gate.clone(), &saved.up, saved.how);
            grads.register::<Flex>(weight.id, matmul(transposed(&between), grad.clone()));
        }
        if gate.is_none() && up.is_none() {
            return;
        }
        let pull = matmul(grad, transposed(&saved.weight));
        let [to_gate, to_up] = gate_gradients(&saved.gate, &saved.up, pull, saved.how);
        if let Some(gate) = gate {
            grads.register::<Flex>(gate.id, to_gate);
        }
        if let Some(up) = up {
            grads.register::<Flex>(up.id, to_up);
        }
    }
}

pub(super) fn plain(gate: FlexTensor, up: FlexTensor, weight: FlexTensor, how: Activation) -> FlexTensor {
    matmul(forward(gate, &dense(up), how), weight)
}

pub(super) fn tracked<C: CheckpointStrategy>(
    gate: FloatTensor<Autodiff<Flex, C>>,
    up: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    how: Activation,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = [gate.node(), up.node(), weight.node()];
    let (gate, up) = (dense(gate.into_primitive()), dense(up.into_primitive()));
    let weight = weight.into_primitive();
    match GatedLinear.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let out = plain(gate.clone(), up.clone(), weight.clone(), how);
            prep.finish(Saved { gate, up, weight, how }, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(plain(gate, up, weight, how)),
    }
}
