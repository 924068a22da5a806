//! Log-probabilities straight from hidden states and the head's weight: `[M, V]` never exists.
//!
//! ```text
//! y = W h + b        z = cap · tanh(scale · y / cap) / T        log p(v) = z_v − log Σ_w exp z_w
//! ```
//!
//! Where: h is a row of `hidden`, W and b are the [`Head`]'s, T is `temperature`, scale is
//! `logit_scale`, cap is `softcap` (without one z = scale · y / T).
//!
//! A vocabulary of 32,000 and 4096 tokens are half a gigabyte of logits, and autodiff keeps several
//! such buffers. Here `tile` logits and their softmax exist at once, forward and backward; what is
//! kept is of the size of `hidden`. [`fused_logp`] is called like
//! [`token_logp`](crate::logp::token_logp), and autodiff differentiates its result with respect to
//! `hidden`. Only the head's own gradient needs the gradient of the loss first: it comes after the
//! backward pass, by [`HeadPass::backward`] in place of `loss.backward()`, and in no other way.
//!
//! Blocks depend on the sizes and on `tile`, never on the number of threads.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::host::stable::logsumexp;
use crate::number::Positive;
use crate::real::Real;

#[cfg(feature = "burn")]
pub use head::Head;
#[cfg(feature = "burn")]
pub use pass::{HeadGradient, HeadPass};
#[cfg(feature = "burn")]
pub use tensor::{FusedLogp, FusedStats, fused_logp, fused_stats};

#[cfg(feature = "burn")]
mod head;
#[cfg(feature = "burn")]
mod pass;
#[cfg(feature = "burn")]
mod rows;
#[cfg(feature = "burn")]
mod tensor;

/// 4 Mi logits, 16 MiB in `f32`: below the size from which allocators fetch fresh pages each time.
pub const TILE: NonZeroUsize = NonZeroUsize::new(1 << 22).expect("not zero");

/// From the head's products to logits, and how many of them may exist at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusedConfig {
    /// T: logits are divided by it.
    pub temperature: Positive,
    /// What the products are multiplied with first (Cohere, Granite); absent for 1.
    pub logit_scale: Option<Positive>,
    /// The cap of Gemma 2's tanh on the scaled products; absent for none.
    pub softcap: Option<Positive>,
    /// Logits that exist at once: [`TILE`], more on a large device. It changes only rounding.
    pub tile: NonZeroUsize,
}

impl FusedConfig {
    /// Only a temperature, in tiles of [`TILE`].
    pub fn new(temperature: Positive) -> Self {
        Self { temperature, logit_scale: None, softcap: None, tile: TILE }
    }

    fn scale(&self) -> f64 {
        self.logit_scale.map_or(1.0, Positive::get)
    }

    /// dz / dy where nothing is capped.
    #[cfg(feature = "burn")]
    fn slope(&self) -> f64 {
        self.scale() / self.temperature.get()
    }
}

/// The logits of one hidden row: the definition of what the tiles hold.
///
/// # Panics
/// On a row of `weight` that is not as long as `hidden`, or another number of biases than rows.
#[track_caller]
pub fn logits_scalar<R: Real>(
    config: FusedConfig,
    hidden: &[R],
    weight: &[Vec<R>],
    bias: Option<&[R]>,
) -> Vec<R> {
    let product = |w: &Vec<R>| {
        assert_eq!(w.len(), hidden.len(), "logits: weight and hidden differ in length");
        w.iter().zip(hidden).map(|(w, h)| *w * *h).sum::<R>()
    };
    let mut y: Vec<R> = weight.iter().map(product).collect();
    if let Some(bias) = bias {
        assert_eq!(bias.len(), y.len(), "logits: expected one bias a row of the weight");
        y.iter_mut().zip(bias).for_each(|(y, b)| *y = *y + *b);
    }
    let capped = |y: R| match config.softcap {
        Some(cap) => tanh(y / cap.get()) * cap.get(),
        None => y,
    };
    y.into_iter().map(|y| capped(y * config.scale()) / config.temperature.get()).collect()
}

fn tanh<R: Real>(x: R) -> R {
    let t = x.value().tanh();
    x.chain(t, 1.0 - t * t)
}

/// One row's log-probability of `token`, in nats: the definition of [`fused_logp`].
///
/// ```
/// use rlhf_core::fused::{FusedConfig, fused_logp_scalar};
/// use rlhf_core::number::Positive;
///
/// # fn main() -> Result<(), rlhf_core::error::NumError> {
/// // Logits 2 and 0 at temperature 2: −log(1 + e⁻¹).
/// let config = FusedConfig::new(Positive::new(2.0)?);
/// let logp = fused_logp_scalar(config, &[1.0, 1.0], &[vec![1.0, 1.0], vec![1.0, -1.0]], None, 0);
/// assert!((logp + 0.31326168751822286).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// As [`logits_scalar`], and when `token` is not below the number of the weight's rows.
#[track_caller]
pub fn fused_logp_scalar<R: Real>(
    config: FusedConfig,
    hidden: &[R],
    weight: &[Vec<R>],
    bias: Option<&[R]>,
    token: usize,
) -> R {
    let z = logits_scalar(config, hidden, weight, bias);
    z[token] - logsumexp(&z)
}

