//! Which blocks are left out of a rollout batch.
//!
//! ```text
//! k = ⌊x L⌋          S ⊆ {b, …, L − 1 − b},   |S| = k
//! ```
//!
//! Where: x is `ratio`, L the number of blocks, b is `border`: so many first and last blocks always stay,
//! since those beside the embedding and the head are missed most. k is rounded down, so the realised
//! ratio k/L is often smaller than x. A draw depends on the seed and the batch's index alone.
//! Paper: Heuillet et al., *Nested-ReFT*, arXiv:2508.10123, whose abstract has layers skipped anew for
//! each batch; the uniform draw and the borders are our reading. Depth-weighted draws: block dropout that
//! rises with depth, as in Elhoushi et al., *LayerSkip*, arXiv:2404.16710.

use std::ops::Range;

use rand::RngExt;
use rlhf_core::number::{Finite, Prob};
use rlhf_core::rng::stream;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A decimal ratio such as 0.29 of 100 blocks must not lose a block to its last binary digit.
const ROUNDING: f64 = 1e-9;

/// Blocks to leave out; any `Fn(u64) -> Vec<usize>` is one.
pub trait LayerSchedule {
    /// Blocks left out in rollout batch `batch`, sorted, without repetition.
    fn skipped(&self, batch: u64) -> Vec<usize>;
}

impl<F: Fn(u64) -> Vec<usize>> LayerSchedule for F {
    fn skipped(&self, batch: u64) -> Vec<usize> {
        self(batch)
    }
}

/// A schedule by name, without the model and the seed.
///
/// ```
/// use rlhf_nested::schedule::ScheduleConfig;
///
/// let config: ScheduleConfig =
///     serde_json::from_str(r#"{"kind": "uniform", "ratio": 0.15, "border": 1}"#).expect("a schedule");
/// // ⌊0.15 · 28⌋ = 4 blocks.
/// assert_eq!(config.realised_ratio(28, 0), 4.0 / 28.0);
/// // Of 28 blocks, borders of 13 leave two.
/// let wide = ScheduleConfig::Uniform { ratio: rlhf_core::number::Prob::new(0.15)?, border: 13 };
/// assert_eq!(
///     wide.build(28, 0).err().map(|e| e.to_string()).as_deref(),
///     Some("schedule: border: expected at most 12, so that 4 of 28 blocks can be left out, found 13"),
/// );
/// # Ok::<(), rlhf_core::error::NumError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// Nothing is left out: plain reinforced fine-tuning.
    None {},
    /// [`Uniform`].
    Uniform {
        /// x, of all blocks.
        ratio: Prob,
        /// Blocks at each end that always stay.
        border: usize,
    },
    /// [`Fixed`].
    Fixed {
        /// The blocks, from 0, in ascending order.
        layers: Vec<usize>,
    },
    /// [`LinearRamp`].
    LinearRamp {
        /// x of batch 0.
        from: Prob,
        /// x of batch `n_batches` and of all later ones.
        to: Prob,
        /// Length of the ramp in rollout batches.
        n_batches: u64,
        /// Blocks at each end that always stay.
        border: usize,
    },
    /// [`DepthWeighted`].
    DepthWeighted {
        /// x, of all blocks.
        ratio: Prob,
        /// Blocks at each end that always stay.
        border: usize,
        /// How much likelier late blocks are left out.
        power: Finite,
    },
}

impl ScheduleConfig {
    /// The schedule of a model with `n_layers` blocks; `seed` names its random streams.
    ///
    /// # Errors
    /// A ratio that leaves no block, borders that leave nothing to draw from or less than is to be drawn,
    /// a block that does not exist, stands twice or out of order, a ramp of no batches.
    pub fn build(&self, n_layers: usize, seed: u64) -> Result<Box<dyn LayerSchedule>, Error> {
        Ok(match self {
            Self::None {} => Box::new(Whole),
            Self::Uniform { ratio, border } => Box::new(Uniform::new(*ratio, *border, n_layers, seed)?),
            Self::Fixed { layers } => Box::new(Fixed::new(layers.clone(), n_layers)?),
            Self::LinearRamp { from, to, n_batches, border } => {
                let ramp = Ramp { from: *from, to: *to, n_batches: *n_batches };
                Box::new(LinearRamp::new(ramp, *border, n_layers, seed)?)
            }
            Self::DepthWeighted { ratio, border, power } => {
                let inner = Inner::new(*border, n_layers)?;
                Box::new(DepthWeighted::new(*ratio, *power, inner, seed)?)
            }
        })
    }

