//! The head's own gradient.
//!
//! ```text
//! ∂L / ∂W_v = s Σ_m c_mv (g_m (1[v = y_m] − p_mv) − k_m p_mv (log p_mv + H_m)) h_m
//! ```
//!
//! Where: g and k are the gradients of the loss L with respect to `logp` and `entropy`, s and c as
//! in the gradient of `hidden`. Columns are done one after another, so that a part of the gradient is
//! complete when it is written. Each tile's p is its own softmax times the share of the tile in all
//! columns; the share was found on the way forward, and as one number a row it is put on h.

use burn::tensor::activation::softmax;
use burn::tensor::{Gradients, IndexingUpdateOp, Int, Tensor};

use super::FusedConfig;
use super::head::Head;
use super::rows::{Block, joined};

/// The gradient of a head.
#[derive(Debug, Clone)]
pub struct HeadGradient {
    /// `[V, H]`.
    pub weight: Tensor<2>,
    /// `[V]`, where the head has one.
    pub bias: Option<Tensor<1>>,
}

/// What is kept of a pass through a trained head, for its gradient: `hidden` and a few numbers a
/// row. A frozen head's pass is empty, and all that is said here does nothing.
///
/// The weight's gradient is a sum over rows weighted by the gradient of the loss, which is known
/// when the backward pass has run. So call [`backward`](Self::backward) instead of
/// `loss.backward()`:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use rlhf_core::fused::{FusedConfig, Head, fused_logp};
/// use rlhf_core::number::Positive;
///
/// # fn example(device: Device) -> Result<(), rlhf_core::error::NumError> {
/// let device = device.autodiff();
/// let hidden = Tensor::ones([1, 1], &device).require_grad();
/// let head = Head { weight: Tensor::zeros([2, 1], &device).require_grad(), bias: None };
/// let tokens = Tensor::from_data([0], &device);
///
/// let out = fused_logp(FusedConfig::new(Positive::new(1.0)?), hidden, &head, tokens);
/// let loss = out.logp.neg().mean();
/// let grads = out.head.backward(&loss); // all gradients, the head's among them
/// // Two equal logits: p − 1 of the token, p of the other.
/// let weight = head.weight.grad(&grads).expect("a trained head").into_data();
/// weight.assert_eq(&[[-0.5f32], [0.5]].into(), true);
/// # Ok(())
/// # }
/// ```
///
/// Where a step goes through the head several times, call `loss.backward()` once and
/// [`add_to`](Self::add_to) for each pass.
#[derive(Debug, Clone)]
pub struct HeadPass {
    config: FusedConfig,
    kept: Option<Kept>,
}

#[derive(Debug, Clone)]
struct Kept {
    /// Of the graph: where the gradient belongs.
    head: Head,
    hidden: Tensor<2>,
    tokens: Tensor<1, Int>,
    /// `[M, 1]`, as the two below.
    log_z: Tensor<2>,
    token_slope: Option<Tensor<2>>,
    entropy: Option<Tensor<2>>,
    /// log Z of each tile alone: of each block of rows, for each of columns, `[rows, 1]`.
    log_parts: Vec<Vec<Tensor<2>>>,
    /// Leaves of zeros that are added to the results: their gradients are those of the loss.
    logp_tap: Tensor<1>,
    entropy_tap: Tensor<1>,
}

impl HeadPass {
    /// `blocks` are those of all rows.
    pub(super) fn new(
        config: FusedConfig,
        hidden: Tensor<2>,
        head: &Head,
        tokens: Tensor<1, Int>,
        blocks: &[Block],
    ) -> Self {
        if !head.weight.is_tracked() {
            return Self { config, kept: None };
        }
        let tap = || Tensor::zeros([hidden.dims()[0]], &head.weight.device()).require_grad();
        let kept = Kept {
            logp_tap: tap(),
            entropy_tap: tap(),
            head: head.clone(),
            hidden: hidden.inner(),
            tokens: tokens.inner(),
            log_z: Tensor::cat(blocks.iter().map(|b| b.log_z.clone()).collect(), 0),
            token_slope: joined(blocks, |b| b.token_slope.clone()),
            entropy: joined(blocks, |b| b.stats.as_ref().map(|s| s.entropy.clone())),
            log_parts: blocks.iter().map(|b| b.log_parts.clone()).collect(),
        };
        Self { config, kept: Some(kept) }
    }

    pub(super) fn tap_logp(&self, logp: Tensor<1>) -> Tensor<1> {
        match &self.kept {
            Some(kept) => logp + kept.logp_tap.clone(),
            None => logp,
        }
    }

    pub(super) fn tap_entropy(&self, entropy: Tensor<1>) -> Tensor<1> {
        match &self.kept {
            Some(kept) => entropy + kept.entropy_tap.clone(),
            None => entropy,
        }
    }

    /// All gradients of `loss`, that of the head among them.
    ///
    /// # Panics
    /// As `loss.backward()`, and as [`add_to`](Self::add_to).
    #[track_caller]
    pub fn backward(&self, loss: &Tensor<1>) -> Gradients {
        let mut grads = loss.backward();
        self.add_to(&mut grads);
        grads
    }

