//! A decoder's parameters as the engine reads them: adapters merged, maps in panels.

use burn::module::Param;
use burn::tensor::Tensor;
use rayon::prelude::*;
use rlhf_kernels::slice;

use crate::architecture::{Architecture, LayerPlan, NormKind, QkvLayout};
use crate::attention::Attention;
use crate::block::Block;
use crate::decoder::Decoder;
use crate::lora::Lora;
use crate::projection::{Norm, Projection, TiedAdapter};

use super::kernel::{Map, WIDTH};

/// A norm's numbers.
#[derive(Debug)]
pub(super) struct HostNorm {
    kind: NormKind,
    gain: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

/// One block.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) plan: LayerPlan,
    pub(super) before_attention: HostNorm,
    /// Queries of all heads, then keys, then values.
    pub(super) qkv: Map,
    pub(super) q_norm: Option<HostNorm>,
    pub(super) k_norm: Option<HostNorm>,
    pub(super) o: Map,
    /// `post_attention_layernorm`, wherever it stands.
    pub(super) second: HostNorm,
    pub(super) before_mlp: Option<HostNorm>,
    pub(super) after_mlp: Option<HostNorm>,
    pub(super) gate: Option<Map>,
    pub(super) up: Map,
    pub(super) down: Map,
}

/// All parameters that a pass through some blocks reads.
#[derive(Debug)]
pub(super) struct Weights {
    /// `[V, hidden]`.
    pub(super) embedding: Vec<f32>,
    /// `[positions, hidden]`; empty where positions are not learned.
    pub(super) places: Vec<f32>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: HostNorm,
    pub(super) head: Map,
}

impl Weights {
    pub(super) fn read(model: &Decoder, layers: &[usize]) -> Self {
        let trunk = &model.model;
        let like = trunk.architecture();
        let table = &trunk.embed_tokens;
        let embedding = merged(&table.weight, table.lora.as_ref());
        let head = match (&model.lm_head, &table.head, table.tied) {
            (Some(head), ..) => linear(head),
            // The head's own adapter lies the other way round: (A B)ᵀ = Bᵀ Aᵀ.
            (None, Some(own), _) => {
                let turned_one = [own.b.val(), own.a.val()].map(|x| host(x.transpose()));
                turned(&changed(&table.weight, turned_one, own.scale))
            }
            (None, None, TiedAdapter::Shared) => turned(&embedding),
            (None, None, TiedAdapter::Separate) => turned(&merged(&table.weight, None)),
        };
        let places = &trunk.embed_positions;
        Self {
            places: places
                .as_ref()
                .map_or_else(Vec::new, |places| merged(&places.weight, places.lora.as_ref()).data),
            layers: layers.iter().map(|i| Layer::read(&trunk.layers[*i], like, like.layers[*i])).collect(),
            norm: HostNorm::read(&trunk.norm, like),
            embedding: embedding.data,
            head,
        }
    }
}

impl Layer {
    fn read(block: &Block, like: &Architecture, plan: LayerPlan) -> Self {
        let norm = |n: &Norm| HostNorm::read(n, like);
        let attention = &block.self_attn;
        Self {
            plan,
            before_attention: norm(&block.input_layernorm),
            qkv: qkv(attention, like),
            q_norm: attention.q_norm.as_ref().map(norm),
            k_norm: attention.k_norm.as_ref().map(norm),
            o: linear(&attention.o_proj),
            second: norm(&block.post_attention_layernorm),
            before_mlp: block.pre_feedforward_layernorm.as_ref().map(norm),
            after_mlp: block.post_feedforward_layernorm.as_ref().map(norm),
            gate: block.mlp.gate_proj.as_ref().map(linear),
            up: linear(&block.mlp.up_proj),
            down: linear(&block.mlp.down_proj),
        }
    }
}

impl HostNorm {
    fn read(norm: &Norm, like: &Architecture) -> Self {
        Self {
            kind: like.norm,
            gain: host(norm.gain()),
            bias: norm.bias.as_ref().map_or_else(Vec::new, |b| host(b.val())),
            epsilon: like.norm_eps as f32,
        }
    }

    /// Numbers of a row.
    pub(super) fn width(&self) -> usize {
        self.gain.len()
    }

    /// One row.
    pub(super) fn row(&self, x: &[f32], out: &mut [f32]) {
        if self.kind == NormKind::Layer {
            let affine = slice::Affine { weight: &self.gain, bias: &self.bias };
            slice::layer_norm_row(x, affine, self.epsilon, out);
        } else {
            slice::rms_norm_row(x, &self.gain, self.epsilon, out);
        }
    }
}

/// A matrix `[rows, columns]`, row after row.
struct Dense {
    columns: usize,
    data: Vec<f32>,
}

