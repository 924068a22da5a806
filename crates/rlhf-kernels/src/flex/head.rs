//! Log-probabilities straight from hidden states.
//!
//! ```text
//! z = cap(y) / T     y = W h     ∂ log p(t) / ∂y = cap′ (1[v = t] − p) / T
//! ```
//!
//! Rows are done in blocks of a fixed number of logits. Of a small head, e^(z − max z) is kept, with
//! −Z added at the target: times −g / (Z T) a row that is the gradient of the logits, and the factor is
//! put on h instead. Of a larger or a capped one only log Z is kept, and the logits are made again.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use pulp::Simd;
use rayon::prelude::*;

use super::{dense, indices, matmul, numbers, rows_per_piece, tensor, transposed, width};
use crate::head::{HeadLogp, Side};
use crate::simd::{self, run};
use crate::slice::{Cap, Tanh};

/// Logits of a block, 16 MiB.
const BLOCK: usize = 1 << 22;

/// Logits that are kept, 32 MiB.
const KEPT: usize = 1 << 23;

/// A head and the rows that go through it.
#[derive(Debug, Clone)]
struct Call {
    hidden: FlexTensor,
    weight: FlexTensor,
    targets: Vec<usize>,
    how: HeadLogp,
    side: Side,
}

impl Call {
    fn new(hidden: FlexTensor, weight: FlexTensor, targets: FlexTensor, how: HeadLogp, side: Side) -> Self {
        let axis = match side {
            Side::Columns => 1,
            Side::Rows => 0,
        };
        let targets = indices("head_logp", targets, weight.layout().shape()[axis]);
        Self { hidden: dense(hidden), weight: dense(weight), targets, how, side }
    }

    fn vocabulary(&self) -> usize {
        let shape = self.weight.layout().shape();
        match self.side {
            Side::Columns => shape[1],
            Side::Rows => shape[0],
        }
    }

    /// `[d, V]`.
    fn forth(&self) -> FlexTensor {
        match self.side {
            Side::Columns => self.weight.clone(),
            Side::Rows => transposed(&self.weight),
        }
    }

    /// `[V, d]`.
    fn back(&self) -> FlexTensor {
        match self.side {
            Side::Columns => transposed(&self.weight),
            Side::Rows => self.weight.clone(),
        }
    }

    /// Whether the logits of all rows may be kept.
    fn small(&self) -> bool {
        self.how.softcap.is_none() && self.targets.len() * self.vocabulary() <= KEPT
    }

    /// Starts and lengths of the blocks of rows.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (m, v) = (self.targets.len(), self.vocabulary());
        let rows = if self.small() { m.max(1) } else { (BLOCK / v).clamp(1, m.max(1)) };
        (0..m).step_by(rows).map(move |start| (start, rows.min(m - start)))
    }

    /// y of some rows.
    fn products(&self, start: usize, n: usize) -> FlexTensor {
        matmul(self.hidden.narrow(0, start, n), self.forth())
    }

    /// The gradient of the weight from that of y.
    fn to_weight(&self, to_y: &FlexTensor, hidden: FlexTensor) -> FlexTensor {
        match self.side {
            Side::Columns => matmul(transposed(&hidden), to_y.clone()),
            Side::Rows => matmul(transposed(to_y), hidden),
        }
    }
}

/// What is kept for the way back.
#[derive(Debug, Clone)]
struct Saved {
    call: Call,
    /// Of a small head: e^(z − max) − Z 1[v = t], and Z / e^max.
    shares: Option<FlexTensor>,
    /// Z / e^max where shares are kept, log Z elsewhere.
    rows: Vec<f32>,
}

/// Some rows of y on the way forward.
struct Forward<'a> {
    y: &'a mut [f32],
    targets: &'a [usize],
    how: HeadLogp,
    /// What is kept of a row.
    rows: &'a mut [f32],
    logp: &'a mut [f32],
    keep: Keep,
}

/// What a row leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Shares,
    LogZ,
}

