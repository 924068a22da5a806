//! Low-rank adapters: trained in place of the maps they stand beside, which are frozen.
//!
//! ```text
//! y = x W + b + s · (x A) B
//! ```
//!
//! Where: A is `[in, r]`, B `[r, out]`, s is `scale`: α/r, or α/√r for the rank-stabilised kind.
//! Paper: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv:2106.09685, Eq. 3;
//! Kalajdzievski, *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*, arXiv:2312.03732.
//!
//! A model with adapters is made by [`Decoder::with_adapters`](crate::decoder::Decoder::with_adapters) or
//! read from a folder of PEFT; its reference is
//! [`Decoder::without_adapters`](crate::decoder::Decoder::without_adapters), which has the same frozen
//! tensors in the same memory. Names, defaults and files are PEFT's.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

pub use config::{InitWeights, LoraConfig, Targets, Task};
pub use model::{Adapted, Merged};

mod attach;
pub mod config;
mod file;
mod model;
mod output;
mod plan;
mod sites;

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
        // s goes to the narrow side: r numbers a row instead of all of `out`.
        let low = rlhf_kernels::linear(x, self.a.val(), None).mul_scalar(self.scale);
        rlhf_kernels::linear(low, self.b.val(), None)
    }

    /// The change of an embedding's rows: `[B, T] -> [B, T, hidden]`. The row of A for `padding` gets no
    /// gradient.
    pub fn embed(&self, tokens: Tensor<2, Int>, padding: Option<u32>) -> Tensor<3> {
        let low = rlhf_kernels::embedding_with_padding(self.a.val(), tokens, padding).mul_scalar(self.scale);
        rlhf_kernels::linear(low, self.b.val(), None)
    }

    /// The change of a tied head's logits: `[…, hidden] -> […, V]`.
    pub fn project<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let low = hidden.matmul(self.b.val().transpose().unsqueeze()).mul_scalar(self.scale);
        low.matmul(self.a.val().transpose().unsqueeze())
    }

    /// The change of the weight: s A B, `[in, out]`.
    pub fn delta(&self) -> Tensor<2> {
        self.a.val().matmul(self.b.val()).mul_scalar(self.scale)
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.a.val().dims()[1]
    }
}
