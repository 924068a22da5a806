//! Causal attention with grouped queries.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};

use crate::architecture::{Architecture, LayerPlan, QkNorm, QkvLayout};
use crate::decoder::Source;
use crate::error::Error;
use crate::projection::{Norm, Projection};
use crate::rope::Rope;

/// The projections of attention and the norms of queries and keys. Either the three maps stand
/// alone or `qkv_proj` stands for them.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden, heads · head_dim]`.
    pub q_proj: Option<Projection>,
    /// `[hidden, kv_heads · head_dim]`.
    pub k_proj: Option<Projection>,
    /// `[hidden, kv_heads · head_dim]`.
    pub v_proj: Option<Projection>,
    /// All three as one map.
    pub qkv_proj: Option<Projection>,
    /// `[heads · head_dim, hidden]`.
    pub o_proj: Projection,
    /// Of each head's query.
    pub q_norm: Option<Norm>,
    /// Of each head's key.
    pub k_norm: Option<Norm>,
    #[module(skip)]
    layout: QkvLayout,
    #[module(skip)]
    shape: rlhf_kernels::Attention,
}

/// Queries, keys and values, heads side by side on the last axis: `[B, T, H · D]`.
struct Qkv {
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
}

/// The same with an axis of heads: `[B, H, T, D]`.
pub(crate) struct HeadQkv {
    pub(crate) q: Tensor<4>,
    pub(crate) k: Tensor<4>,
    pub(crate) v: Tensor<4>,
}

impl Attention {
    pub(crate) fn build(
        name: &str,
        like: &Architecture,
        plan: &LayerPlan,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let (d, head) = (like.hidden_size, like.head_dim);
        let (q, kv) = (like.num_attention_heads * head, like.num_key_value_heads * head);
        let separate = like.qkv == QkvLayout::Separate;
        let mut project = |part: &str, out: usize, here: bool| {
            let shape = [out, d];
            let map = || Projection::build(&format!("{name}.{part}"), shape, like.qkv_bias, source, device);
            here.then(map).transpose()
        };
        let q_proj = project("q_proj", q, separate)?;
        let k_proj = project("k_proj", kv, separate)?;
        let v_proj = project("v_proj", kv, separate)?;
        let qkv_proj = project("qkv_proj", q + 2 * kv, !separate)?;
        let o_proj = Projection::build(&format!("{name}.o_proj"), [d, q], like.o_bias, source, device)?;
        let mut normed = |part: &str| {
            let norm = || Norm::build(&format!("{name}.{part}"), head, like, source, device);
            (like.qk_norm == QkNorm::Head).then(norm).transpose()
        };
        Ok(Self {
            q_norm: normed("q_norm")?,
            k_norm: normed("k_norm")?,
            q_proj,
            k_proj,
            v_proj,
            qkv_proj,
            o_proj,
            layout: like.qkv,
            shape: rlhf_kernels::Attention {
                heads: like.num_attention_heads,
                kv_heads: like.num_key_value_heads,
                head_dim: head,
                scale: plan.scale,
                window: plan.window,
                softcap: like.attention_softcap,
            },
        })
    }

    /// What a key may be behind a query, in positions.
    pub(crate) fn window(&self) -> Option<usize> {
        self.shape.window
    }

    /// Attention over whole right-padded rows: `[B, T, hidden] -> [B, T, hidden]`. `turn` holds the
    /// rotary tables.
    pub(crate) fn forward(&self, x: Tensor<3>, turn: Option<&(Tensor<2>, Tensor<2>)>) -> Tensor<3> {
        let Qkv { q, k, v } = self.project(x);
        let (q, k) = match turn {
            Some((cos, sin)) => (
                rlhf_kernels::rope(q, self.shape.heads, cos.clone(), sin.clone()),
                rlhf_kernels::rope(k, self.shape.kv_heads, cos.clone(), sin.clone()),
            ),
            None => (q, k),
        };
        self.o_proj.forward(rlhf_kernels::attention(&self.shape, q, k, v))
    }

    /// Queries `[B, H, T, D]`, keys and values `[B, H_kv, T, D]` of the tokens that continue a cache.
    pub(crate) fn head_qkv(&self, x: Tensor<3>, turn: Option<&(Tensor<4>, Tensor<4>)>) -> HeadQkv {
        let d = self.shape.head_dim;
        let heads = |y: Tensor<3>| {
            let [b, t, width] = y.dims();
            y.reshape([b, t, width / d, d]).swap_dims(1, 2)
        };
        let Qkv { q, k, v } = self.project(x);
        let (q, k, v) = (heads(q), heads(k), heads(v));
        match turn {
            Some((cos, sin)) => HeadQkv { q: Rope::rotate(q, cos, sin), k: Rope::rotate(k, cos, sin), v },
            None => HeadQkv { q, k, v },
        }
    }

    /// Queries, keys and values, queries and keys normed.
    fn project(&self, x: Tensor<3>) -> Qkv {
        let Qkv { q, k, v } = match (&self.qkv_proj, &self.q_proj, &self.k_proj, &self.v_proj) {
            (Some(all), ..) => self.split(all.forward(x)),
            (None, Some(q), Some(k), Some(v)) => {
                Qkv { q: q.forward(x.clone()), k: k.forward(x.clone()), v: v.forward(x) }
            }
            _ => unreachable!("built with one map or with three"),
        };
        let normed = |y: Tensor<3>, norm: &Option<Norm>| match norm {
            None => y,
            Some(norm) => {
                let [b, t, width] = y.dims();
                let d = self.shape.head_dim;
                norm.forward(y.reshape([b, t, width / d, d])).reshape([b, t, width])
            }
        };
        Qkv { q: normed(q, &self.q_norm), k: normed(k, &self.k_norm), v }
    }

    fn split(&self, y: Tensor<3>) -> Qkv {
        let [b, t, _] = y.dims();
        let (h, kv, d) = (self.shape.heads, self.shape.kv_heads, self.shape.head_dim);
        if self.layout == QkvLayout::Interleaved {
            let y = y.reshape([b, t, h, 3 * d]);
            let part = |i: usize| y.clone().narrow(3, i * d, d).reshape([b, t, h * d]);
            return Qkv { q: part(0), k: part(1), v: part(2) };
        }
        let part = |from: usize, n: usize| y.clone().narrow(2, from * d, n * d);
        Qkv { q: part(0, h), k: part(h, kv), v: part(h + kv, kv) }
    }

    /// `softmax(cap(q k scale) + mask) v`, heads side by side: `[B, T, H · D]`. `k` is
    /// `[B, H_kv, D, S]`, `v` `[B, H_kv, S, D]`; `mask` is added and is `[1 or B, 1, T, S]`. Queries of
    /// one key–value group share its matrix product.
    pub(crate) fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Tensor<4>) -> Tensor<3> {
        let [b, h, t, d] = q.dims();
        let s = k.dims()[3];
        let kv = self.shape.kv_heads;
        let group = h / kv;
        let q = q.mul_scalar(self.shape.scale).reshape([b, kv, group * t, d]);
        let scores = rlhf_kernels::softcap(q.matmul(k).reshape([b, h, t, s]), self.shape.softcap);
        let weights = softmax(scores + mask.clone(), 3).reshape([b, kv, group * t, s]);
        weights.matmul(v).reshape([b, h, t, d]).swap_dims(1, 2).reshape([b, t, h * d])
    }
}
