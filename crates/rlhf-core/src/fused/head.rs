//! The head, and tiles of its logits.

use burn::tensor::Tensor;

use super::FusedConfig;

/// A language model's head: logits are `hidden · weightᵀ + bias`.
///
/// Its gradient does not come by itself: see [`HeadPass`](super::HeadPass). A head whose weight
/// needs no gradient, such as one on the plain device, is frozen. (Burn's `detach` of a leaf is a
/// leaf again; `inner` is not.)
#[derive(Debug, Clone)]
pub struct Head {
    /// `[V, H]`, as Hugging Face stores `lm_head.weight`; the embedding, where they are tied.
    pub weight: Tensor<2>,
    /// `[V]`, rarely there.
    pub bias: Option<Tensor<1>>,
}

/// Some rows of logits, or some columns.
pub(super) struct Tile {
    pub(super) z: Tensor<2>,
    /// c = 1 − tanh², where there is a cap.
    pub(super) slope: Option<Tensor<2>>,
}

/// Rows that are done together: enough that a product over one tile is worth its packing.
const ROWS: usize = 2048;

impl FusedConfig {
    /// Rows and columns of a tile: of `m` rows and `v` columns, whatever the number of threads.
    pub(super) fn shape(self, m: usize, v: usize) -> [usize; 2] {
        let rows = ROWS.min(self.tile.get()).min(m);
        [rows, (self.tile.get() / rows).clamp(1, v)]
    }

    /// `x` times what comes before the logits or the cap's tanh: cheaper on hidden rows than on logits.
    pub(super) fn scaled<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let scale = self.softcap.map_or(self.slope(), |cap| self.scale() / cap.get());
        x.mul_scalar(scale)
    }
}

impl Head {
    /// The same numbers without a graph.
    pub(super) fn inner(&self) -> Self {
        Self { weight: self.weight.clone().inner(), bias: self.bias.clone().map(Tensor::inner) }
    }

    /// The logits of `hidden`, `[rows, H]` and scaled, in front of all columns of this head.
    pub(super) fn tile(&self, config: FusedConfig, hidden: Tensor<2>) -> Tile {
        let mut y = hidden.matmul(self.weight.clone().transpose());
        if let Some(bias) = &self.bias {
            y = y + config.scaled(bias.clone()).unsqueeze::<2>();
        }
        let Some(cap) = config.softcap else { return Tile { z: y, slope: None } };
        let t = y.tanh();
        let slope = (t.clone() * t.clone()).neg().add_scalar(1.0);
        Tile { z: t.mul_scalar(cap.get() / config.temperature.get()), slope: Some(slope) }
    }

    pub(super) fn columns(&self, start: usize, n: usize) -> Self {
        Self {
            weight: self.weight.clone().narrow(0, start, n),
            bias: self.bias.clone().map(|b| b.narrow(0, start, n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::number::Positive;

    #[test]
    fn a_tile_holds_what_was_asked_for_and_no_more() {
        let shape = |tile: usize, m: usize, v: usize| {
            let tile = NonZeroUsize::new(tile).expect("not zero");
            FusedConfig { tile, ..FusedConfig::new(Positive::new(1.0).expect("positive")) }.shape(m, v)
        };
        // 4 Mi logits are 2048 rows of 2048 columns; 100 are ten rows of ten; never less than one, and
        // never more than there are.
        assert_eq!(shape(1 << 22, 4096, 32_000), [2048, 2048]);
        assert_eq!(shape(100, 10, 23), [10, 10]);
        assert_eq!(shape(8, 37, 23), [8, 1]);
        assert_eq!(shape(1000, 10, 23), [10, 23]);
    }
}