/// What one row's distribution is like: the definition of [`FusedStats`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowStats<R> {
    /// log p(token).
    pub logp: R,
    /// −Σ p log p.
    pub entropy: R,
    /// log Σ p². Detached.
    pub log_sum_sq_prob: R,
    /// Σ z / V. Detached.
    pub mean_logit: R,
    /// Whether no other token is as likely, save those behind it in the vocabulary.
    pub top1: bool,
}

/// One row's numbers: the definition of [`fused_stats`].
///
/// # Panics
/// As [`fused_logp_scalar`].
#[track_caller]
pub fn fused_stats_scalar<R: Real>(
    config: FusedConfig,
    hidden: &[R],
    weight: &[Vec<R>],
    bias: Option<&[R]>,
    token: usize,
) -> RowStats<R> {
    let z = logits_scalar(config, hidden, weight, bias);
    let log_z = logsumexp(&z);
    let logp: Vec<R> = z.iter().map(|z| *z - log_z).collect();
    let twice: Vec<R> = logp.iter().map(|l| *l * 2.0).collect();
    let at = z[token].value();
    RowStats {
        logp: logp[token],
        entropy: -logp.iter().map(|l| l.exp() * *l).sum::<R>(),
        log_sum_sq_prob: logsumexp(&twice).detached(),
        mean_logit: (z.iter().copied().sum::<R>() / z.len() as f64).detached(),
        top1: z[..token].iter().all(|z| z.value() < at) && z[token..].iter().all(|z| z.value() <= at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positive(x: f64) -> Positive {
        Positive::new(x).expect("positive")
    }

    fn config() -> FusedConfig {
        FusedConfig::new(positive(1.0))
    }

    /// Logits 1, 0, 1 from a hidden row of one number.
    const WEIGHT: [f64; 3] = [1.0, 0.0, 1.0];

    fn stats(config: FusedConfig, token: usize) -> RowStats<f64> {
        fused_stats_scalar(config, &[1.0], &WEIGHT.map(|w| vec![w]), None, token)
    }

    #[test]
    fn a_row_by_hand() {
        // p = (e, 1, e) / (2e + 1).
        let (e, n) = (1f64.exp(), 2.0 * 1f64.exp() + 1.0);
        let s = stats(config(), 2);
        assert!((s.logp - (1.0 - n.ln())).abs() < 1e-15);
        // H = log n − Σ p z = log n − 2e/n.
        assert!((s.entropy - (n.ln() - 2.0 * e / n)).abs() < 1e-15);
        assert!((s.log_sum_sq_prob - ((2.0 * e * e + 1.0) / (n * n)).ln()).abs() < 1e-15);
        assert!((s.mean_logit - 2.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn of_two_equal_tokens_the_first_is_on_top() {
        assert!(stats(config(), 0).top1);
        assert!(!stats(config(), 1).top1 && !stats(config(), 2).top1);
    }

    #[test]
    fn scale_cap_bias_and_temperature_in_their_order() {
        let config = FusedConfig {
            logit_scale: Some(positive(0.5)),
            softcap: Some(positive(3.0)),
            ..FusedConfig::new(positive(2.0))
        };
        // y = 2 · 3 + 6 = 12, scaled 6, capped 3 tanh 2, halved.
        let z = logits_scalar(config, &[2.0], &[vec![3.0]], Some(&[6.0]));
        assert!((z[0] - 1.5 * 2f64.tanh()).abs() < 1e-15);
    }

    #[test]
    fn the_gradient_of_a_capped_logit_ends_at_the_cap() {
        let config = FusedConfig { softcap: Some(positive(1.0)), ..config() };
        let slope = |h: f64| {
            crate::real::gradient(&[h], |x| {
                fused_logp_scalar(config, x, &[vec![1.0.into()], vec![0.0.into()]], None, 0)
            })
            .1[0]
        };
        // Two logits, tanh h and 0: (1 − p) (1 − tanh² h).
        assert!((slope(0.0) - 0.5).abs() < 1e-15 && slope(30.0).abs() < 1e-15);
    }

    #[test]
    #[should_panic(expected = "weight and hidden differ in length")]
    fn a_row_too_short() {
        let _ = fused_logp_scalar(config(), &[1.0], &[vec![1.0, 2.0]], None, 0);
    }

    #[test]
    fn a_config_without_its_optional_parts() {
        let read = |s: &str| serde_json::from_str::<FusedConfig>(s);
        let found = read("{\"temperature\": 1.0, \"tile\": 4194304}").expect("a config");
        assert_eq!(found, config());
        assert!(read("{\"temperature\": 0.0, \"tile\": 1}").is_err());
        assert!(read("{\"temperature\": 1.0, \"tile\": 0}").is_err());
        assert!(read("{\"temperature\": 1.0, \"tile\": 1, \"cap\": 2}").is_err());
    }
}