#[inline(always)]
fn forward_with<S: Simd>(s: S, io: Forward<'_>) {
    let v = io.y.len() / io.targets.len();
    let factor = (1.0 / io.how.temperature) as f32;
    let rows = io.y.chunks_exact_mut(v).zip(io.targets).zip(io.rows).zip(io.logp);
    for (((y, target), row), logp) in rows {
        if let Some(cap) = io.how.softcap {
            simd::map_in_place(s, Cap(cap as f32), y);
        }
        let (largest, at) = (simd::max(s, y), y[*target]);
        let z = simd::exp_shifted(s, y, largest, factor);
        // One rounding: a ratio of probabilities is the exponential of a small difference of these.
        let log_z = f64::from(z).ln();
        *logp = (f64::from(at - largest) * f64::from(factor) - log_z) as f32;
        match io.keep {
            Keep::Shares => {
                y[*target] -= z;
                *row = z;
            }
            Keep::LogZ => *row = (f64::from(largest) * f64::from(factor) + log_z) as f32,
        }
    }
}

/// The log-probabilities and what a backward pass needs.
fn forward(call: Call) -> (FlexTensor, Saved) {
    let (m, v) = (call.targets.len(), call.vocabulary());
    let (mut rows, mut logp) = (vec![0.0; m], vec![0.0; m]);
    let keep = if call.small() { Keep::Shares } else { Keep::LogZ };
    let mut shares = None;
    for (start, n) in call.blocks() {
        let mut y = call.products(start, n);
        let here = start..start + n;
        let piece = rows_per_piece(v);
        let values = y.storage_mut::<f32>().par_chunks_mut(piece * v);
        let targets = call.targets[here.clone()].par_chunks(piece);
        let kept = rows[here.clone()].par_chunks_mut(piece).zip(logp[here].par_chunks_mut(piece));
        values.zip(targets).zip(kept).for_each(|((y, targets), (rows, logp))| {
            let io = Forward { y, targets, how: call.how, rows, logp, keep };
            run!('a, forward_with(io: Forward<'a>) -> ());
        });
        if keep == Keep::Shares {
            shares = Some(y);
        }
    }
    (tensor(logp, [m]), Saved { call, shares, rows })
}

/// Some rows of y on the way back.
struct Back<'a> {
    y: &'a mut [f32],
    targets: &'a [usize],
    how: HeadLogp,
    log_z: &'a [f32],
    grad: &'a [f32],
}

/// y becomes its gradient.
#[inline(always)]
fn back_with<S: Simd>(s: S, io: Back<'_>) {
    let Back { y, targets, how, log_z, grad } = io;
    let v = y.len() / targets.len();
    let factor = (1.0 / how.temperature) as f32;
    let mut slope = vec![0.0; if how.softcap.is_some() { v } else { 0 }];
    let rows = y.chunks_exact_mut(v).zip(targets).zip(log_z).zip(grad);
    for (((y, target), log_z), g) in rows {
        if let Some(cap) = how.softcap {
            simd::scale(s, y, 1.0 / cap as f32);
            simd::map_in_place(s, Tanh, y);
            slope.iter_mut().zip(&*y).for_each(|(slope, t)| *slope = 1.0 - t * t);
            simd::scale(s, y, cap as f32);
        }
        simd::exp_shifted(s, y, log_z / factor, factor);
        y[*target] -= 1.0;
        simd::scale(s, y, -g * factor);
        y.iter_mut().zip(&slope).for_each(|(y, slope)| *y *= slope);
    }
}

impl Saved {
    /// Gradients of hidden states and weight, where they are wanted.
    fn backward(&self, grad: &[f32], wanted: Wanted) -> Pulled {
        match &self.shares {
            Some(shares) => self.by_shares(shares, grad, wanted),
            None => self.by_blocks(grad, wanted),
        }
    }

    fn by_shares(&self, shares: &FlexTensor, grad: &[f32], wanted: Wanted) -> Pulled {
        let call = &self.call;
        let factor = -1.0 / call.how.temperature as f32;
        let factors: Vec<f32> = grad.iter().zip(&self.rows).map(|(g, z)| factor * g / z).collect();
        let hidden = wanted.hidden.then(|| {
            let mut to_hidden = matmul(shares.clone(), call.back());
            times_rows(to_hidden.storage_mut(), &factors);
            to_hidden
        });
        let weight = wanted.weight.then(|| {
            let mut scaled = numbers(&call.hidden).to_vec();
            times_rows(&mut scaled, &factors);
            call.to_weight(shares, tensor(scaled, [factors.len(), width(&call.hidden)]))
        });
        Pulled { hidden, weight }
    }

