//! Rotary positions.
//!
//! ```text
//! θᵢ = base^(−2i/D),   i = 0 … D/2 − 1
//! rotate(x)_t = [x₁ cos tθ − x₂ sin tθ,  x₂ cos tθ + x₁ sin tθ],   x = [x₁, x₂] halves
//! ```
//!
//! Paper: Su et al., *RoFormer*, arXiv:2104.09864, Eq. 34; halves instead of interleaved pairs, as
//! the Llama checkpoints of Hugging Face have it. Angles are products of `f32`, as there.

use burn::tensor::{Device, Tensor, TensorData};

use crate::error::Error;
use crate::hf::{DecoderConfig, RopeScaling};

/// Inverse frequencies of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    inverse: Vec<f32>,
}

impl Rope {
    /// Frequencies of `config`, with its scaling.
    ///
    /// # Errors
    /// A head width that is odd.
    pub fn new(config: &DecoderConfig) -> Result<Self, Error> {
        let d = config.head_dim();
        if !d.is_multiple_of(2) {
            return Err(Error::config("head_dim", "an even number", d));
        }
        let base = config.rope_theta();
        let plain = (0..d / 2).map(|i| (1.0 / base.powf((2 * i) as f64 / d as f64)) as f32);
        let inverse = match config.rope_scaling() {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor as f32).collect(),
            RopeScaling::Llama3 { factor, low, high, original } => {
                plain.map(|f| llama3(f64::from(f), factor, low, high, original) as f32).collect()
            }
        };
        Ok(Self { inverse })
    }

    /// Cosines and sines at columns `start..start + len`, each `[1, 1, len, D/2]`.
    pub fn tables(&self, start: usize, len: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let positions: Vec<usize> = (start..start + len).collect();
        self.at(&positions, [1, 1, len, self.inverse.len()], device)
    }

    /// Cosines and sines at one position a row: `[B, 1, 1, D/2]`.
    pub fn rows(&self, positions: &[usize], device: &Device) -> (Tensor<4>, Tensor<4>) {
        self.at(positions, [positions.len(), 1, 1, self.inverse.len()], device)
    }

    fn at(&self, positions: &[usize], shape: [usize; 4], device: &Device) -> (Tensor<4>, Tensor<4>) {
        let angles: Vec<f32> =
            positions.iter().flat_map(|&p| self.inverse.iter().map(move |f| p as f32 * f)).collect();
        let table = |f: fn(f32) -> f32| {
            let data = TensorData::new(angles.iter().map(|a| f(*a)).collect::<Vec<_>>(), shape);
            Tensor::from_data(data, device)
        };
        (table(f32::cos), table(f32::sin))
    }

    /// Rotates `x: [B, H, T, D]` by tables that broadcast over `B` and `H`.
    pub fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let a = x.clone().narrow(3, 0, half);
        let b = x.narrow(3, half, half);
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        let second = b * cos.clone() + a * sin.clone();
        Tensor::cat(vec![first, second], 3)
    }
}

/// Llama 3's frequency-dependent scaling: long wavelengths are stretched by `factor`, short ones
/// kept, those between blended linearly (the `llama3` rope type of Hugging Face configs).
fn llama3(f: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / f;
    if wavelength < original / high {
        f
    } else if wavelength > original / low {
        f / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}
