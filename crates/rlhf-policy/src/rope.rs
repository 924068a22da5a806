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

/// Inverse frequencies of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    inverse: Vec<f32>,
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by `factor`.
    Linear {
        /// Divides every frequency.
        factor: f64,
    },
    /// Long wavelengths by `factor`, short ones not.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original: f64,
    },
}

impl Rope {
    /// Frequencies `theta^(−2i/width)`, scaled; `width` is even and at most a head's width, the rest
    /// of which passes unturned.
    ///
    /// # Panics
    /// On an odd width.
    #[track_caller]
    pub fn new(width: usize, theta: f64, scaling: RopeScaling) -> Self {
        assert!(width.is_multiple_of(2), "rope: width: expected an even number, found {width}");
        let plain = (0..width / 2).map(|i| (1.0 / theta.powf((2 * i) as f64 / width as f64)) as f32);
        let inverse = match scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor as f32).collect(),
            RopeScaling::Llama3 { factor, low, high, original } => {
                plain.map(|f| llama3(f64::from(f), factor, low, high, original) as f32).collect()
            }
        };
        Self { inverse }
    }

    /// The inverse frequencies, half as many as entries are turned.
    pub fn inverse(&self) -> &[f32] {
        &self.inverse
    }

    /// Cosines and sines at positions `0..len`, each `[len, R/2]`: what
    /// [`rlhf_kernels::rope`] turns whole rows with.
    pub fn flat_tables(&self, len: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let (cos, sin) = self.tables(0, len, device);
        let shape = [len, self.inverse.len()];
        (cos.reshape(shape), sin.reshape(shape))
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

    /// Rotates the first R entries of each head of `x: [B, H, T, D]` by tables of R/2 columns that
    /// broadcast over `B` and `H`.
    pub fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
        let (d, half) = (x.dims()[3], cos.dims()[3]);
        let a = x.clone().narrow(3, 0, half);
        let b = x.clone().narrow(3, half, half);
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        let second = b * cos.clone() + a * sin.clone();
        let mut parts = vec![first, second];
        if 2 * half < d {
            parts.push(x.narrow(3, 2 * half, d - 2 * half));
        }
        Tensor::cat(parts, 3)
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