    /// k/L of rollout batch `batch`, after rounding; nothing is checked.
    pub fn realised_ratio(&self, n_layers: usize, batch: u64) -> f64 {
        let k = match self {
            Self::None {} => 0,
            Self::Fixed { layers } => layers.len(),
            Self::Uniform { ratio, .. } | Self::DepthWeighted { ratio, .. } => {
                n_skipped(ratio.get(), n_layers)
            }
            Self::LinearRamp { from, to, n_batches, .. } => {
                n_skipped(Ramp { from: *from, to: *to, n_batches: *n_batches }.ratio(batch), n_layers)
            }
        };
        k as f64 / n_layers as f64
    }
}

/// ⌊x L⌋.
fn n_skipped(ratio: f64, n_layers: usize) -> usize {
    (ratio * n_layers as f64 + ROUNDING).floor() as usize
}

/// The blocks between the borders of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    blocks: Range<usize>,
    n_layers: usize,
}

impl Inner {
    /// All of `n_layers` blocks but the first and the last `border`.
    ///
    /// # Errors
    /// Borders that leave nothing.
    pub fn new(border: usize, n_layers: usize) -> Result<Self, Error> {
        if border.saturating_mul(2) < n_layers {
            return Ok(Self { blocks: border..n_layers - border, n_layers });
        }
        let expected = format!("less than half of {n_layers} blocks, so that one is left between");
        Err(Error::schedule("border", expected, border))
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> Range<usize> {
        self.blocks.clone()
    }

    /// k of this ratio, which must be there to be drawn.
    fn count(&self, field: &'static str, ratio: Prob) -> Result<usize, Error> {
        let (k, all) = (n_skipped(ratio.get(), self.n_layers), self.n_layers);
        if k >= all {
            let expected = format!("a ratio that leaves at least one of {all} blocks");
            return Err(Error::schedule(field, expected, ratio.get()));
        }
        if k > self.blocks.len() {
            let expected = format!("at most {}, so that {k} of {all} blocks can be left out", (all - k) / 2);
            return Err(Error::schedule("border", expected, self.blocks.start));
        }
        Ok(k)
    }

    /// A uniform subset of `k` blocks.
    fn draw(&self, k: usize, seed: u64, batch: u64) -> Vec<usize> {
        let mut rng = stream(seed, PURPOSE, batch, 0);
        let mut blocks: Vec<usize> = self.blocks.clone().collect();
        // The first k places of a shuffle, and no more of it.
        for i in 0..k {
            let j = rng.random_range(i..blocks.len());
            blocks.swap(i, j);
        }
        sorted(blocks, k)
    }
}

/// The name of the random streams.
const PURPOSE: &str = "nested/layers";

fn sorted(mut blocks: Vec<usize>, k: usize) -> Vec<usize> {
    blocks.truncate(k);
    blocks.sort_unstable();
    blocks
}

/// Leaves nothing out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole;

impl LayerSchedule for Whole {
    fn skipped(&self, _: u64) -> Vec<usize> {
        Vec::new()
    }
}

/// A fresh uniform draw of k blocks for every batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uniform {
    inner: Inner,
    k: usize,
    seed: u64,
}

impl Uniform {
    /// ⌊`ratio` · `n_layers`⌋ of the blocks between the borders.
    ///
    /// # Errors
    /// A ratio that leaves no block, or borders that leave too few to draw from.
    pub fn new(ratio: Prob, border: usize, n_layers: usize, seed: u64) -> Result<Self, Error> {
        let inner = Inner::new(border, n_layers)?;
        Ok(Self { k: inner.count("ratio", ratio)?, inner, seed })
    }
}

impl LayerSchedule for Uniform {
    fn skipped(&self, batch: u64) -> Vec<usize> {
        self.inner.draw(self.k, self.seed, batch)
    }
}

/// The same blocks in every batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    layers: Vec<usize>,
}

