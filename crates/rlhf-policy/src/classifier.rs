//! A decoder trunk with a scalar head on its last real token: `LlamaForSequenceClassification`.
//!
//! ```text
//! r(x) = w · h_last(x)
//! ```
//!
//! Rows are padded on the right to a multiple of [`COLUMN_BLOCK`] and never scored alone in a
//! batch of one, so a row's sums have one shape whatever stands beside it: its score is the same
//! to the bit alone and in any batch on the CPU devices.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::cache::COLUMN_BLOCK;
use crate::decoder::{Source, Trunk};
use crate::error::Error;
use crate::hf::DecoderConfig;

/// Trunk and head. Field names are those of the Hugging Face checkpoint.
#[derive(Module, Debug)]
pub struct Classifier {
    /// The decoder without its language-model head.
    pub model: Trunk,
    /// The head, without bias.
    pub score: Score,
}

/// `[1, hidden]` weights of the scalar head.
#[derive(Module, Debug)]
pub struct Score {
    /// `[hidden, 1]` in Burn's layout.
    pub weight: Param<Tensor<2>>,
}

impl Classifier {
    /// Builds the model on `device` with parameters from `source`.
    ///
    /// # Errors
    /// Whatever `source` answers for a tensor it cannot give.
    pub fn build(config: &DecoderConfig, source: &mut Source<'_>, device: &Device) -> Result<Self, Error> {
        let model = Trunk::build(config, source, device)?;
        let weight = source("score.weight", &[1, config.hidden_size])?;
        let data = TensorData::new(weight, [config.hidden_size, 1]);
        Ok(Self { model, score: Score { weight: Param::from_data(data, device) } })
    }

    /// One score a row, `[B]`, with gradient if the model carries one. Rows are padded to the
    /// longest of the batch.
    ///
    /// # Panics
    /// On an empty batch or an empty row.
    #[track_caller]
    pub fn scores(&self, rows: &[&[u32]], pad: u32) -> Tensor<1> {
        self.padded_scores(rows, pad, rows.iter().map(|r| r.len()).max().unwrap_or(0))
    }

    #[track_caller]
    fn padded_scores(&self, rows: &[&[u32]], pad: u32, t: usize) -> Tensor<1> {
        let device = self.model.device();
        assert!(!rows.is_empty(), "classifier: no row");
        // A second row keeps the matrix products on one code path; its score is dropped.
        let b = rows.len().max(2);
        let mut tokens = vec![i64::from(pad); b * t];
        let mut last = vec![0i64; b];
        for (i, row) in rows.iter().enumerate() {
            assert!(!row.is_empty(), "classifier: row {i} is empty");
            for (j, token) in row.iter().enumerate() {
                tokens[i * t + j] = i64::from(*token);
            }
            last[i] = (i * t + row.len() - 1) as i64;
        }
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [b, t]), &device);
        let last = Tensor::<1, Int>::from_data(TensorData::new(last, [b]), &device);
        let hidden = self.model.hidden(tokens);
        let d = hidden.dims()[2];
        let at = hidden.reshape([b * t, d]).select(0, last);
        // Product and sum instead of a matrix product with one column, which takes other code.
        let head = self.score.weight.val().reshape([1, d]);
        (at * head).sum_dim(1).reshape([b]).narrow(0, 0, rows.len())
    }

    /// One score a row without gradient, in order; the model lives on the plain device. Rows of one
    /// padded length are computed together, so that a row's sums never depend on its neighbours.
    ///
    /// # Panics
    /// On an empty row.
    #[track_caller]
    pub fn score_rows(&self, rows: &[Vec<u32>], pad: u32, max_rows: usize) -> Vec<f64> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let padded = |i: usize| rows[i].len().next_multiple_of(COLUMN_BLOCK);
        order.sort_by_key(|i| padded(*i));
        let mut out = vec![0.0; rows.len()];
        for same_length in order.chunk_by(|a, b| padded(*a) == padded(*b)) {
            for chunk in same_length.chunks(max_rows.max(1)) {
                let batch: Vec<&[u32]> = chunk.iter().map(|i| rows[*i].as_slice()).collect();
                let scores = self.padded_scores(&batch, pad, padded(chunk[0])).into_data().convert::<f64>();
                for (i, score) in chunk.iter().zip(scores.iter::<f64>()) {
                    out[*i] = score;
                }
            }
        }
        out
    }
}
