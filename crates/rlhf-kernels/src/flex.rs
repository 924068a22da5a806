//! The fused operations on Burn's flex device.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DispatchDevice, Flex, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};

use crate::activation::Activation;
use crate::attention::Attention;
use crate::head::{HeadLogp, Side};

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod attention_back;
mod dispatch;
pub(crate) mod embedding;
pub(crate) mod gated_linear;
pub(crate) mod head;
pub(crate) mod layer_norm;
pub(crate) mod product;
pub(crate) mod rms_norm;
pub(crate) mod rope;

/// What Burn's dispatch routes to the implementations here. Shapes have been checked.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Fused: Backend {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    fn activate(x: FloatTensor<Self>, how: Activation) -> FloatTensor<Self>;
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, how: Activation) -> FloatTensor<Self>;
    fn gated_linear(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        how: Activation,
    ) -> FloatTensor<Self>;
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        how: Attention,
    ) -> FloatTensor<Self>;
    fn embedding(
        weight: FloatTensor<Self>,
        tokens: IntTensor<Self>,
        padding: Option<u32>,
    ) -> FloatTensor<Self>;
    fn head_logp(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        how: HeadLogp,
        side: Side,
    ) -> FloatTensor<Self>;
}

/// Whether the fused form serves `x`.
pub(crate) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// `x` with its numbers side by side; nothing is copied where they are.
pub(crate) fn dense(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// `x` as the whole of a buffer, so that its storage may be written.
pub(crate) fn whole(x: FlexTensor) -> FlexTensor {
    let n = x.layout().num_elements();
    let fits = x.is_contiguous() && x.layout().start_offset() == 0 && x.storage::<f32>().len() == n;
    if fits { x } else { FlexTensor::from_data(x.into_data()) }
}

/// The numbers of a tensor that went through [`dense`].
pub(crate) fn numbers(x: &FlexTensor) -> &[f32] {
    x.as_slice().expect("f32 and dense")
}

/// A new tensor.
pub(crate) fn tensor<const D: usize>(numbers: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, shape))
}

/// A new tensor of the shape of `like`.
pub(crate) fn alike(numbers: Vec<f32>, like: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, like.layout().shape().clone()))
}

/// The last axis of `x`.
pub(crate) fn width(x: &FlexTensor) -> usize {
    x.layout().shape().iter().next_back().copied().unwrap_or(1)
}

/// Indices below `limit`.
pub(crate) fn indices(function: &str, x: FlexTensor, limit: usize) -> Vec<usize> {
    let data = x.into_data().convert::<i64>();
    let indices = data.as_slice::<i64>().expect("converted to i64");
    let checked = |i: &i64| match usize::try_from(*i) {
        Ok(i) if i < limit => i,
        _ => panic!("{function}: expected indices in 0..{limit}, found {i}"),
    };
    indices.iter().map(checked).collect()
}

/// Numbers of a piece of work that one thread does at a time.
const PIECE: usize = 1 << 14;

/// Rows of `width` numbers in a piece, whatever the number of threads.
pub(crate) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width).max(1)
}

/// Plain matrix products.
pub(crate) fn matmul(a: FlexTensor, b: FlexTensor) -> FlexTensor {
    use burn::backend::ops::FloatTensorOps;
    Flex::float_matmul(a, b)
}

/// A rank 2 tensor seen with its axes swapped.
pub(crate) fn transposed(x: &FlexTensor) -> FlexTensor {
    x.transpose(0, 1)
}
