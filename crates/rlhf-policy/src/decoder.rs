//! A Llama-style decoder: RMS norm, rotary positions, grouped-query attention, SwiGLU.
//!
//! ```text
//! h₀ = E[tokens]
//! h ← h + W_o · attention(rope(W_q n(h)), rope(W_k n(h)), W_v n(h))
//! h ← h + W_down (silu(W_gate n(h)) ⊙ W_up n(h))
//! logits = W_head n(h)            with W_head = E when the embeddings are tied
//! ```
//!
//! Rows are right-padded: position `t` of a row sits in column `t`, so the causal mask alone keeps
//! padding out of every real position and no attention mask is needed. Module and field names are
//! those of the Hugging Face checkpoint, so a parameter's path is its name on disk.

use burn::module::{Module, Param};
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rlhf_core::contract::PolicyModel;

use crate::cache::KvCache;
use crate::error::Error;
use crate::hf::DecoderConfig;
use crate::rope::Rope;

/// Where a module gets its parameters: asked once for each tensor, with its checkpoint name and
/// its shape as Hugging Face stores it (`[out, in]` for a linear map).
pub type Source<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + 'a;

/// A causal language model: the trunk and its head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding, blocks and final norm.
    pub model: Trunk,
    /// Output projection `[hidden, vocabulary]`; absent when tied to the embedding.
    pub lm_head: Option<Linear>,
}

/// Everything below the head: tokens to final hidden states.
#[derive(Module, Debug)]
pub struct Trunk {
    /// `[V, hidden]`.
    pub embed_tokens: Embedding,
    /// The blocks, first to last.
    pub layers: Vec<Block>,
    /// Norm after the last block.
    pub norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
}

/// One transformer block.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Grouped-query attention.
    pub self_attn: Attention,
    /// Norm before the feed-forward part.
    pub post_attention_layernorm: RmsNorm,
    /// SwiGLU feed-forward.
    pub mlp: Mlp,
}

/// Grouped-query attention with rotary positions.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden, heads · head_dim]`.
    pub q_proj: Linear,
    /// `[hidden, kv_heads · head_dim]`.
    pub k_proj: Linear,
    /// `[hidden, kv_heads · head_dim]`.
    pub v_proj: Linear,
    /// `[heads · head_dim, hidden]`.
    pub o_proj: Linear,
    kv_heads: usize,
    head_dim: usize,
}

/// SwiGLU: `W_down (silu(W_gate x) ⊙ W_up x)`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden, intermediate]`.
    pub gate_proj: Linear,
    /// `[hidden, intermediate]`.
    pub up_proj: Linear,
    /// `[intermediate, hidden]`.
    pub down_proj: Linear,
}

impl Decoder {
    /// Builds the model on `device` with parameters from `source`.
    ///
    /// # Errors
    /// Whatever `source` answers for a tensor it cannot give, or a config this decoder lacks.
    pub fn build(config: &DecoderConfig, source: &mut Source<'_>, device: &Device) -> Result<Self, Error> {
        let model = Trunk::build(config, source, device)?;
        let lm_head = if config.tie_word_embeddings {
            None
        } else {
            let shape = [config.vocab_size, config.hidden_size];
            Some(linear("lm_head", shape, Bias::Without, source, device)?)
        };
        Ok(Self { model, lm_head })
    }

    /// Final hidden states to logits: `[..., hidden] -> [..., V]`.
    pub fn head<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul(self.model.embed_tokens.weight.val().transpose().unsqueeze()),
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
    /// Whatever `source` answers for a tensor it cannot give, or a rotary scaling unknown here.
    pub fn build(config: &DecoderConfig, source: &mut Source<'_>, device: &Device) -> Result<Self, Error> {
        let (v, d) = (config.vocab_size, config.hidden_size);
        let weight = source("model.embed_tokens.weight", &[v, d])?;
        let embed_tokens = Embedding { weight: Param::from_data(TensorData::new(weight, [v, d]), device) };
        let layers = (0..config.num_hidden_layers)
            .map(|i| Block::build(&format!("model.layers.{i}"), config, source, device))
            .collect::<Result<_, _>>()?;
        let norm = norm("model.norm", config, source, device)?;
        let rope = Rope::new(config)?;
        Ok(Self { embed_tokens, layers, norm, rope })
    }

