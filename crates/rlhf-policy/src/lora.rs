//! Low-rank adapters.
//!
//! ```text
//! y = x W + b + s · (x A) B
//! ```
//!
//! Where: A is `[in, r]`, B `[r, out]`, s is `scale`: α/r, or α/√r for the rank-stabilised kind.
//! Paper: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv:2106.09685, Eq. 3;
//! Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, arXiv:2312.03732.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

/// The adapter of one map.
#[derive(Module, Debug)]
pub struct Lora {
    /// A, `[in, r]`; `[V, r]` on an embedding.
    pub a: Param<Tensor<2>>,
    /// B, `[r, out]`.
    pub b: Param<Tensor<2>>,
    /// s.
    #[module(skip)]
    pub scale: f64,
}

impl Lora {
    /// The change of a linear map's output: `[…, in] -> […, out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let low = rlhf_kernels::linear(x, self.a.val(), None);
        rlhf_kernels::linear(low, self.b.val(), None).mul_scalar(self.scale)
    }

    /// The change of an embedding's rows: `[B, T] -> [B, T, hidden]`.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let low = rlhf_kernels::embedding(self.a.val(), tokens);
        rlhf_kernels::linear(low, self.b.val(), None).mul_scalar(self.scale)
    }

    /// The change of a tied head's logits: `[…, hidden] -> […, V]`.
    pub fn project<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let low = hidden.matmul(self.b.val().transpose().unsqueeze());
        low.matmul(self.a.val().transpose().unsqueeze()).mul_scalar(self.scale)
    }
}
