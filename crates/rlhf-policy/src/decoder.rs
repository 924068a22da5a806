//! The decoder of every family: embeddings, blocks of attention and feed-forward, a norm, a head.
//!
//! Rows are right-padded: position `t` of a row sits in column `t`, so the causal mask alone keeps
//! padding out of every real position and no attention mask is needed. Parameters have Llama's
//! names whatever the family ([`crate::family::Family::disk_name`] has the others).

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rlhf_core::contract::PolicyModel;
use rlhf_kernels::Activation;

use crate::architecture::{Architecture, Bias, HeadKind, LayerPlan, MlpKind, Positions, Residual};
use crate::attention::{Attention, HeadQkv};
use crate::cache::{KvCache, Step};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::projection::{Embedding, Norm, Projection, TiedAdapter};

/// Where a module gets its parameters: asked once for each tensor, with its inner name and its shape
/// as checkpoints store it (`[out, in]` for a linear map).
pub type Source<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + 'a;

/// A causal language model: the trunk and its head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding, blocks and final norm.
    pub model: Trunk,
    /// Output projection `[hidden, vocabulary]`; absent when tied to the embedding.
    pub lm_head: Option<Projection>,
}

/// Everything below the head: tokens to final hidden states.
#[derive(Module, Debug)]
pub struct Trunk {
    /// `[V, hidden]`.
    pub embed_tokens: Embedding,
    /// `[positions, hidden]`, where positions are learned.
    pub embed_positions: Option<Embedding>,
    /// The blocks, first to last.
    pub layers: Vec<Block>,
    /// Norm after the last block.
    pub norm: Norm,
    #[module(skip)]
    architecture: Architecture,
}

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

impl Decoder {
    /// Builds the model on `device` with parameters from `source`.
    ///
    /// # Errors
    /// Whatever `source` answers for a tensor it cannot give.
    pub fn build(config: &DecoderConfig, source: &mut Source<'_>, device: &Device) -> Result<Self, Error> {
        let it = config.architecture();
        // First, while the rest is not there: of all maps it takes most room to turn round.
        let lm_head = match it.head {
            HeadKind::Tied => None,
            HeadKind::Untied => {
                let shape = [it.vocab_size, it.hidden_size];
                Some(Projection::build("lm_head", shape, Bias::Without, source, device)?)
            }
        };
        let model = Trunk::build(config, source, device)?;
        Ok(Self { model, lm_head })
    }

    /// Final hidden states to logits: `[..., hidden] -> [..., V]`.
    pub fn head<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let logits = match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => self.model.embed_tokens.project(hidden),
        };
        match self.model.architecture.logit_softcap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// Log-probabilities at `temperature` of one token a hidden state: `hidden [M, hidden]`, `targets
    /// [M]`, result `[M]`, in nats. Logits exist in blocks only.
    pub fn target_logps(&self, hidden: Tensor<2>, targets: Tensor<1, Int>, temperature: f64) -> Tensor<1> {
        let how = rlhf_kernels::HeadLogp { temperature, softcap: self.model.architecture.logit_softcap };
        match &self.lm_head {
            Some(head) if head.lora.is_none() && head.bias.is_none() => {
                rlhf_kernels::head_logp(hidden, head.weight.val(), targets, &how)
            }
            None if self.model.embed_tokens.projects_plainly() => {
                rlhf_kernels::head_logp_tied(hidden, self.model.embed_tokens.weight.val(), targets, &how)
            }
            _ => {
                let logits = self.head(hidden).div_scalar(temperature);
                rlhf_core::logp::token_logp(logits, targets)
            }
        }
    }

    /// Where the parameters live, autodiff included.
    pub fn device(&self) -> Device {
        self.model.device()
    }

    /// Final hidden states with rows and columns on one axis: `tokens [B, T] -> [B · T, hidden]`.
    pub fn flat_hidden(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let hidden = self.model.hidden(tokens);
        let [b, t, d] = hidden.dims();
        hidden.reshape([b * t, d])
    }

    /// The logits at chosen positions only: `tokens [B, T]`, `positions [M]` into the flattened
    /// `B · T` axis, result `[M, V]`. The rest of `[B, T, V]` is never computed.
    pub fn logits_at(&self, tokens: Tensor<2, Int>, positions: Tensor<1, Int>) -> Tensor<2> {
        self.head(self.flat_hidden(tokens).select(0, positions))
    }

    /// Gives a tied head whose change is not the embedding's a weight of its own, so that both changes can
    /// be folded in; whether it did.
    pub(crate) fn untie(&mut self) -> bool {
        let table = &mut self.model.embed_tokens;
        let follows = table.head.is_none() && (table.lora.is_none() || table.tied == TiedAdapter::Shared);
        if self.lm_head.is_some() || follows {
            return false;
        }
        let lora = table.head.take();
        self.lm_head = Some(Projection::turned(&table.weight, lora));
        self.model.architecture.head = HeadKind::Untied;
        true
    }

    /// See [`Trunk::hidden_cached`].
    pub fn hidden_cached(&self, tokens: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<3> {
        self.model.hidden_cached(tokens, cache)
    }
}

