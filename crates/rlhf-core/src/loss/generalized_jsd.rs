//! Generalised knowledge distillation: the skewed Jensen–Shannon divergence of two models' rows.
//!
//! ```text
//! β in (0, 1)   ℓ = β KL(p ‖ m) + (1 − β) KL(q ‖ m)          m = β p + (1 − β) q
//! β = 0         ℓ = KL(p ‖ q)
//! β = 1         ℓ = KL(q ‖ p)
//! ```
//!
//! Where: p is the softmax of a row of `teacher`, q that of `student`, both already divided by the
//! temperature ([`at_temperature`](crate::logp::at_temperature)), β is `beta`.
//! Paper: Agarwal et al., *On-Policy Distillation of Language Models: Learning from Self-Generated
//! Mistakes*, arXiv:2306.13649, Eq. 1.
//! Departures: Eq. 1 is 0 at both ends; there this is the limit of ℓ/β and of ℓ/(1 − β), the forward
//! and the reverse KL, as in TRL. So ℓ jumps at the ends.
//! Detached: `teacher`.

use serde::{Deserialize, Serialize};

use crate::host::stable::{log_softmax, logsumexp};
use crate::number::Prob;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::generalized_jsd;

/// Where between the two KL divergences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneralizedJsdConfig {
    /// β: the teacher's share of the mixture. 0 is the forward KL, ½ the Jensen–Shannon divergence,
    /// 1 the reverse KL.
    pub beta: Prob,
}

/// Which of the three formulas.
#[derive(Clone, Copy)]
enum Divergence {
    Forward,
    Mixed(f64),
    Reverse,
}

impl GeneralizedJsdConfig {
    fn divergence(self) -> Divergence {
        match self.beta.get() {
            beta if beta <= 0.0 => Divergence::Forward,
            beta if beta >= 1.0 => Divergence::Reverse,
            beta => Divergence::Mixed(beta),
        }
    }
}

/// One row's divergence in nats: the definition of [`generalized_jsd`].
///
/// ```
/// use rlhf_core::loss::generalized_jsd::{GeneralizedJsdConfig, generalized_jsd_scalar};
/// use rlhf_core::number::Prob;
///
/// // The student has ½ and ½, the teacher ¾ and ¼: KL(p ‖ q) = ¾ log 1½ + ¼ log ½.
/// let config = GeneralizedJsdConfig { beta: Prob::ZERO };
/// let loss = generalized_jsd_scalar(config, &[0.0, 0.0f64], &[3f64.ln(), 0.0]);
/// assert!((loss - (0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln())).abs() < 1e-15);
/// ```
///
/// # Panics
/// On rows of different lengths.
pub fn generalized_jsd_scalar<R: Real>(config: GeneralizedJsdConfig, student: &[R], teacher: &[f64]) -> R {
    assert_eq!(student.len(), teacher.len(), "generalized_jsd: student and teacher differ in length");
    let student = log_softmax(student);
    let teacher: Vec<R> = log_softmax(teacher).into_iter().map(R::from).collect();
    match config.divergence() {
        Divergence::Forward => kl(&teacher, &student),
        Divergence::Reverse => kl(&student, &teacher),
        Divergence::Mixed(beta) => {
            let mix = |(p, q): (&R, &R)| logsumexp(&[*p + beta.ln(), *q + (-beta).ln_1p()]);
            let mixture: Vec<R> = teacher.iter().zip(&student).map(mix).collect();
            kl(&teacher, &mixture) * beta + kl(&student, &mixture) * (1.0 - beta)
        }
    }
}

