//! From token sequences to right-padded tensors, with the scored positions picked out.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// A tokenised example: what is read, and which of it is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Prompt and completion.
    pub tokens: Vec<u32>,
    /// `true` where the token itself is a target (a completion token); same length as `tokens`.
    pub mask: Vec<bool>,
}

impl Sequence {
    /// A prompt that is read and a completion that is scored.
    pub fn new(prompt: &[u32], completion: &[u32]) -> Self {
        let mut mask = vec![false; prompt.len()];
        mask.resize(prompt.len() + completion.len(), true);
        Self { tokens: [prompt, completion].concat(), mask }
    }

    /// How many tokens are scored. The first token of a sequence never is: nothing predicts it.
    pub fn n_targets(&self) -> usize {
        self.mask.iter().skip(1).filter(|m| **m).count()
    }
}

/// A batch ready for one forward pass. `M` scored tokens stand in row order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[B, T]`, right-padded; the last token of each row is left out, since it predicts nothing.
    pub tokens: Tensor<2, Int>,
    /// `[M]`: index into the flattened `B · T` of the position that predicts each target.
    pub positions: Tensor<1, Int>,
    /// `[M]`: the target tokens.
    pub targets: Tensor<1, Int>,
    /// The row of each target, on the host.
    pub rows: Vec<usize>,
    /// How many targets each row has.
    pub counts: Vec<usize>,
}

impl Batch {
    /// Pads `sequences` with `pad` to a common length that is a multiple of `multiple`.
    ///
    /// # Panics
    /// On an empty batch, a sequence without two tokens, a mask of another length, or a batch
    /// that scores nothing: the caller drops and counts such rows.
    #[track_caller]
    pub fn new(sequences: &[&Sequence], pad: u32, multiple: usize, device: &Device) -> Self {
        assert!(!sequences.is_empty(), "batch: no sequence");
        let longest = sequences.iter().map(|s| s.tokens.len() - 1).max().unwrap_or(0);
        let t = longest.next_multiple_of(multiple.max(1));
        let mut tokens = vec![i64::from(pad); sequences.len() * t];
        let (mut positions, mut targets, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (row, s) in sequences.iter().enumerate() {
            assert!(s.tokens.len() > 1, "batch: row {row} has {} tokens, expected two", s.tokens.len());
            assert_eq!(s.tokens.len(), s.mask.len(), "batch: row {row}: tokens and mask differ");
            for (i, token) in s.tokens.iter().enumerate() {
                if i + 1 < s.tokens.len() {
                    tokens[row * t + i] = i64::from(*token);
                }
                if i > 0 && s.mask[i] {
                    positions.push((row * t + i - 1) as i64);
                    targets.push(i64::from(*token));
                    rows.push(row);
                }
            }
        }
        let m = targets.len();
        assert!(m > 0, "batch: no scored token in {} rows", sequences.len());
        Self {
            tokens: Tensor::from_data(TensorData::new(tokens, [sequences.len(), t]), device),
            positions: Tensor::from_data(TensorData::new(positions, [m]), device),
            targets: Tensor::from_data(TensorData::new(targets, [m]), device),
            counts: sequences.iter().map(|s| s.n_targets()).collect(),
            rows,
        }
    }

    /// How many tokens are scored: `M`.
    pub fn n_targets(&self) -> usize {
        self.rows.len()
    }

    /// Rows of `hidden [B · T, n]` that predict the targets: `[M, n]`.
    pub fn scored(&self, hidden: Tensor<2>) -> Tensor<2> {
        let (m, [_, n]) = (self.n_targets(), hidden.dims());
        // Rows of a table: unlike `select`, it adds up its gradient in parallel.
        rlhf_kernels::embedding(hidden, self.positions.clone().reshape([1, m])).reshape([m, n])
    }

    /// One weight a target from one weight a row, as a `[M]` tensor.
    pub fn spread(&self, row_weight: impl Fn(usize) -> f64, device: &Device) -> Tensor<1> {
        let w: Vec<f32> = self.rows.iter().map(|r| row_weight(*r) as f32).collect();
        let m = w.len();
        Tensor::from_data(TensorData::new(w, [m]), device)
    }
}
