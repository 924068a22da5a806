//! Sums and means of what a mask lets through, and the normalisers that papers differ in.
//!
//! Whatever stands behind the mask, NaN included, changes neither a value nor a gradient: masked
//! entries are replaced, not multiplied by zero.
//!
//! ```
//! use rlhf_core::mask::{Normalise, normalise_scalar};
//!
//! // Two sequences of 3 and 1 tokens, the loss of each token.
//! let loss: [&[f64]; 2] = [&[1.0, 2.0, 3.0], &[6.0]];
//! let mask: [&[bool]; 2] = [&[true; 3], &[true]];
//! let of = |how| normalise_scalar(how, &loss, &mask);
//! assert_eq!(of(Normalise::TokenMean), 3.0); // 12 / 4
//! assert_eq!(of(Normalise::SequenceMean), 4.0); // (2 + 6) / 2
//! ```

use serde::{Deserialize, Serialize};

use crate::number::Positive;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{lengths, masked, normalise, per_token, sequence_mean, sequence_sum};

/// What a batch's summed loss is divided by. In this field the normaliser is part of the algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// The batch's own tokens: Σ loss / n tokens. Changes when a batch is cut into micro-batches.
    TokenMean,
    /// Each sequence's mean, then the mean over all sequences; one without tokens counts as 0.
    SequenceMean,
    /// As [`SequenceMean`](Self::SequenceMean), but over the sequences that have a token.
    ActiveSequenceMean,
    /// A number known before the batch is cut: the tokens of the whole optimiser step, or
    /// sequences · longest completion. Any cut into micro-batches then gives the same gradient.
    SumOver(Positive),
}

/// Sum of the entries that the mask lets through.
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn sequence_sum_scalar<R: Real>(x: &[R], mask: &[bool]) -> R {
    assert_eq!(x.len(), mask.len(), "sequence_sum: values and mask differ in length");
    x.iter().zip(mask).filter(|(_, on)| **on).map(|(x, _)| *x).sum()
}

/// Mean of the entries that the mask lets through; 0 where there is none.
///
/// # Panics
/// On slices of different lengths.
#[track_caller]
pub fn sequence_mean_scalar<R: Real>(x: &[R], mask: &[bool]) -> R {
    sequence_sum_scalar(x, mask) / count(mask).max(1) as f64
}

/// A batch's loss from those of its tokens: the definition of [`normalise`].
///
/// # Panics
/// On rows of different lengths, an empty batch, or a mean over tokens or active sequences where
/// there are none.
#[track_caller]
pub fn normalise_scalar<R: Real>(how: Normalise, loss: &[&[R]], mask: &[&[bool]]) -> R {
    assert!(!loss.is_empty(), "normalise: loss: expected at least one sequence, found none");
    assert_eq!(loss.len(), mask.len(), "normalise: loss and mask differ in rows");
    let rows = || loss.iter().zip(mask);
    let active = mask.iter().filter(|m| count(m) > 0).count();
    if matches!(how, Normalise::TokenMean | Normalise::ActiveSequenceMean) {
        assert!(active > 0, "normalise: mask: expected a true position, found none");
    }
    let sum = |of: fn(&[R], &[bool]) -> R| rows().map(|(x, m)| of(x, m)).sum::<R>();
    match how {
        Normalise::TokenMean => {
            sum(sequence_sum_scalar) / mask.iter().map(|m| count(m)).sum::<usize>() as f64
        }
        Normalise::SequenceMean => sum(sequence_mean_scalar) / loss.len() as f64,
        Normalise::ActiveSequenceMean => sum(sequence_mean_scalar) / active as f64,
        Normalise::SumOver(n) => sum(sequence_sum_scalar) / n.get(),
    }
}