    /// Where the parameters live, autodiff included.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.val().device()
    }

    /// Final hidden states of right-padded rows: `tokens [B, T] -> [B, T, hidden]`.
    pub fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let device = tokens.device();
        let [_, t] = tokens.dims();
        let (cos, sin) = self.rope.tables(0, t, &device);
        let mask = causal_mask(t, &device);
        let mut h = self.embed_tokens.forward(tokens);
        for layer in &self.layers {
            h = layer.forward(h, &cos, &sin, &mask);
        }
        self.norm.forward(h)
    }

    /// Hidden states of the tokens that continue the rows of `cache`: `[B, T] -> [B, T, hidden]`.
    /// With an empty cache this is a prefill of right-padded prompts; afterwards `T` is 1 and
    /// row `i` stands at the position the cache holds for it.
    pub fn hidden_cached(&self, tokens: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<3> {
        let device = tokens.device();
        let [_, t] = tokens.dims();
        let step = cache.plan(t, &self.rope, &device);
        let mut h = self.embed_tokens.forward(tokens);
        for (i, layer) in self.layers.iter().enumerate() {
            let (q, k, v) = layer.qkv(h.clone(), &step.cos, &step.sin);
            let (k, v) = cache.append(i, k, v, &step);
            let a = layer.self_attn.attend(q, k, v, &step.mask);
            h = layer.finish(h, a);
        }
        cache.advance(t);
        self.norm.forward(h)
    }

    /// Head width and key–value heads: what a cache must hold for each position.
    pub fn cache_shape(&self) -> (usize, usize, usize) {
        let layers = self.layers.len();
        self.layers.first().map_or((0, 0, 0), |l| (layers, l.self_attn.kv_heads, l.self_attn.head_dim))
    }
}

impl Block {
    fn build(
        name: &str,
        config: &DecoderConfig,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(Self {
            input_layernorm: norm(&format!("{name}.input_layernorm"), config, source, device)?,
            self_attn: Attention::build(&format!("{name}.self_attn"), config, source, device)?,
            post_attention_layernorm: norm(
                &format!("{name}.post_attention_layernorm"),
                config,
                source,
                device,
            )?,
            mlp: Mlp::build(&format!("{name}.mlp"), config, source, device)?,
        })
    }

    fn forward(&self, h: Tensor<3>, cos: &Tensor<4>, sin: &Tensor<4>, mask: &Tensor<4>) -> Tensor<3> {
        let (q, k, v) = self.qkv(h.clone(), cos, sin);
        let a = self.self_attn.attend(q, k.swap_dims(2, 3), v, mask);
        self.finish(h, a)
    }

    fn qkv(&self, h: Tensor<3>, cos: &Tensor<4>, sin: &Tensor<4>) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        self.self_attn.qkv(self.input_layernorm.forward(h), cos, sin)
    }

    fn finish(&self, h: Tensor<3>, attention: Tensor<3>) -> Tensor<3> {
        let h = h + self.self_attn.o_proj.forward(attention);
        let x = self.post_attention_layernorm.forward(h.clone());
        h + self.mlp.forward(x)
    }
}

impl Attention {
    fn build(
        name: &str,
        config: &DecoderConfig,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let d = config.hidden_size;
        let head_dim = config.head_dim();
        let q = config.num_attention_heads * head_dim;
        let kv = config.kv_heads() * head_dim;
        let bias = Bias::when(config.attention_bias);
        let mut project = |part: &str, shape| linear(&format!("{name}.{part}"), shape, bias, source, device);
        Ok(Self {
            q_proj: project("q_proj", [q, d])?,
            k_proj: project("k_proj", [kv, d])?,
            v_proj: project("v_proj", [kv, d])?,
            o_proj: project("o_proj", [d, q])?,
            kv_heads: config.kv_heads(),
            head_dim,
        })
    }