impl PolicyModel for Decoder {
    fn logits(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.head(self.model.hidden(tokens))
    }
}

impl Trunk {
    /// Builds the trunk on `device` with parameters from `source`.
    ///
    /// # Errors
    /// Whatever `source` answers for a tensor it cannot give.
    pub fn build(config: &DecoderConfig, source: &mut Source<'_>, device: &Device) -> Result<Self, Error> {
        let it = config.architecture().clone();
        let d = it.hidden_size;
        let embed_tokens = Embedding::build("model.embed_tokens", [it.vocab_size, d], source, device)?;
        let embed_positions = match it.positions {
            Positions::Rotary => None,
            Positions::Learned => {
                let shape = [it.max_position_embeddings, d];
                Some(Embedding::build("model.embed_positions", shape, source, device)?)
            }
        };
        let layers = it.layers.iter().enumerate();
        let layers = layers
            .map(|(i, plan)| Block::build(&format!("model.layers.{i}"), &it, plan, source, device))
            .collect::<Result<_, _>>()?;
        let norm = Norm::build("model.norm", d, &it, source, device)?;
        Ok(Self { embed_tokens, embed_positions, layers, norm, architecture: it })
    }

    /// The parts and sizes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Where the parameters live, autodiff included.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.val().device()
    }

    /// Final hidden states of right-padded rows: `tokens [B, T] -> [B, T, hidden]`.
    pub fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let all: Vec<usize> = (0..self.layers.len()).collect();
        self.hidden_through(tokens, &all)
    }

    /// As [`Trunk::hidden`], through the blocks of these indices only, in the order given.
    ///
    /// # Panics
    /// On an index of no block, or rows longer than the learned positions.
    #[track_caller]
    pub fn hidden_through(&self, tokens: Tensor<2, Int>, layers: &[usize]) -> Tensor<3> {
        let device = tokens.device();
        let [_, t] = tokens.dims();
        let turns: Vec<(Tensor<2>, Tensor<2>)> =
            self.architecture.ropes.iter().map(|rope| rope.flat_tables(t, &device)).collect();
        let mut h = self.embedded(tokens);
        if let Some(table) = &self.embed_positions {
            let places = table.rows();
            assert!(t <= places.dims()[0], "decoder: {t} positions, expected at most {}", places.dims()[0]);
            h = h + places.narrow(0, 0, t).unsqueeze();
        }
        for &i in layers {
            let layer = &self.layers[i];
            h = layer.forward(h, layer.rope.map(|r| &turns[r]));
        }
        self.norm.forward(h)
    }

    fn embedded(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let h = self.embed_tokens.forward_with_padding(tokens, self.architecture.padding);
        let scale = self.architecture.embedding_scale;
        if (scale - 1.0).abs() > 0.0 { h.mul_scalar(scale) } else { h }
    }

    /// Hidden states of the tokens that continue the rows of `cache`: `[B, T] -> [B, T, hidden]`.
    /// With an empty cache this is a prefill of right-padded prompts; afterwards `T` is 1 and
    /// row `i` stands at the position the cache holds for it. The blocks are those of the cache.
    pub fn hidden_cached(&self, tokens: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<3> {
        let device = tokens.device();
        let [_, t] = tokens.dims();
        let mut step = cache.plan(t, &self.architecture.ropes, &device);
        let mut h = self.embedded(tokens);
        if let Some(table) = &self.embed_positions {
            h = h + places(table, &step, &device);
        }
        let chosen = cache.layers().to_vec();
        for (slot, i) in chosen.into_iter().enumerate() {
            let layer = &self.layers[i];
            let x = layer.input_layernorm.forward(h.clone());
            let HeadQkv { q, k, v } = layer.self_attn.head_qkv(x, layer.rope.map(|r| &step.turns[r]));
            let (k, v) = cache.append(slot, k, v, &step);
            let mask = step.mask(layer.self_attn.window(), &device);
            let a = layer.self_attn.o_proj.forward(layer.self_attn.attend(q, k, v, &mask));
            h = layer.finish(h, a);
        }
        cache.advance(t);
        self.norm.forward(h)
    }
}

/// The learned positions of a step's tokens: `[1 or B, T, hidden]`.
fn places(table: &Embedding, step: &Step, device: &Device) -> Tensor<3> {
    let (rows, t) = step.shape();
    let all: Vec<i64> = step.positions().iter().map(|p| *p as i64).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(all, [rows * t]), device);
    let chosen = table.rows().select(0, index);
    let d = chosen.dims()[1];
    chosen.reshape([rows, t, d])
}

impl Block {
    fn build(
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

    fn forward(&self, h: Tensor<3>, turn: Option<&(Tensor<2>, Tensor<2>)>) -> Tensor<3> {
        let a = self.self_attn.forward(self.input_layernorm.forward(h.clone()), turn);
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