impl Fixed {
    /// These of `n_layers` blocks.
    ///
    /// # Errors
    /// A block that does not exist, stands twice or out of order, or all blocks.
    pub fn new(layers: Vec<usize>, n_layers: usize) -> Result<Self, Error> {
        checked(&layers, n_layers)?;
        Ok(Self { layers })
    }
}

impl LayerSchedule for Fixed {
    fn skipped(&self, _: u64) -> Vec<usize> {
        self.layers.clone()
    }
}

/// What every set of blocks must be.
pub(crate) fn checked(layers: &[usize], n_layers: usize) -> Result<(), Error> {
    let wrong = |expected: String| Err(Error::schedule("layers", expected, format!("{layers:?}")));
    if layers.iter().any(|i| *i >= n_layers) {
        return wrong(format!("indices below {n_layers}, the number of blocks"));
    }
    if !layers.is_sorted_by(|a, b| a < b) {
        return wrong("ascending indices, none twice".to_owned());
    }
    if layers.len() == n_layers {
        return wrong(format!("at least one of {n_layers} blocks left"));
    }
    Ok(())
}

/// A ratio that moves linearly from batch 0 to batch `n_batches` and stays there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// x of batch 0.
    pub from: Prob,
    /// x at the end.
    pub to: Prob,
    /// Length in rollout batches.
    pub n_batches: u64,
}

impl Ramp {
    fn ratio(&self, batch: u64) -> f64 {
        let share = (batch as f64 / self.n_batches as f64).min(1.0);
        self.from.get() + share * (self.to.get() - self.from.get())
    }
}

/// As [`Uniform`], of a ratio that changes from batch to batch: few blocks are left out while the policy
/// is not yet used to it, or ever fewer towards the end.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearRamp {
    inner: Inner,
    ramp: Ramp,
    seed: u64,
}

impl LinearRamp {
    /// Blocks between the borders, as many as the ramp says.
    ///
    /// # Errors
    /// A ramp of no batches, and at either end what [`Uniform::new`] refuses.
    pub fn new(ramp: Ramp, border: usize, n_layers: usize, seed: u64) -> Result<Self, Error> {
        if ramp.n_batches == 0 {
            return Err(Error::schedule("n_batches", "at least one batch", 0));
        }
        let inner = Inner::new(border, n_layers)?;
        inner.count("from", ramp.from)?;
        inner.count("to", ramp.to)?;
        Ok(Self { inner, ramp, seed })
    }
}

impl LayerSchedule for LinearRamp {
    fn skipped(&self, batch: u64) -> Vec<usize> {
        let k = n_skipped(self.ramp.ratio(batch), self.inner.n_layers);
        self.inner.draw(k, self.seed, batch)
    }
}

/// k blocks drawn one after the other without replacement, block i in proportion to ((i + 1) / L)^power:
/// later blocks rather than earlier ones for a positive power, earlier ones for a negative, any for 0.
#[derive(Debug, Clone, PartialEq)]
pub struct DepthWeighted {
    inner: Inner,
    k: usize,
    power: f64,
    seed: u64,
}

impl DepthWeighted {
    /// ⌊`ratio` · L⌋ of the blocks of `inner`.
    ///
    /// # Errors
    /// A ratio that leaves no block, or more than there are between the borders.
    pub fn new(ratio: Prob, power: Finite, inner: Inner, seed: u64) -> Result<Self, Error> {
        Ok(Self { k: inner.count("ratio", ratio)?, inner, power: power.get(), seed })
    }
}

impl LayerSchedule for DepthWeighted {
    fn skipped(&self, batch: u64) -> Vec<usize> {
        let mut rng = stream(self.seed, PURPOSE, batch, 0);
        // Efraimidis and Spirakis (2006): the k largest of ln(u)/w are such a draw. In logarithms, so that
        // no power makes a weight 0 or infinite: ln(−ln u) − ln w, smallest first.
        let key = |i: usize, u: f64| {
            (-u.ln()).ln() - self.power * ((i + 1) as f64 / self.inner.n_layers as f64).ln()
        };
        let mut keyed: Vec<(f64, usize)> =
            self.inner.blocks.clone().map(|i| (key(i, rng.random::<f64>()), i)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        sorted(keyed.into_iter().map(|(_, i)| i).collect(), self.k)
    }
}

#[cfg(test)]
mod tests;