    /// Queries `[B, H, T, D]`, keys and values `[B, H_kv, T, D]`, queries and keys rotated.
    fn qkv(&self, x: Tensor<3>, cos: &Tensor<4>, sin: &Tensor<4>) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let heads = |y: Tensor<3>| {
            let [b, t, width] = y.dims();
            y.reshape([b, t, width / self.head_dim, self.head_dim]).swap_dims(1, 2)
        };
        let q = heads(self.q_proj.forward(x.clone()));
        let k = heads(self.k_proj.forward(x.clone()));
        let v = heads(self.v_proj.forward(x));
        (Rope::rotate(q, cos, sin), Rope::rotate(k, cos, sin), v)
    }

    /// `softmax(q k / √D + mask) v`, heads side by side: `[B, T, H · D]`. `k` is `[B, H_kv, D, S]`, `v`
    /// `[B, H_kv, S, D]`; `mask` is added and is `[1 or B, 1, T, S]`. Queries of one key–value group
    /// share its matrix product.
    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Tensor<4>) -> Tensor<3> {
        let [b, h, t, d] = q.dims();
        let s = k.dims()[3];
        let group = h / self.kv_heads;
        let q = q.mul_scalar(1.0 / (d as f64).sqrt()).reshape([b, self.kv_heads, group * t, d]);
        let scores = q.matmul(k).reshape([b, h, t, s]) + mask.clone();
        let weights = softmax(scores, 3).reshape([b, self.kv_heads, group * t, s]);
        weights.matmul(v).reshape([b, h, t, d]).swap_dims(1, 2).reshape([b, t, h * d])
    }
}

impl Mlp {
    fn build(
        name: &str,
        config: &DecoderConfig,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let bias = Bias::when(config.mlp_bias);
        let mut project = |part: &str, shape| linear(&format!("{name}.{part}"), shape, bias, source, device);
        Ok(Self {
            gate_proj: project("gate_proj", [f, d])?,
            up_proj: project("up_proj", [f, d])?,
            down_proj: project("down_proj", [d, f])?,
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = silu(self.gate_proj.forward(x.clone()));
        self.down_proj.forward(gate * self.up_proj.forward(x))
    }
}

/// Whether a linear map carries a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bias {
    With,
    Without,
}

impl Bias {
    fn when(on: bool) -> Self {
        if on { Self::With } else { Self::Without }
    }
}

/// A linear map from a checkpoint's `[out, in]` weight; Burn holds it as `[in, out]`.
pub(crate) fn linear(
    name: &str,
    shape: [usize; 2],
    bias: Bias,
    source: &mut Source<'_>,
    device: &Device,
) -> Result<Linear, Error> {
    let [out, inp] = shape;
    let weight = transpose(&source(&format!("{name}.weight"), &shape)?, out, inp);
    let bias = match bias {
        Bias::With => {
            let data = TensorData::new(source(&format!("{name}.bias"), &[out])?, [out]);
            Some(Param::from_data(data, device))
        }
        Bias::Without => None,
    };
    Ok(Linear { weight: Param::from_data(TensorData::new(weight, [inp, out]), device), bias })
}

fn norm(
    name: &str,
    config: &DecoderConfig,
    source: &mut Source<'_>,
    device: &Device,
) -> Result<RmsNorm, Error> {
    let d = config.hidden_size;
    let weight = source(&format!("{name}.weight"), &[d])?;
    Ok(RmsNorm {
        gamma: Param::from_data(TensorData::new(weight, [d]), device),
        epsilon: config.rms_norm_eps,
    })
}

/// Row-major `[rows, cols]` to `[cols, rows]`.
pub(crate) fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for r in 0..rows {
        for c in 0..cols {
            out[c * rows + r] = x[r * cols + c];
        }
    }
    out
}

/// `[1, 1, T, T]`: 0 where a key may be seen, −∞ where it lies in the future.
fn causal_mask(t: usize, device: &Device) -> Tensor<4> {
    let mut mask = vec![0.0f32; t * t];
    for q in 0..t {
        mask[q * t + q + 1..(q + 1) * t].fill(f32::NEG_INFINITY);
    }
    Tensor::from_data(TensorData::new(mask, [1, 1, t, t]), device)
}