fn count(mask: &[bool]) -> usize {
    mask.iter().filter(|on| **on).count()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Bool, Tensor};

    use super::Normalise;
    use crate::shape::{filled, same};

    /// `x` with zeros where the mask is false.
    ///
    /// # Shapes
    /// Both and the result are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn masked(name: &str, x: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<2> {
        filled(name, "values", x.dims());
        same(name, "mask", mask.dims(), x.dims());
        x.mask_fill(mask.clone().bool_not(), 0.0)
    }

    /// Sum over the tokens that the mask lets through: the log-probability of a sequence from those
    /// of its tokens.
    ///
    /// From a model's logits to a loss, in a project of one's own:
    ///
    /// ```
    /// use burn::tensor::{Bool, Int, Tensor};
    /// use rlhf_core::logp::token_logp;
    /// use rlhf_core::loss::dpo::{DpoConfig, dpo};
    /// use rlhf_core::mask::sequence_sum;
    ///
    /// /// log π(completion | prompt) of each row, `[B]`. `logits: [B, T, V]`, of which position t
    /// /// predicts token t + 1; `completion` is true at completion tokens.
    /// fn completion_logp(logits: Tensor<3>, tokens: Tensor<2, Int>, completion: Tensor<2, Bool>) -> Tensor<1> {
    ///     let [b, t, v] = logits.dims();
    ///     let logits = logits.narrow(1, 0, t - 1).reshape([b * (t - 1), v]);
    ///     let targets = tokens.narrow(1, 1, t - 1).reshape([b * (t - 1)]);
    ///     let logp = token_logp(logits, targets).reshape([b, t - 1]);
    ///     sequence_sum(logp, &completion.narrow(1, 1, t - 1))
    /// }
    ///
    /// fn loss(config: DpoConfig, policy: [Tensor<1>; 2], reference: [Tensor<1>; 2]) -> Tensor<1> {
    ///     dpo(config, policy, reference).loss.mean() // chosen, rejected; the mean is yours to choose
    /// }
    /// ```
    ///
    /// # Shapes
    /// `x` and `mask` are `[B, T]`, the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn sequence_sum(x: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        let [b, _] = x.dims();
        masked("sequence_sum", x, mask).sum_dim(1).reshape([b])
    }

    /// Mean over the tokens that the mask lets through; 0 where there is none.
    ///
    /// # Shapes
    /// `x` and `mask` are `[B, T]`, the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn sequence_mean(x: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        sequence_sum(x, mask) / lengths(mask).clamp_min(1.0)
    }

    /// Tokens of each sequence.
    ///
    /// # Shapes
    /// `mask: [B, T]`, the result is `[B]`.
    pub fn lengths(mask: &Tensor<2, Bool>) -> Tensor<1> {
        let [b, _] = mask.dims();
        mask.clone().float().sum_dim(1).reshape([b])
    }

    /// One number a sequence, repeated for each of its tokens: an advantage, a sequence's ratio.
    ///
    /// # Shapes
    /// `x: [B]`, the result is `[B, t]`.
    pub fn per_token(x: Tensor<1>, t: usize) -> Tensor<2> {
        let [b] = x.dims();
        x.reshape([b, 1]).expand([b, t])
    }

    /// A batch's loss from those of its tokens, `[1]`.
    ///
    /// # Shapes
    /// `loss` and `mask` are `[B, T]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes. A mask without a true position gives 0 / 0 = NaN under
    /// a mean over tokens or active sequences: whoever builds the batch refuses it.
    #[track_caller]
    pub fn normalise(how: Normalise, loss: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<1> {
        let [b, _] = loss.dims();
        let loss = masked("normalise", loss, mask);
        let mean_of_each = |loss: Tensor<2>| loss.sum_dim(1).reshape([b]) / lengths(mask).clamp_min(1.0);
        match how {
            Normalise::TokenMean => loss.sum() / lengths(mask).sum(),
            Normalise::SequenceMean => mean_of_each(loss).sum().div_scalar(b as f64),
            Normalise::ActiveSequenceMean => {
                let active = lengths(mask).greater_elem(0.0).float().sum();
                mean_of_each(loss).sum() / active
            }
            Normalise::SumOver(n) => loss.sum().div_scalar(n.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three sequences of 2, 3 and 1 tokens.
    fn four_ways(how: Normalise) -> f64 {
        let loss: [&[f64]; 3] = [&[1.0, 2.0, f64::NAN], &[3.0, 4.0, 5.0], &[7.0, f64::NAN, f64::NAN]];
        let mask: [&[bool]; 3] = [&[true, true, false], &[true; 3], &[true, false, false]];
        normalise_scalar(how, &loss, &mask)
    }

    #[test]
    fn four_reductions_of_one_batch() {
        let over = |n: f64| Normalise::SumOver(Positive::new(n).expect("positive"));
        assert!((four_ways(Normalise::TokenMean) - 22.0 / 6.0).abs() < 1e-15);
        assert!((four_ways(Normalise::SequenceMean) - (1.5 + 4.0 + 7.0) / 3.0).abs() < 1e-15);
        assert!((four_ways(over(3.0)) - 22.0 / 3.0).abs() < 1e-15);
        assert!((four_ways(over(9.0)) - 22.0 / 9.0).abs() < 1e-15);
    }

    #[test]
    fn a_sequence_without_tokens_counts_or_not_by_name() {
        let loss: [&[f64]; 2] = [&[1.0, 3.0], &[5.0, 7.0]];
        let mask: [&[bool]; 2] = [&[true, true], &[false, false]];
        let of = |how| normalise_scalar(how, &loss, &mask);
        assert!((of(Normalise::ActiveSequenceMean) - 2.0).abs() < 1e-15);
        assert!((of(Normalise::SequenceMean) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn a_sum_over_a_known_number_may_be_of_nothing() {
        // A micro-batch that lost all its completions to a filter is no fault of the step.
        let over = Normalise::SumOver(Positive::new(4.0).expect("positive"));
        assert!(normalise_scalar::<f64>(over, &[&[1.0]], &[&[false]]).abs() <= 0.0);
    }

    #[test]
    #[should_panic(expected = "normalise: mask: expected a true position, found none")]
    fn a_mean_over_nothing() {
        let _ = normalise_scalar(Normalise::TokenMean, &[&[1.0]], &[&[false]]);
    }
}
