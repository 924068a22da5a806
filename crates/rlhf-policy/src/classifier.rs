//! A decoder trunk with a linear head on its last real token: a reward model where the head has one
//! row, a classifier where it has more.
//!
//! ```text
//! r(x) = W h_last(x)
//! ```
//!
//! The last real token is the last one that is not `pad_token_id` of `config.json`, as in `transformers`: where
//! the end token pads too, a row that ends with it is read one token earlier.
//!
//! Rows are padded on the right to a multiple of [`COLUMN_BLOCK`] and never scored alone in a
//! batch of one, so a row's sums have one shape whatever stands beside it: its score is the same
//! to the bit alone and in any batch on the CPU devices.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::cache::COLUMN_BLOCK;
use crate::config::DecoderConfig;
use crate::decoder::{Source, Trunk};
use crate::error::Error;
use crate::weights::transpose;

/// Trunk and head. Field names are those of the Hugging Face checkpoint.
#[derive(Module, Debug)]
pub struct Classifier {
    /// The decoder without its language-model head.
    pub model: Trunk,
    /// The head, without bias.
    pub score: Score,
    #[module(skip)]
    padding: Option<u32>,
}

/// `[labels, hidden]` weights of the head.
#[derive(Module, Debug)]
pub struct Score {
    /// `[hidden, labels]` in Burn's layout.
    pub weight: Param<Tensor<2>>,
}

impl Classifier {
    /// Builds a reward model on `device` with parameters from `source`.
    ///
    /// # Errors
    /// Whatever `source` answers for a tensor it cannot give.
    pub fn build(config: &DecoderConfig, source: &mut Source<'_>, device: &Device) -> Result<Self, Error> {
        Self::with_labels(config, 1, source, device)
    }

    /// Builds a classifier with so many labels.
    ///
    /// # Errors
    /// Whatever `source` answers for a tensor it cannot give.
    pub fn with_labels(
        config: &DecoderConfig,
        labels: usize,
        source: &mut Source<'_>,
        device: &Device,
    ) -> Result<Self, Error> {
        let model = Trunk::build(config, source, device)?;
        let d = config.hidden_size();
        let weight = transpose(&source("score.weight", &[labels, d])?, labels, d);
        let data = TensorData::new(weight, [d, labels]);
        let padding = config.token_ids("pad_token_id").first().copied();
        Ok(Self { model, score: Score { weight: Param::from_data(data, device) }, padding })
    }

    /// The place of the token that is read; the first where every one is padding.
    fn last_real(&self, row: &[u32]) -> usize {
        match self.padding {
            Some(pad) => row.iter().rposition(|token| *token != pad).unwrap_or(0),
            None => row.len() - 1,
        }
    }

    /// Rows of the head.
    pub fn labels(&self) -> usize {
        self.score.weight.val().dims()[1]
    }

    /// One score a row, `[B]`, with gradient if the model carries one. Rows are padded to the
    /// longest of the batch.
    ///
    /// # Panics
    /// On an empty batch, an empty row, or a head with more than one label.
    #[track_caller]
    pub fn scores(&self, rows: &[&[u32]], pad: u32) -> Tensor<1> {
        self.padded_scores(rows, pad, rows.iter().map(|r| r.len()).max().unwrap_or(0))
    }

    #[track_caller]
    fn padded_scores(&self, rows: &[&[u32]], pad: u32, t: usize) -> Tensor<1> {
        assert!(self.labels() == 1, "classifier: expected a head with one label, found {}", self.labels());
        let b = rows.len();
        self.padded_logits(rows, pad, t).reshape([b])
    }

    /// The logits of every label, `[B, labels]`, rows padded to the longest of the batch.
    ///
    /// # Panics
    /// On an empty batch or an empty row.
    #[track_caller]
    pub fn logits(&self, rows: &[&[u32]], pad: u32) -> Tensor<2> {
        self.padded_logits(rows, pad, rows.iter().map(|r| r.len()).max().unwrap_or(0))
    }

    #[track_caller]
    fn padded_logits(&self, rows: &[&[u32]], pad: u32, t: usize) -> Tensor<2> {
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
            last[i] = (i * t + self.last_real(row)) as i64;
        }
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [b, t]), &device);
        let last = Tensor::<1, Int>::from_data(TensorData::new(last, [b]), &device);
        let hidden = self.model.hidden(tokens);
        let d = hidden.dims()[2];
        let at = hidden.reshape([b * t, d]).select(0, last);
        // Product and sum instead of a matrix product with few columns, which takes other code.
        let labels = self.labels();
        let logit = |label: usize| {
            let row = self.score.weight.val().narrow(1, label, 1).reshape([1, d]);
            (at.clone() * row).sum_dim(1)
        };
        let logits = Tensor::cat((0..labels).map(logit).collect(), 1);
        logits.narrow(0, 0, rows.len())
    }

    /// One score a row without gradient, in order; the model lives on the plain device. Rows of one
    /// padded length are computed together, so that a row's sums never depend on its neighbours.
    ///
    /// # Panics
    /// On an empty row, or a head with more than one label.
    #[track_caller]
    pub fn score_rows(&self, rows: &[Vec<u32>], pad: u32, max_rows: usize) -> Vec<f64> {
        assert!(self.labels() == 1, "classifier: expected a head with one label, found {}", self.labels());
        self.logit_rows(rows, pad, max_rows).into_iter().map(|logits| logits[0]).collect()
    }

    /// As [`Classifier::score_rows`], every label's logit a row.
    ///
    /// # Panics
    /// On an empty row.
    #[track_caller]
    pub fn logit_rows(&self, rows: &[Vec<u32>], pad: u32, max_rows: usize) -> Vec<Vec<f64>> {
        let labels = self.labels();
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let padded = |i: usize| rows[i].len().next_multiple_of(COLUMN_BLOCK);
        order.sort_by_key(|i| padded(*i));
        let mut out = vec![Vec::new(); rows.len()];
        for same_length in order.chunk_by(|a, b| padded(*a) == padded(*b)) {
            for chunk in same_length.chunks(max_rows.max(1)) {
                let batch: Vec<&[u32]> = chunk.iter().map(|i| rows[*i].as_slice()).collect();
                let logits = self.padded_logits(&batch, pad, padded(chunk[0])).into_data().convert::<f64>();
                let logits: Vec<f64> = logits.try_into_vec().expect("converted to f64");
                for (i, row) in chunk.iter().zip(logits.chunks(labels)) {
                    out[*i] = row.to_vec();
                }
            }
        }
        out
    }
}
