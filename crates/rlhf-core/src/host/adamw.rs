//! AdamW on one vector of parameters, in `f64`: the definition that the tensor optimiser is
//! tested against.
//!
//! ```text
//! g ← g · min(1, c / (‖g‖ + 10⁻⁶))
//! m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
//! θ ← θ (1 − η λ) − η · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
//! ```
//!
//! Paper: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101,
//! Algorithm 2; ε and the 10⁻⁶ as in PyTorch.

/// Numbers of AdamW apart from the learning rate and the decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWNumbers {
    /// β₁.
    pub beta1: f64,
    /// β₂.
    pub beta2: f64,
    /// ε.
    pub epsilon: f64,
    /// c: the largest global norm of the gradient; infinite switches clipping off.
    pub max_grad_norm: f64,
}

/// The optimiser and its state.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWScalar {
    numbers: AdamWNumbers,
    n_steps: i32,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl AdamWScalar {
    /// Before the first step, for `n` parameters.
    pub fn new(numbers: AdamWNumbers, n: usize) -> Self {
        Self { numbers, n_steps: 0, first: vec![0.0; n], second: vec![0.0; n] }
    }

    /// One step of `theta` at learning rate `lr`, where `decay` is λ of each parameter. Returns
    /// ‖g‖ before it was clipped.
    ///
    /// ```
    /// use rlhf_core::host::adamw::{AdamWNumbers, AdamWScalar};
    ///
    /// let numbers = AdamWNumbers { beta1: 0.9, beta2: 0.999, epsilon: 0.0, max_grad_norm: f64::INFINITY };
    /// let mut theta = [1.0];
    /// // The first step is η long whatever the gradient's size.
    /// AdamWScalar::new(numbers, 1).step(0.01, &mut theta, &[0.0], &[123.0]);
    /// assert!((theta[0] - 0.99).abs() < 1e-15);
    /// ```
    ///
    /// # Panics
    /// On slices of another length than the state's.
    pub fn step(&mut self, lr: f64, theta: &mut [f64], decay: &[f64], grads: &[f64]) -> f64 {
        let n = self.first.len();
        assert_eq!([theta.len(), decay.len(), grads.len()], [n; 3], "adamw: theta, decay, grads");
        let AdamWNumbers { beta1, beta2, epsilon, max_grad_norm } = self.numbers;
        let norm = grads.iter().map(|g| g * g).sum::<f64>().sqrt();
        let scale = (max_grad_norm / (norm + 1e-6)).min(1.0);
        self.n_steps += 1;
        let first_debt = 1.0 - beta1.powi(self.n_steps);
        let second_debt = 1.0 - beta2.powi(self.n_steps);
        for i in 0..n {
            let g = grads[i] * scale;
            self.first[i] = beta1 * self.first[i] + (1.0 - beta1) * g;
            self.second[i] = beta2 * self.second[i] + (1.0 - beta2) * g * g;
            let root = (self.second[i] / second_debt).sqrt() + epsilon;
            theta[i] = theta[i] * (1.0 - lr * decay[i]) - lr * (self.first[i] / first_debt) / root;
        }
        norm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(max_grad_norm: f64) -> AdamWNumbers {
        AdamWNumbers { beta1: 0.5, beta2: 0.75, epsilon: 1.0, max_grad_norm }
    }

    #[test]
    fn two_steps_by_hand() {
        // g = 2, then 0; β₁ = ½, β₂ = ¾, ε = 1, η = 1, λ = 0.
        // t = 1: m̂ = 2, v̂ = 4, step 2 / (2 + 1).
        // t = 2: m = ½, m̂ = ½ / ¾; v = ¾, v̂ = ¾ / (7/16) = 12/7.
        let mut optim = AdamWScalar::new(numbers(f64::INFINITY), 1);
        let mut theta = [0.0];
        optim.step(1.0, &mut theta, &[0.0], &[2.0]);
        assert!((theta[0] + 2.0 / 3.0).abs() < 1e-15);
        optim.step(1.0, &mut theta, &[0.0], &[0.0]);
        let second = (2.0 / 3.0) / ((12.0f64 / 7.0).sqrt() + 1.0);
        assert!((theta[0] + 2.0 / 3.0 + second).abs() < 1e-15);
    }

    #[test]
    fn decay_shrinks_only_its_own_parameters() {
        let mut theta = [1.0, 1.0];
        AdamWScalar::new(numbers(f64::INFINITY), 2).step(0.1, &mut theta, &[0.5, 0.0], &[0.0, 0.0]);
        assert!((theta[0] - 0.95).abs() < 1e-15 && (theta[1] - 1.0).abs() < 1e-15);
    }

    #[test]
    fn clipping_scales_to_the_norm_and_reports_the_old_one() {
        let (mut clipped, mut small) = ([0.0, 0.0], [0.0, 0.0]);
        let norm = AdamWScalar::new(numbers(1.0), 2).step(1.0, &mut clipped, &[0.0; 2], &[3.0, 4.0]);
        assert!((norm - 5.0).abs() < 1e-15);
        let by = 1.0 / (5.0 + 1e-6);
        AdamWScalar::new(numbers(f64::INFINITY), 2).step(1.0, &mut small, &[0.0; 2], &[3.0 * by, 4.0 * by]);
        assert!((clipped[0] - small[0]).abs() < 1e-15 && (clipped[1] - small[1]).abs() < 1e-15);
    }
}
