//! One block of a decoder: attention and the feed-forward part, and how they join the stream.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use rlhf_kernels::Activation;

use crate::architecture::{Architecture, LayerPlan, MlpKind, Residual};
use crate::attention::{Attention, HeadQkv};
use crate::cache::{KvCache, Step};
use crate::decoder::Source;
use crate::error::Error;
use crate::projection::{Norm, Projection};

/// One transformer block.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before attention.
    pub input_layernorm: Norm,
    /// Attention.
    pub self_attn: Attention,
    /// Norm before the feed-forward part; after attention in a sandwich.
    pub post_attention_layernorm: Norm,
    /// Norm before the feed-forward part of a sandwich.
    pub pre_feedforward_layernorm: Option<Norm>,
    /// Norm after it.
    pub post_feedforward_layernorm: Option<Norm>,
    /// The feed-forward part.
    pub mlp: Mlp,
    #[module(skip)]
    residual: Residual,
    #[module(skip)]
    rope: Option<usize>,
}

/// The feed-forward part: gated where it has a gate.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden, intermediate]`.
    pub gate_proj: Option<Projection>,
    /// `[hidden, intermediate]`.
    pub up_proj: Projection,
    /// `[intermediate, hidden]`.
    pub down_proj: Projection,
    #[module(skip)]
    activation: Activation,
}

impl Block {
    pub(crate) fn build(
        name: &str,
        like: &Architecture,
        plan: &LayerPlan,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut norm = |part: &str, here: bool| {
            let build = || Norm::build(&format!("{name}.{part}"), like.hidden_size, like, source, device);
            here.then(build).transpose()
        };
        let sandwich = like.residual == Residual::Sandwich;
        let pre_feedforward_layernorm = norm("pre_feedforward_layernorm", sandwich)?;
        let post_feedforward_layernorm = norm("post_feedforward_layernorm", sandwich)?;
        let d = like.hidden_size;
        Ok(Self {
            input_layernorm: Norm::build(&format!("{name}.input_layernorm"), d, like, source, device)?,
            self_attn: Attention::build(&format!("{name}.self_attn"), like, plan, source, device)?,
            post_attention_layernorm: Norm::build(
                &format!("{name}.post_attention_layernorm"),
                d,
                like,
                source,
                device,
            )?,
            pre_feedforward_layernorm,
            post_feedforward_layernorm,
            mlp: Mlp::build(&format!("{name}.mlp"), like, source, device)?,
            residual: like.residual,
            rope: plan.rope,
        })
    }

    /// The stream after this block, of whole rows: `[B, T, hidden]`. `turns` are the rotary tables of the decoder.
    pub(crate) fn forward(&self, h: Tensor<3>, turns: &[(Tensor<2>, Tensor<2>)]) -> Tensor<3> {
        let x = self.input_layernorm.forward(h.clone());
        let a = self.self_attn.forward(x, self.rope.map(|r| &turns[r]));
        self.finish(h, a)
    }

    /// The same of the tokens that continue the rows of `cache`, whose slot `slot` is this block's.
    pub(crate) fn forward_cached(
        &self,
        h: Tensor<3>,
        slot: usize,
        cache: &mut KvCache,
        step: &mut Step,
    ) -> Tensor<3> {
        let x = self.input_layernorm.forward(h.clone());
        let HeadQkv { q, k, v } = self.self_attn.head_qkv(x, self.rope.map(|r| &step.turns[r]));
        let (k, v) = cache.append(slot, k, v, step);
        let mask = step.mask(self.self_attn.window(), &h.device());
        let a = self.self_attn.o_proj.forward(self.self_attn.attend(q, k, v, &mask));
        self.finish(h, a)
    }

    /// The stream after this block, from the stream before it and attention's part.
    fn finish(&self, h: Tensor<3>, attention: Tensor<3>) -> Tensor<3> {
        match (self.residual, &self.pre_feedforward_layernorm, &self.post_feedforward_layernorm) {
            (Residual::Sandwich, Some(before), Some(after)) => {
                let h = h + self.post_attention_layernorm.forward(attention);
                let x = before.forward(h.clone());
                h + after.forward(self.mlp.forward(x))
            }
            (Residual::Parallel, ..) => {
                let x = self.post_attention_layernorm.forward(h.clone());
                h + attention + self.mlp.forward(x)
            }
            _ => {
                let h = h + attention;
                let x = self.post_attention_layernorm.forward(h.clone());
                h + self.mlp.forward(x)
            }
        }
    }
}

impl Mlp {
    fn build(
        name: &str,
        like: &Architecture,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let (d, f) = (like.hidden_size, like.intermediate_size);
        let mut project = |part: &str, shape| {
            Projection::build(&format!("{name}.{part}"), shape, like.mlp_bias, source, device)
        };
        Ok(Self {
            gate_proj: (like.mlp == MlpKind::Gated).then(|| project("gate_proj", [f, d])).transpose()?,
            up_proj: project("up_proj", [f, d])?,
            down_proj: project("down_proj", [d, f])?,
            activation: like.activation,
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(gate) = &self.gate_proj else {
            return self.down_proj.forward(rlhf_kernels::activate(self.activation, self.up_proj.forward(x)));
        };
        let (gate, up, down) = (gate.forward(x.clone()), self.up_proj.forward(x), &self.down_proj);
        if down.lora.is_some() {
            return down.forward(rlhf_kernels::gated(self.activation, gate, up));
        }
        // What lies between gate and map is not kept for the backward pass.
        let bias = down.bias.as_ref().map(Param::val);
        rlhf_kernels::gated_linear(self.activation, gate, up, down.weight.val(), bias)
    }
}
