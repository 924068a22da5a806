//! The optimiser step: gradients by name, their global norm, AdamW.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
//! θ ← θ (1 − η λ) − η · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
//! ```
//!
//! Paper: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, arXiv:1711.05101,
//! Algorithm 2, with PyTorch's ε. Burn's own AdamW takes `1 − βᵗ` in `f32`, which is off by 6e-5 at
//! the first step; here it is `f64`. State is kept by checkpoint name, so it can be saved, loaded
//! and compared. Norms and biases are not decayed, as in Hugging Face's trainer.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rlhf_kernels::{AdamWState as Buffers, AdamWStep, adamw};
use serde::{Deserialize, Serialize};

use crate::weights::inner_name;

/// Numbers of AdamW apart from the learning rate, which a schedule gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub adam_beta1: f64,
    /// Decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// λ, applied to matrices and embeddings.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; infinite switches clipping off.
    pub max_grad_norm: f64,
}

impl AdamWConfig {
    /// PyTorch's defaults (betas 0.9 and 0.999, ε 1e-8) with `transformers`' clipping at 1.0 and
    /// no decay.
    pub fn torch() -> Self {
        Self { adam_beta1: 0.9, adam_beta2: 0.999, adam_epsilon: 1e-8, weight_decay: 0.0, max_grad_norm: 1.0 }
    }
}

/// Gradients by checkpoint name, each flattened in Burn's layout, on the plain device.
#[derive(Debug, Clone, Default)]
pub struct Grads {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl Grads {
    /// Those of `module`'s parameters; one that the loss does not reach is absent.
    pub fn of<M: Module>(module: &M, grads: &Gradients) -> Self {
        let mut collect = Collect { path: Vec::new(), grads, out: BTreeMap::new() };
        module.visit(&mut collect);
        Self { by_name: collect.out }
    }

    /// Adds another micro-batch's gradients to these.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for (name, g) in other.by_name {
            let sum = match self.by_name.remove(&name) {
                Some(mine) => mine + g,
                None => g,
            };
            self.by_name.insert(name, sum);
        }
        self
    }

    /// `√Σ g²` over every parameter; NaN or infinite if any entry is.
    pub fn global_norm(&self) -> f64 {
        let all: Vec<Tensor<1>> = self.by_name.values().cloned().collect();
        rlhf_kernels::sum_of_squares(&all).sqrt()
    }

    /// The flattened gradient of one parameter, on the host.
    pub fn host(&self, name: &str) -> Option<Vec<f32>> {
        let data = self.by_name.get(name)?.to_data().convert::<f32>();
        Some(data.try_into_vec().expect("converted to f32"))
    }

    /// Names of all parameters with a gradient.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

struct Collect<'a> {
    path: Vec<String>,
    grads: &'a Gradients,
    out: BTreeMap<String, Tensor<1>>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = param.val().grad(self.grads) {
            let n = grad.shape().num_elements();
            self.out.insert(inner_name(&self.path), grad.reshape([n]));
        }
    }
}

/// First and second moment of one parameter, flattened.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

/// AdamW with its state.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    n_steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// AdamW's state on the host: how many steps were made, and two moments by parameter name.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWState {
    /// Steps made.
    pub n_steps: u64,
    /// `(first, second)` moment of each parameter, flattened.
    pub moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    /// Before the first step.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, n_steps: 0, moments: BTreeMap::new() }
    }

    /// One step on `module` at learning rate `lr`; also the gradient's global norm before it was
    /// clipped. A norm that is not finite leaves the module untouched, for the caller to stop at.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, grads: Grads) -> (M, f64) {
        let norm = grads.global_norm();
        if !norm.is_finite() {
            return (module, norm);
        }
        self.n_steps += 1;
        // torch.nn.utils.clip_grad_norm_ has this 1e-6.
        let scale = (self.config.max_grad_norm / (norm + 1e-6)).min(1.0);
        let how = AdamWStep {
            lr,
            beta1: self.config.adam_beta1,
            beta2: self.config.adam_beta2,
            epsilon: self.config.adam_epsilon,
            weight_decay: 0.0,
            scale,
            step: self.n_steps,
        };
        let mut update = Update { path: Vec::new(), grads: grads.by_name, how, optim: self };
        let module = module.map(&mut update);
        (module, norm)
    }

    /// The state on the host.
    pub fn state(&self) -> AdamWState {
        let host = |x: &Tensor<1>| x.to_data().convert::<f32>().try_into_vec().expect("converted to f32");
        let moments = self.moments.iter().map(|(name, m)| (name.clone(), (host(&m.first), host(&m.second))));
        AdamWState { n_steps: self.n_steps, moments: moments.collect() }
    }

    /// Continues from a saved state on `device` (a plain one).
    pub fn restored(config: AdamWConfig, state: &AdamWState, device: &Device) -> Self {
        let tensor = |x: &[f32]| Tensor::from_data(TensorData::new(x.to_vec(), [x.len()]), device);
        let moments = state.moments.iter().map(|(name, (first, second))| {
            (name.clone(), Moments { first: tensor(first), second: tensor(second) })
        });
        Self { config, n_steps: state.n_steps, moments: moments.collect() }
    }
}

struct Update<'a> {
    path: Vec<String>,
    grads: BTreeMap<String, Tensor<1>>,
    /// Without the decay, which depends on the parameter.
    how: AdamWStep,
    optim: &'a mut AdamW,
}

impl Update<'_> {
    fn apply(&mut self, name: String, theta: Tensor<1>, grad: Tensor<1>, decay: f64) -> Tensor<1> {
        let moments = self.optim.moments.remove(&name).unwrap_or_else(|| {
            let zeros = || Tensor::zeros(theta.shape(), &theta.device());
            Moments { first: zeros(), second: zeros() }
        });
        let how = AdamWStep { weight_decay: decay, ..self.how };
        let state = Buffers { theta, first: moments.first, second: moments.second };
        let Buffers { theta, first, second } = adamw(&how, state, grad);
        self.optim.moments.insert(name, Moments { first, second });
        theta
    }
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = inner_name(&self.path);
        let Some(grad) = self.grads.remove(&name) else { return param };
        let decay = if D > 1 { self.optim.config.weight_decay } else { 0.0 };
        param.map(|old| {
            let dims = old.dims();
            let n = old.shape().num_elements();
            let device = old.device();
            let new = self.apply(name, old.inner().reshape([n]), grad, decay).reshape(dims);
            if device.is_autodiff() { Tensor::from_inner(new).require_grad() } else { new }
        })
    }
}
