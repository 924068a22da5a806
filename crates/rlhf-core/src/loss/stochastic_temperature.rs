//! Cross-entropy under a temperature that is drawn anew for each row or sequence.
//!
//! ```text
//! ℓ = −log p_T(y)        p_T(v) = exp(z_v / T) / Σ_w exp(z_w / T)        log T ~ U(log T_low, log T_high)
//! ```
//!
//! Where: z is a row of `logits`, y its entry of `targets`, T its entry of `temperature`, drawn by
//! [`draw`]; T_low and T_high are `low` and `high`.
//! Paper: Hinton et al., *Distilling the Knowledge in a Neural Network*, arXiv:1503.02531, Eq. 1
//! (the softmax at a temperature); the drawing is in no paper.
//! Departures: everything random is our own choice: a temperature a row, log-uniform between two
//! bounds (halving is as likely as doubling), drawn on the host. The gradient is not multiplied by
//! T² as in distillation: there is no second term whose size it had to match. With T_low = T_high =
//! 1 it is the plain cross-entropy.
//! Detached: `temperature`.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::logp::token_logp_scalar;
use crate::number::Positive;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use tensor::stochastic_temperature;

/// What temperatures are drawn from; the named laws are closed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TemperatureLaw {
    /// Always the same.
    Fixed {
        /// T.
        temperature: Positive,
    },
    /// Its logarithm is uniform between those of two bounds, in whatever order they are given.
    LogUniform {
        /// One end.
        low: Positive,
        /// The other.
        high: Positive,
    },
}

/// One temperature; the generator is the caller's, such as
/// [`stream`](crate::rng::stream)`(seed, "temperature", step, row)`, so that a row's temperature
/// depends on no other row. One a sequence is repeated for its tokens by the caller.
///
/// ```
/// use rlhf_core::loss::stochastic_temperature::{TemperatureLaw, draw};
/// use rlhf_core::number::Positive;
/// use rlhf_core::rng::stream;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// let law = TemperatureLaw::LogUniform { low: Positive::new(0.5)?, high: Positive::new(2.0)? };
/// let t = draw(law, &mut stream(1, "temperature", 0, 0));
/// assert!((0.5..=2.0).contains(&t));
/// # Ok(())
/// # }
/// ```
pub fn draw(law: TemperatureLaw, rng: &mut impl Rng) -> f64 {
    match law {
        TemperatureLaw::Fixed { temperature } => temperature.get(),
        TemperatureLaw::LogUniform { low, high } => {
            let u: f64 = rng.random();
            let (low, high) = (low.get().ln(), high.get().ln());
            (low + u * (high - low)).exp()
        }
    }
}

/// One row's loss in nats: the definition of [`stochastic_temperature`].
///
/// ```
/// use rlhf_core::loss::stochastic_temperature::stochastic_temperature_scalar;
/// // Logits 2 and 0 at T = 2: log(1 + e⁻¹).
/// let loss = stochastic_temperature_scalar(&[2.0, 0.0f64], 0, 2.0);
/// assert!((loss - 0.31326168751822286).abs() < 1e-15);
/// ```
///
/// # Panics
/// When `target` is not below the row's length.
pub fn stochastic_temperature_scalar<R: Real>(logits: &[R], target: usize, temperature: f64) -> R {
    let z: Vec<R> = logits.iter().map(|z| *z / temperature).collect();
    -token_logp_scalar(&z, target)
}

#[cfg(feature = "burn")]
mod tensor {
    use burn::tensor::{Int, Tensor};

    use crate::logp::token_logp;
    use crate::shape::{filled, same};

    /// Cross-entropy of each row at its temperature, in nats. With a [fused](crate::fused) head that
    /// has neither bias nor cap, divide the hidden rows by their temperatures instead.
    ///
    /// # Shapes
    /// `logits: [M, V]`, `targets: [M]` in `0..V`, `temperature: [M]`, positive; the result is `[M]`.
    ///
    /// # Panics
    /// On an empty axis, or another number of targets or temperatures than rows.
    #[track_caller]
    pub fn stochastic_temperature(
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
        temperature: Tensor<1>,
    ) -> Tensor<1> {
        let [m, _] = logits.dims();
        filled("stochastic_temperature", "logits", logits.dims());
        same("stochastic_temperature", "targets", targets.dims(), [m]);
        same("stochastic_temperature", "temperature", temperature.dims(), [m]);
        token_logp(logits / temperature.detach().reshape([m, 1]), targets).neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    fn positive(x: f64) -> Positive {
        Positive::new(x).expect("positive")
    }

    fn law(low: f64, high: f64) -> TemperatureLaw {
        TemperatureLaw::LogUniform { low: positive(low), high: positive(high) }
    }

    #[test]
    fn halving_is_as_likely_as_doubling() {
        let n = 4000;
        let mut rng = stream(3, "temperature", 0, 0);
        let logs: Vec<f64> = (0..n).map(|_| draw(law(0.5, 2.0), &mut rng).ln()).collect();
        let bound = 2f64.ln();
        assert!(logs.iter().all(|x| x.abs() <= bound));
        // Uniform on ±log 2: mean 0 and variance (2 log 2)² / 12 = 0.160; four standard errors.
        let mean = logs.iter().sum::<f64>() / f64::from(n);
        let variance = logs.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 4.0 * 0.4 / f64::from(n).sqrt(), "{mean}");
        assert!((variance - bound * bound / 3.0).abs() < 0.01, "{variance}");
    }

    #[test]
    fn equal_bounds_are_a_fixed_temperature() {
        let mut rng = stream(3, "temperature", 0, 0);
        assert!((draw(law(0.7, 0.7), &mut rng) - 0.7).abs() < 1e-15);
        let fixed = TemperatureLaw::Fixed { temperature: positive(0.7) };
        assert!((draw(fixed, &mut rng) - 0.7).abs() <= 0.0);
    }

    #[test]
    fn a_high_temperature_makes_a_sure_token_doubtful() {
        // The row is sure of token 0: its loss grows with T, up to log 2.
        let loss = |t| stochastic_temperature_scalar::<f64>(&[9.0, 0.0], 0, t);
        assert!(loss(0.5) < loss(1.0) && loss(1.0) < loss(2.0));
        assert!((loss(1e9) - std::f64::consts::LN_2).abs() < 1e-8);
    }

    #[test]
    fn the_law_is_read_by_name() {
        let read = |s: &str| serde_json::from_str::<TemperatureLaw>(s);
        assert_eq!(read("{\"log_uniform\": {\"low\": 0.5, \"high\": 2}}").expect("a law"), law(0.5, 2.0));
        assert!(read("{\"log_uniform\": {\"low\": 0, \"high\": 2}}").is_err());
    }
}
