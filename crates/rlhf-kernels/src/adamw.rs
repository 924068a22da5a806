//! One step of AdamW, and the norm it is clipped by.

use burn::tensor::{Tensor, TensorData};

use crate::check;
#[cfg(feature = "flex")]
use crate::flex;

/// Numbers of one step; all host arithmetic is in `f64`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate η.
    pub lr: f64,
    /// Decay β₁ of the first moment.
    pub beta1: f64,
    /// Decay β₂ of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// λ; 0 for none.
    pub weight_decay: f64,
    /// What the gradient is multiplied with first: 1, or less where its norm is clipped.
    pub scale: f64,
    /// The number of this step, from 1.
    pub step: u64,
}

/// What a step reads and writes of one parameter, each flat.
#[derive(Debug, Clone)]
pub struct AdamWState {
    /// The parameter θ.
    pub theta: Tensor<1>,
    /// First moment m.
    pub first: Tensor<1>,
    /// Second moment v.
    pub second: Tensor<1>,
}

/// One step (Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101,
/// Algorithm 2, with PyTorch's ε):
///
/// ```text
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²          g = scale · grad
/// θ ← θ (1 − η λ) − η · (m / (1 − β₁ᵗ)) / (√v / √(1 − β₂ᵗ) + ε)
/// ```
///
/// A buffer that nothing else holds is written in place by the fused form, so give all four away.
///
/// # Shapes
/// All `[n]`, on one plain device (without autodiff).
///
/// # Panics
/// On lengths that differ.
#[track_caller]
#[must_use]
pub fn adamw(how: &AdamWStep, state: AdamWState, grad: Tensor<1>) -> AdamWState {
    let n = state.theta.dims();
    check::same("adamw", "first", state.first.dims(), n);
    check::same("adamw", "second", state.second.dims(), n);
    check::same("adamw", "grad", grad.dims(), n);
    #[cfg(feature = "flex")]
    if flex::serves(&grad) {
        return flex::adamw::adamw(how, state, grad);
    }
    plain(how, state, grad)
}

/// `Σ x²` over all entries of all tensors, in `f64` on the CPU; NaN or infinite if any entry is.
pub fn sum_of_squares(tensors: &[Tensor<1>]) -> f64 {
    #[cfg(feature = "flex")]
    if tensors.iter().all(flex::serves) {
        return tensors.iter().map(|x| flex::adamw::sum_of_squares(x.clone())).sum();
    }
    let parts: Vec<Tensor<1>> = tensors.iter().map(|x| x.clone().square().sum()).collect();
    if parts.is_empty() {
        return 0.0;
    }
    let parts: TensorData = Tensor::cat(parts, 0).into_data().convert::<f64>();
    parts.as_slice::<f64>().expect("converted to f64").iter().sum()
}

/// The numbers of a step as each element needs them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    pub(crate) root_debt: f64,
    pub(crate) rate: f64,
    pub(crate) keep: f64,
}

impl AdamWStep {
    pub(crate) fn factors(&self) -> Factors {
        let t = i32::try_from(self.step).unwrap_or(i32::MAX);
        Factors {
            root_debt: (1.0 - self.beta2.powi(t)).sqrt(),
            rate: self.lr / (1.0 - self.beta1.powi(t)),
            keep: 1.0 - self.lr * self.weight_decay,
        }
    }
}

fn plain(how: &AdamWStep, state: AdamWState, grad: Tensor<1>) -> AdamWState {
    let f = how.factors();
    let g = if how.scale < 1.0 { grad.mul_scalar(how.scale) } else { grad };
    let squared = g.clone().square().mul_scalar(1.0 - how.beta2);
    let first = state.first.mul_scalar(how.beta1) + g.mul_scalar(1.0 - how.beta1);
    let second = state.second.mul_scalar(how.beta2) + squared;
    let root = second.clone().sqrt().div_scalar(f.root_debt).add_scalar(how.epsilon);
    let delta = first.clone().mul_scalar(f.rate) / root;
    let theta = if how.weight_decay > 0.0 { state.theta.mul_scalar(f.keep) } else { state.theta };
    AdamWState { theta: theta - delta, first, second }
}
