//! The decoder of every family: embeddings, blocks of attention and feed-forward, a norm, a head.
//!
//! Rows are right-padded: position `t` of a row sits in column `t`, so the causal mask alone keeps
//! padding out of every real position and no attention mask is needed. Parameters have Llama's
//! names whatever the family ([`crate::family::Family::disk_name`] has the others).

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rlhf_core::contract::PolicyModel;

use crate::architecture::{Architecture, Bias, HeadKind, Positions};
use crate::block::Block;
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
        rlhf_kernels::softcap(logits, self.model.architecture.logit_softcap)
    }

    /// Log-probabilities at `temperature` of one token a hidden state: `hidden [M, hidden]`, `targets
    /// [M]`, result `[M]`, in nats. A plain head goes through [`rlhf_kernels::head_logp`], which says what of the logits
    /// is held; one with an adapter makes them all.
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
        flat(self.model.hidden(tokens))
    }

    /// As [`Decoder::flat_hidden`], through the blocks of these indices only, in the order given.
    ///
    /// # Panics
    /// As [`Trunk::hidden_through`].
    #[track_caller]
    pub fn flat_hidden_through(&self, tokens: Tensor<2, Int>, blocks: &[usize]) -> Tensor<2> {
        flat(self.model.hidden_through(tokens, blocks))
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

fn flat(hidden: Tensor<3>) -> Tensor<2> {
    let [b, t, d] = hidden.dims();
    hidden.reshape([b * t, d])
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
            h = self.layers[i].forward(h, &turns);
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
            h = self.layers[i].forward_cached(h, slot, cache, &mut step);
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
