//! What a decoder is made of, in one vocabulary for all families.
//!
//! A family's file reads its `config.json` into an [`Architecture`]; the decoder, its cache and the
//! decoding engine read nothing else. So a new family is a new way of filling this struct.

use rlhf_kernels::Activation;

use crate::rope::Rope;

/// The parts and sizes of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// V.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key–value heads, a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Most positions of a row.
    pub max_position_embeddings: usize,
    /// Standard deviation of scratch weights.
    pub initializer_range: f64,
    /// What differs between blocks, first to last.
    pub layers: Vec<LayerPlan>,
    /// A token whose embedding is never trained, even where it was sampled: `transformers` gives some
    /// families' tables a `padding_idx`.
    pub padding: Option<u32>,
    /// Rotary tables that layers refer to.
    pub ropes: Vec<Rope>,
    /// The norms.
    pub norm: NormKind,
    /// ε of the norms.
    pub norm_eps: f64,
    /// The embeddings are multiplied with it (Gemma: the root of the width).
    pub embedding_scale: f64,
    /// Whether a learned vector stands for each position (GPT-2).
    pub positions: Positions,
    /// How queries, keys and values leave their projections.
    pub qkv: QkvLayout,
    /// Whether the q, k, v projections carry a bias.
    pub qkv_bias: Bias,
    /// Whether the output projection of attention carries one.
    pub o_bias: Bias,
    /// Whether queries and keys are normed head by head before they are rotated.
    pub qk_norm: QkNorm,
    /// cap · tanh(score / cap), where there is a cap.
    pub attention_softcap: Option<f64>,
    /// cap · tanh(logit / cap), where there is a cap.
    pub logit_softcap: Option<f64>,
    /// The feed-forward part.
    pub mlp: MlpKind,
    /// Its non-linearity.
    pub activation: Activation,
    /// Whether the feed-forward projections carry a bias.
    pub mlp_bias: Bias,
    /// How a block adds its parts to the stream.
    pub residual: Residual,
    /// Where the output projection comes from.
    pub head: HeadKind,
}

/// What differs between the blocks of one decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerPlan {
    /// A query at t sees keys at s > t − window only.
    pub window: Option<usize>,
    /// Which of [`Architecture::ropes`] turns queries and keys; none where positions are learned.
    pub rope: Option<usize>,
    /// Multiplies query–key products.
    pub scale: f64,
}

/// The norm of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `w x / √(mean x² + ε)`.
    Rms,
    /// `(1 + w) x / √(mean x² + ε)`.
    RmsOffset,
    /// `w (x − mean x) / √(var x + ε) + b`.
    Layer,
}

/// Where a token learns its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// From rotated queries and keys.
    Rotary,
    /// From a table that is added to the embeddings.
    Learned,
}

/// How queries, keys and values are projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvLayout {
    /// By three maps.
    Separate,
    /// By one map, all queries first, then all keys, then all values.
    Concatenated,
    /// By one map, head by head: a head's query, key, value.
    Interleaved,
}

/// Whether a linear map carries a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// It does.
    With,
    /// It does not.
    Without,
}

impl Bias {
    /// `With` where `on`.
    pub fn when(on: bool) -> Self {
        if on { Self::With } else { Self::Without }
    }
}

/// Whether queries and keys are normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Head by head, with the decoder's own kind of norm.
    Head,
    /// Not at all.
    None,
}

/// The feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `W_down (act(W_gate x) ⊙ W_up x)`.
    Gated,
    /// `W_down act(W_up x)`.
    Plain,
}

/// How attention A and feed-forward F join the stream h, with norms n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// `h ← h + A(n₁ h);  h ← h + F(n₂ h)`.
    Sequential,
    /// `h ← h + A(n₁ h) + F(n₂ h)`.
    Parallel,
    /// `h ← h + n₂ A(n₁ h);  h ← h + n₄ F(n₃ h)`.
    Sandwich,
}

/// The output projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// The embedding.
    Tied,
    /// A map of its own.
    Untied,
}

impl Architecture {
    /// How many parameters a language model of this architecture has, a tied head counted once;
    /// none where the number does not fit.
    pub fn n_parameters(&self) -> Option<usize> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads.checked_mul(self.head_dim)?;
        let kv = self.num_key_value_heads.checked_mul(self.head_dim)?;
        let biased = |on: Bias, n: usize| if on == Bias::With { n } else { 0 };
        let norm = if self.norm == NormKind::Layer { 2 * d } else { d };
        let norms = if self.residual == Residual::Sandwich { 4 * norm } else { 2 * norm };
        let wide = q.checked_add(kv.checked_mul(2)?)?;
        let attention = d.checked_mul(wide)?.checked_add(q.checked_mul(d)?)?;
        let attention = attention
            + biased(self.qkv_bias, wide)
            + biased(self.o_bias, d)
            + if self.qk_norm == QkNorm::Head { 2 * self.head_dim } else { 0 };
        let (maps, edges) = match self.mlp {
            MlpKind::Gated => (3, 2 * f),
            MlpKind::Plain => (2, f),
        };
        let mlp = d.checked_mul(f)?.checked_mul(maps)?.checked_add(biased(self.mlp_bias, edges + d))?;
        let blocks = attention.checked_add(mlp)?.checked_add(norms)?.checked_mul(self.layers.len())?;
        let embedding = self.vocab_size.checked_mul(d)?;
        let head = if self.head == HeadKind::Untied { embedding } else { 0 };
        let places = match self.positions {
            Positions::Learned => self.max_position_embeddings.checked_mul(d)?,
            Positions::Rotary => 0,
        };
        blocks.checked_add(embedding)?.checked_add(head)?.checked_add(places)?.checked_add(norm)
    }
}