/// Columns of one of several matrices.
#[derive(Clone, Copy)]
struct Run {
    matrix: usize,
    from: usize,
    len: usize,
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

/// `W + s A B`.
fn merged(weight: &Param<Tensor<2>>, lora: Option<&Lora>) -> Dense {
    match lora {
        Some(lora) => changed(weight, [host(lora.a.val()), host(lora.b.val())], lora.scale),
        None => {
            let weight = weight.val();
            Dense { columns: weight.dims()[1], data: host(weight) }
        }
    }
}

/// `W + scale · A B` with `[A, B]` as numbers.
fn changed(weight: &Param<Tensor<2>>, [a, b]: [Vec<f32>; 2], scale: f64) -> Dense {
    let mut all = merged(weight, None);
    let columns = all.columns;
    all.data.par_chunks_mut(columns).zip(a.par_chunks(b.len() / columns)).for_each(|(row, a)| {
        for (a, b) in a.iter().zip(b.chunks(columns)) {
            slice::add_scaled(row, scale as f32 * a, b);
        }
    });
    all
}

fn bias_of(map: &Projection) -> Vec<f32> {
    map.bias.as_ref().map_or_else(Vec::new, |b| host(b.val()))
}

fn linear(map: &Projection) -> Map {
    let weight = merged(&map.weight, map.lora.as_ref());
    let all = Run { matrix: 0, from: 0, len: weight.columns };
    pack(&[weight], &[bias_of(map)], &[all])
}

/// Queries, keys and values as one map, in that order.
fn qkv(attention: &Attention, like: &Architecture) -> Map {
    if let Some(map) = &attention.qkv_proj {
        let weight = merged(&map.weight, map.lora.as_ref());
        let d = like.head_dim;
        let runs: Vec<Run> = match like.qkv {
            QkvLayout::Interleaved => (0..3)
                .flat_map(|part| (0..like.num_attention_heads).map(move |head| (3 * head + part) * d))
                .map(|from| Run { matrix: 0, from, len: d })
                .collect(),
            QkvLayout::Concatenated | QkvLayout::Separate => {
                vec![Run { matrix: 0, from: 0, len: weight.columns }]
            }
        };
        return pack(&[weight], &[bias_of(map)], &runs);
    }
    let maps = [&attention.q_proj, &attention.k_proj, &attention.v_proj];
    let maps: Vec<&Projection> = maps.into_iter().flatten().collect();
    assert_eq!(maps.len(), 3, "engine: attention has one map or three");
    let weights: Vec<Dense> = maps.iter().map(|m| merged(&m.weight, m.lora.as_ref())).collect();
    let biases: Vec<Vec<f32>> = maps.iter().map(|m| bias_of(m)).collect();
    let runs: Vec<Run> =
        weights.iter().enumerate().map(|(matrix, w)| Run { matrix, from: 0, len: w.columns }).collect();
    pack(&weights, &biases, &runs)
}

/// The columns that `runs` name, in that order, in panels.
fn pack(matrices: &[Dense], biases: &[Vec<f32>], runs: &[Run]) -> Map {
    let inputs = matrices[0].data.len() / matrices[0].columns;
    let outputs = runs.iter().map(|run| run.len).sum::<usize>();
    let pieces = cut(runs);
    let mut panels = vec![0.0; pieces.len() * inputs * WIDTH];
    panels.par_chunks_mut(inputs * WIDTH).zip(&pieces).for_each(|(panel, pieces)| {
        let mut to = 0;
        for piece in pieces {
            let Dense { columns, data } = &matrices[piece.matrix];
            for (line, row) in panel.chunks_exact_mut(WIDTH).zip(data.chunks_exact(*columns)) {
                line[to..to + piece.len].copy_from_slice(&row[piece.from..piece.from + piece.len]);
            }
            to += piece.len;
        }
    });
    let mut bias = Vec::new();
    if biases.iter().any(|b| !b.is_empty()) {
        for run in runs {
            bias.extend_from_slice(&biases[run.matrix][run.from..run.from + run.len]);
        }
        bias.resize(pieces.len() * WIDTH, 0.0);
    }
    Map { inputs, outputs, panels, bias }
}

/// The runs of each panel.
fn cut(runs: &[Run]) -> Vec<Vec<Run>> {
    let mut panels: Vec<Vec<Run>> = Vec::new();
    let mut room = 0;
    for run in runs {
        let mut left = *run;
        while left.len > 0 {
            if room == 0 {
                panels.push(Vec::new());
                room = WIDTH;
            }
            let len = left.len.min(room);
            panels.last_mut().expect("pushed").push(Run { len, ..left });
            (left.from, left.len, room) = (left.from + len, left.len - len, room - len);
        }
    }
    panels
}

/// The embedding as an output projection.
fn turned(table: &Dense) -> Map {
    let (inputs, outputs) = (table.columns, table.data.len() / table.columns);
    let mut panels = vec![0.0; outputs.div_ceil(WIDTH) * inputs * WIDTH];
    panels.par_chunks_mut(inputs * WIDTH).zip(table.data.par_chunks(inputs * WIDTH)).for_each(
        |(panel, rows)| {
            for (to, row) in rows.chunks_exact(inputs).enumerate() {
                for (line, x) in panel.chunks_exact_mut(WIDTH).zip(row) {
                    line[to] = *x;
                }
            }
        },
    );
    Map { inputs, outputs, panels, bias: Vec::new() }
}