    /// Adds the gradient of the head to what `grads` holds for its weight and bias: nothing, or the
    /// part of other passes and of a tied embedding.
    ///
    /// # Panics
    /// When the weight of a trained head is the result of other operations: its gradient has no
    /// place in `grads`; take it from [`gradient`](Self::gradient).
    #[track_caller]
    pub fn add_to(&self, grads: &mut Gradients) {
        let (Some(kept), Some(found)) = (&self.kept, self.gradient(grads)) else { return };
        assert!(
            kept.head.weight.is_require_grad(),
            "HeadPass: weight: expected a leaf that requires a gradient, found the result of an operation"
        );
        add(&kept.head.weight, grads, found.weight);
        if let (Some(bias), Some(found)) = (&kept.head.bias, found.bias)
            && bias.is_require_grad()
        {
            add(bias, grads, found);
        }
    }

    /// The gradient of the head alone, from the gradients that `loss.backward()` gave; none for a
    /// frozen head or a loss that does not depend on this pass.
    pub fn gradient(&self, grads: &Gradients) -> Option<HeadGradient> {
        let kept = self.kept.as_ref()?;
        let [m, _] = kept.hidden.dims();
        let column = |tap: &Tensor<1>| tap.grad(grads).map(|g| g.reshape([m, 1]));
        let (logp, entropy) = (column(&kept.logp_tap), column(&kept.entropy_tap));
        if logp.is_none() && entropy.is_none() {
            return None;
        }
        let logp = logp.unwrap_or_else(|| kept.log_z.zeros_like());
        Some(kept.gradient(self.config, &logp, entropy.as_ref()))
    }
}

fn add<const D: usize>(leaf: &Tensor<D>, grads: &mut Gradients, more: Tensor<D>) {
    let sum = match leaf.grad_remove(grads) {
        Some(found) => found + more,
        None => more,
    };
    leaf.grad_replace(grads, sum);
}

impl Kept {
    /// `g` and `k` are `[M, 1]`.
    fn gradient(&self, config: FusedConfig, g: &Tensor<2>, k: Option<&Tensor<2>>) -> HeadGradient {
        let head = self.head.inner();
        let ([m, h], [v, _]) = (self.hidden.dims(), head.weight.dims());
        // A bias is the weight of a hidden number that is always 1.
        let rows = match &head.bias {
            Some(_) => Tensor::cat(vec![self.hidden.clone(), g.ones_like()], 1),
            None => self.hidden.clone(),
        };
        let [_, wide] = rows.dims();
        let of_token = match &self.token_slope {
            Some(slope) => g.clone() * slope.clone(),
            None => g.clone(),
        };
        let of_token = rows.clone() * of_token.mul_scalar(config.slope());
        let (scaled, [_, width]) = (config.scaled(self.hidden.clone()), config.shape(m, v));
        let mut sum = Tensor::zeros([v, wide], &rows.device());
        for (tile, start) in (0..v).step_by(width).enumerate() {
            let n = width.min(v - start);
            let part = self.columns(config, &head.columns(start, n), tile, [&scaled, &rows, g], k);
            sum = sum.slice_assign([start..start + n, 0..wide], part);
        }
        let sum = sum.select_assign(0, self.tokens.clone(), of_token, IndexingUpdateOp::Add);
        match &head.bias {
            Some(_) => HeadGradient {
                weight: sum.clone().narrow(1, 0, h),
                bias: Some(sum.narrow(1, h, 1).reshape([v])),
            },
            None => HeadGradient { weight: sum, bias: None },
        }
    }

    /// −Σ over all rows for some columns, the `tile`-th ones, without the tokens' own part.
    fn columns(
        &self,
        config: FusedConfig,
        columns: &Head,
        tile: usize,
        [scaled, rows, g]: [&Tensor<2>; 3],
        k: Option<&Tensor<2>>,
    ) -> Tensor<2> {
        let ([m, wide], [v, _]) = (rows.dims(), columns.weight.dims());
        let [height, _] = config.shape(m, v);
        let mut sum: Option<Tensor<2>> = None;
        for (block, start) in (0..m).step_by(height).enumerate() {
            let n = height.min(m - start);
            let some = |x: &Tensor<2>| x.clone().narrow(0, start, n);
            let log_z = some(&self.log_z);
            let log_share = self.log_parts[block][tile].clone() - log_z.clone();
            let share = log_share.exp().mul_scalar(-config.slope());
            let logits = columns.tile(config, some(scaled));
            let mut pulled = softmax(logits.z.clone(), 1);
            let on_rows = match (k, &self.entropy) {
                (Some(k), Some(entropy)) => {
                    // g + k (log p + H).
                    let offset = some(entropy) - log_z;
                    pulled = pulled * ((logits.z + offset) * some(k) + some(g));
                    share
                }
                _ => share * some(g),
            };
            if let Some(slope) = logits.slope {
                pulled = pulled * slope;
            }
            let part = pulled.transpose().matmul(some(rows) * on_rows);
            sum = Some(match sum {
                Some(sum) => sum + part,
                None => part,
            });
        }
        sum.unwrap_or_else(|| Tensor::zeros([v, wide], &rows.device()))
    }
}
