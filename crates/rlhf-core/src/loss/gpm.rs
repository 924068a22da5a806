//! General preference model: skew-symmetric scores of embeddings, and their Bradley–Terry loss.
//!
//! ```text
//! s(a ≻ b) = ⟨R a, b⟩ = Σ_l (a_{2l} b_{2l+1} − a_{2l+1} b_{2l})          ℓ = −log σ(s(y⁺ ≻ y⁻) / τ)
//! ```
//!
//! Where: a and b are rows of embeddings of 2k numbers, entries from 0; R is block-diagonal with k
//! blocks [[0, −1], [1, 0]]; y⁺ and y⁻ are `chosen` and `rejected`; τ is `tau`.
//! Paper: Zhang et al., *Beyond Bradley-Terry Models: A General Preference Model for Language Model
//! Alignment*, arXiv:2410.02197, in words (preference representations).
//! Departures: the paper's prompt-dependent scale of each block is left to the caller: √λ_l times
//! both columns of block l, in both embeddings.
//! Detached: the result's score.

use serde::{Deserialize, Serialize};

use crate::number::Positive;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::{GpmLoss, gpm, gpm_score};

/// Numbers of [`gpm`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpmConfig {
    /// τ: P(a ≻ b) = σ(s/τ). 0.1 in the authors' released runs.
    pub tau: Positive,
}

/// s(a ≻ b) of two embeddings: the definition of [`gpm_score`].
///
/// ```
/// use rlhf_core::loss::gpm::gpm_score_scalar;
///
/// // One block: 3 · 5 − 2 · 4.
/// assert!((gpm_score_scalar(&[3.0, 2.0f64], &[4.0, 5.0]) - 7.0).abs() < 1e-15);
/// ```
///
/// # Panics
/// On embeddings of different or odd lengths.
pub fn gpm_score_scalar<R: Real>(a: &[R], b: &[R]) -> R {
    assert_eq!(a.len(), b.len(), "gpm_score: the embeddings differ in length");
    assert!(a.len().is_multiple_of(2), "gpm_score: expected an even length, found {}", a.len());
    a.chunks_exact(2).zip(b.chunks_exact(2)).map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum()
}

/// One pair's loss: the definition of [`gpm`].
///
/// # Panics
/// On embeddings of different or odd lengths.
pub fn gpm_scalar<R: Real>(config: GpmConfig, chosen: &[R], rejected: &[R]) -> R {
    -(gpm_score_scalar(chosen, rejected) / config.tau.get()).log_sigmoid()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;

    use super::GpmConfig;
    use crate::elementwise::log_sigmoid;
    use crate::shape::{filled, same};

    /// What [`gpm`] gives.
    #[derive(Debug, Clone)]
    pub struct GpmLoss {
        /// `[B]`.
        pub loss: Tensor<1>,
        /// `[B]`: s(chosen ≻ rejected), not divided by τ; above 0 where the model agrees. Detached.
        pub score: Tensor<1>,
    }

    /// s(a ≻ b) of each row.
    ///
    /// # Shapes
    /// `a` and `b` are `[B, 2k]`, the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis, different shapes or an odd number of columns.
    #[track_caller]
    pub fn gpm_score(a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
        of("gpm_score", ["a", "b"], a, b)
    }

    /// The loss of each pair.
    ///
    /// # Shapes
    /// `chosen` and `rejected` are `[B, 2k]`, each field of the result is `[B]`.
    ///
    /// # Panics
    /// On an empty axis, different shapes or an odd number of columns.
    #[track_caller]
    pub fn gpm(config: GpmConfig, chosen: Tensor<2>, rejected: Tensor<2>) -> GpmLoss {
        let score = of("gpm", ["chosen", "rejected"], chosen, rejected);
        let loss = log_sigmoid(score.clone().div_scalar(config.tau.get())).neg();
        GpmLoss { loss, score: score.detach() }
    }

    #[track_caller]
    fn of(name: &str, arguments: [&str; 2], a: Tensor<2>, b: Tensor<2>) -> Tensor<1> {
        let [rows, width] = a.dims();
        filled(name, arguments[0], a.dims());
        same(name, arguments[1], b.dims(), a.dims());
        assert!(
            width.is_multiple_of(2),
            "{name}: {}: expected an even number of columns, found shape {:?}",
            arguments[0],
            [rows, width]
        );
        let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
        let skew = a0 * b1 - a1 * b0;
        skew.sum_dim(1).reshape([rows])
    }

    /// The even and the odd columns, `[B, k]` each.
    fn halves(x: Tensor<2>) -> [Tensor<2>; 2] {
        let [rows, width] = x.dims();
        let blocks = x.reshape([rows, width / 2, 2]);
        let half = |which: usize| blocks.clone().narrow(2, which, 1).reshape([rows, width / 2]);
        [half(0), half(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    #[test]
    fn three_embeddings_make_a_cycle() {
        // Each beats the next by 1 and loses to the one after by 1: no reward can say that.
        let v = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]];
        let expected = [[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]];
        for i in 0..3 {
            for j in 0..3 {
                let found: f64 = gpm_score_scalar(&v[i], &v[j]);
                assert!((found - expected[i][j]).abs() < 1e-15, "{i} {j}");
            }
        }
    }

    #[test]
    fn one_fixed_direction_is_bradley_terry() {
        // Embeddings (r, 1): s = r_a − r_b.
        let config = GpmConfig { tau: Positive::new(0.5).expect("positive") };
        let loss = gpm_scalar(config, &[2.0, 1.0], &[1.5, 1.0]);
        assert!((loss - (-1f64).exp().ln_1p()).abs() < 1e-15);
    }

    #[test]
    fn a_response_against_itself_is_pulled_nowhere() {
        // The pulls of both places cancel: Rᵀ + R = 0.
        let config = GpmConfig { tau: Positive::new(0.1).expect("positive") };
        let v = [0.3, -2.0, 1.1, 0.7];
        let (loss, slope) = gradient(&[v, v].concat(), |x| gpm_scalar(config, &x[..4], &x[4..]));
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((0..4).all(|i| slope[i].abs() > 0.1 && (slope[i] + slope[4 + i]).abs() < 1e-14));
    }
}