/// Σ p (log p − log q) from logarithms.
fn kl<R: Real>(p: &[R], q: &[R]) -> R {
    p.iter().zip(q).map(|(p, q)| p.exp() * (*p - *q)).sum()
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::Tensor;
    use burn::tensor::activation::log_softmax;

    use super::{Divergence, GeneralizedJsdConfig};
    use crate::elementwise::larger;
    use crate::shape::{filled, same};

    /// The divergence of each row, in nats.
    ///
    /// # Shapes
    /// `student` and `teacher` are logits `[M, V]`; the result is `[M]`.
    ///
    /// # Panics
    /// On an empty axis or different shapes.
    #[track_caller]
    pub fn generalized_jsd(
        config: GeneralizedJsdConfig,
        student: Tensor<2>,
        teacher: Tensor<2>,
    ) -> Tensor<1> {
        filled("generalized_jsd", "student", student.dims());
        same("generalized_jsd", "teacher", teacher.dims(), student.dims());
        let [m, _] = student.dims();
        let student = log_softmax(student, 1);
        let teacher = log_softmax(teacher.detach(), 1);
        let terms = match config.divergence() {
            Divergence::Forward => kl(teacher, student),
            Divergence::Reverse => kl(student, teacher),
            Divergence::Mixed(beta) => {
                let mixture = log_sum(
                    teacher.clone().add_scalar(beta.ln()),
                    student.clone().add_scalar((-beta).ln_1p()),
                );
                kl(teacher, mixture.clone()).mul_scalar(beta) + kl(student, mixture).mul_scalar(1.0 - beta)
            }
        };
        terms.sum_dim(1).reshape([m])
    }

    /// p (log p − log q) from logarithms.
    fn kl(p: Tensor<2>, q: Tensor<2>) -> Tensor<2> {
        p.clone().exp() * (p - q)
    }

    /// log(eᵃ + eᵇ). The shift changes no value, so no gradient goes through it.
    fn log_sum(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
        let shift = larger(a.clone().detach(), b.clone().detach());
        ((a - shift.clone()).exp() + (b - shift.clone()).exp()).log() + shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::gradient;

    const ROWS: [[f64; 4]; 2] = [[0.3, -1.0, 2.0, 0.1], [1.2, 0.4, -0.7, 0.9]];

    fn jsd(beta: f64, student: &[f64], teacher: &[f64]) -> f64 {
        let config = GeneralizedJsdConfig { beta: Prob::new(beta).expect("a probability") };
        generalized_jsd_scalar(config, student, teacher)
    }

    #[test]
    fn swapping_the_models_swaps_the_ends() {
        let [a, b] = ROWS;
        for beta in [0.0, 0.2, 0.5, 1.0] {
            assert!((jsd(beta, &a, &b) - jsd(1.0 - beta, &b, &a)).abs() < 1e-14);
        }
        assert!((jsd(0.0, &a, &b) - jsd(1.0, &a, &b)).abs() > 0.1);
    }

    #[test]
    fn the_ends_are_limits_of_the_quotient() {
        let [a, b] = ROWS;
        let tiny = 1e-6;
        assert!((jsd(tiny, &a, &b) / tiny - jsd(0.0, &a, &b)).abs() < 1e-5);
        assert!((jsd(1.0 - tiny, &a, &b) / tiny - jsd(1.0, &a, &b)).abs() < 1e-5);
    }

    #[test]
    fn models_that_agree_cost_nothing_and_models_that_never_do_the_entropy_of_beta() {
        for beta in [0.0, 0.3, 1.0] {
            let config = GeneralizedJsdConfig { beta: Prob::new(beta).expect("a probability") };
            let teacher = ROWS[0].map(|z| z + 7.0);
            let (value, slope) = gradient(&ROWS[0], |z| generalized_jsd_scalar(config, z, &teacher));
            assert!(value.abs() < 1e-14 && slope.iter().all(|g| g.abs() < 1e-14));
        }
        // Disjoint: m is β p where p is, so KL(p ‖ m) = −log β.
        let expected = -(0.3 * 0.3f64.ln() + 0.7 * 0.7f64.ln());
        assert!((jsd(0.3, &[5e3, -5e3], &[-5e3, 5e3]) - expected).abs() < 1e-12);
    }
}
