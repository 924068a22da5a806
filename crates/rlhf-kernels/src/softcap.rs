//! The soft cap of Gemma 2.

use burn::tensor::Tensor;

/// `cap · tanh(x / cap)`, of any shape; without a cap `x` as it is.
///
/// Source: Gemma Team, *Gemma 2: Improving Open Language Models at a Practical Size*, arXiv:2408.00118,
/// section 2.
pub fn softcap<const D: usize>(x: Tensor<D>, cap: Option<f64>) -> Tensor<D> {
    match cap {
        Some(cap) => x.div_scalar(cap).tanh().mul_scalar(cap),
        None => x,
    }
}