    fn by_blocks(&self, grad: &[f32], wanted: Wanted) -> Pulled {
        let (call, d) = (&self.call, width(&self.call.hidden));
        let mut to_hidden = Vec::with_capacity(if wanted.hidden { grad.len() * d } else { 0 });
        let mut to_weight: Option<FlexTensor> = None;
        for (start, n) in call.blocks() {
            let y = self.to_products(start, n, grad);
            if wanted.weight {
                let part = call.to_weight(&y, call.hidden.narrow(0, start, n));
                to_weight = Some(match to_weight {
                    Some(sum) => Flex::float_add(sum, part),
                    None => part,
                });
            }
            if wanted.hidden {
                to_hidden.extend_from_slice(numbers(&matmul(y, call.back())));
            }
        }
        Pulled { hidden: wanted.hidden.then(|| tensor(to_hidden, [grad.len(), d])), weight: to_weight }
    }

    /// The gradient of y for `n` rows from `start`, from the logits made again.
    fn to_products(&self, start: usize, n: usize, grad: &[f32]) -> FlexTensor {
        let (call, v, here) = (&self.call, self.call.vocabulary(), start..start + n);
        let (mut y, piece) = (call.products(start, n), rows_per_piece(v));
        let values = y.storage_mut::<f32>().par_chunks_mut(piece * v);
        let targets = call.targets[here.clone()].par_chunks(piece);
        let kept = self.rows[here.clone()].par_chunks(piece).zip(grad[here].par_chunks(piece));
        values.zip(targets).zip(kept).for_each(|((y, targets), (log_z, grad))| {
            let io = Back { y, targets, how: call.how, log_z, grad };
            run!('a, back_with(io: Back<'a>) -> ());
        });
        y
    }
}

/// Which gradients someone asks for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    hidden: bool,
    weight: bool,
}

/// Those gradients.
struct Pulled {
    hidden: Option<FlexTensor>,
    weight: Option<FlexTensor>,
}

/// Each row of `x` times its factor.
fn times_rows(x: &mut [f32], factors: &[f32]) {
    let n = x.len().checked_div(factors.len()).unwrap_or(1).max(1);
    let rows = rows_per_piece(n);
    x.par_chunks_mut(rows * n).zip(factors.par_chunks(rows)).for_each(|(x, factors)| {
        for (x, factor) in x.chunks_exact_mut(n).zip(factors) {
            x.iter_mut().for_each(|x| *x *= factor);
        }
    });
}

#[derive(Debug)]
struct Node;

impl Backward<Flex, 2> for Node {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [hidden, weight] = ops.parents;
        let grad = dense(grads.consume::<Flex>(&ops.node));
        let wanted = Wanted { hidden: hidden.is_some(), weight: weight.is_some() };
        let pulled = ops.state.backward(numbers(&grad), wanted);
        for (parent, gradient) in [(hidden, pulled.hidden), (weight, pulled.weight)] {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

pub(super) fn plain(
    hidden: FlexTensor,
    weight: FlexTensor,
    targets: FlexTensor,
    how: HeadLogp,
    side: Side,
) -> FlexTensor {
    let (m, mut logp) = (targets.layout().num_elements(), Vec::new());
    let call = Call::new(hidden, weight, targets, how, side);
    // Block by block, so that nothing large is kept.
    let rows = (BLOCK / call.vocabulary()).max(1);
    for start in (0..m).step_by(rows) {
        let n = rows.min(m - start);
        let hidden = call.hidden.narrow(0, start, n);
        let targets = call.targets[start..start + n].to_vec();
        let (part, _) = forward(Call { hidden: dense(hidden), targets, ..call.clone() });
        logp.extend_from_slice(numbers(&part));
    }
    tensor(logp, [m])
}

pub(super) fn tracked<C: CheckpointStrategy>(
    hidden: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    targets: IntTensor<Autodiff<Flex, C>>,
    how: HeadLogp,
    side: Side,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = [hidden.node(), weight.node()];
    let (hidden, weight) = (hidden.into_primitive(), weight.into_primitive());
    match Node.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let (out, saved) = forward(Call::new(hidden, weight, targets, how, side));
            prep.finish(saved, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(plain(hidden, weight, targets, how, side)),
    }
}
