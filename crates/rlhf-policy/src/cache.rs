//! The key–value cache of a batch of rows.
//!
//! Row `i` keeps the key of its position `p` in column `p`, whatever the other rows do; columns
//! behind a row's end are masked. A row's numbers therefore never depend on how its neighbours
//! were padded, and rows of different lengths decode together.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::rope::Rope;

/// Columns are read in multiples of this, so that a row's sums have the same shape at the same
/// position in every batch.
pub const COLUMN_BLOCK: usize = 32;

/// Keys `[B, H_kv, D, capacity]` and values `[B, H_kv, capacity, D]` of every layer, and each row's
/// length.
///
/// Keys lie transposed: a product with keys that lie by position takes other code, and rounds
/// otherwise, below 256 scores than above, so that a row would depend on its neighbours' lengths.
#[derive(Debug, Clone)]
pub struct KvCache {
    keys: Vec<Option<Tensor<4>>>,
    values: Vec<Option<Tensor<4>>>,
    lengths: Vec<usize>,
    /// The blocks that are computed, in order; slot `i` of keys and values is that of `layers[i]`.
    layers: Vec<usize>,
    capacity: usize,
}

/// What one cached forward pass needs: rotary tables, the additive masks, and where rows write.
#[derive(Debug)]
pub(crate) struct Step {
    /// Cosines and sines of each rotation.
    pub(crate) turns: Vec<(Tensor<4>, Tensor<4>)>,
    /// One mask a window in use, made when a layer first asks for it.
    masks: Vec<(Option<usize>, Tensor<4>)>,
    /// Position of each query; all rows of a prefill share theirs.
    positions: Vec<usize>,
    /// `(rows, tokens a row)` of `positions`.
    shape: (usize, usize),
    columns: usize,
    /// `(first row, rows, column)`: runs of rows that write the same column.
    runs: Vec<(usize, usize, usize)>,
}

impl Step {
    /// `[1 or B, 1, T, columns]`: 0 for columns a query may see, −∞ for the rest.
    pub(crate) fn mask(&mut self, window: Option<usize>, device: &Device) -> Tensor<4> {
        if let Some((_, mask)) = self.masks.iter().find(|(w, _)| *w == window) {
            return mask.clone();
        }
        let mut mask = vec![f32::NEG_INFINITY; self.positions.len() * self.columns];
        for (row, position) in mask.chunks_mut(self.columns).zip(&self.positions) {
            let first = window.map_or(0, |w| (position + 1).saturating_sub(w));
            row[first..=*position].fill(0.0);
        }
        let (rows, t) = self.shape;
        let mask = Tensor::from_data(TensorData::new(mask, [rows, 1, t, self.columns]), device);
        self.masks.push((window, mask.clone()));
        mask
    }

    /// Position of each query.
    pub(crate) fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// `(rows, tokens a row)` of the positions: one row stands for all of a prefill.
    pub(crate) fn shape(&self) -> (usize, usize) {
        self.shape
    }
}

impl KvCache {
    /// An empty cache of `rows` rows for a model of `layers` layers, with room for `capacity`
    /// positions a row.
    pub fn new(layers: usize, rows: usize, capacity: usize) -> Self {
        Self::through((0..layers).collect(), rows, capacity)
    }

    /// As [`KvCache::new`], for a pass through the blocks of these indices only.
    pub fn through(layers: Vec<usize>, rows: usize, capacity: usize) -> Self {
        Self {
            keys: vec![None; layers.len()],
            values: vec![None; layers.len()],
            lengths: vec![0; rows],
            layers,
            capacity: capacity.next_multiple_of(COLUMN_BLOCK),
        }
    }

    /// The blocks that are computed, in order.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// How many positions each row holds.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Tells the cache the true prompt lengths after a prefill of right-padded rows.
    ///
    /// # Panics
    /// When there is not one length a row.
    pub fn set_lengths(&mut self, lengths: &[usize]) {
        assert_eq!(lengths.len(), self.lengths.len(), "kv cache: one length a row");
        self.lengths.copy_from_slice(lengths);
    }

    /// Keeps the rows named, in that order; a row may be named more than once, which is how K
    /// samples of one prompt share its prefill.
    pub fn select(&mut self, rows: &[usize]) {
        self.lengths = rows.iter().map(|r| self.lengths[*r]).collect();
        for slot in self.keys.iter_mut().chain(&mut self.values) {
            *slot = slot.take().map(|x| {
                let index: Vec<i64> = rows.iter().map(|r| *r as i64).collect();
                let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), &x.device());
                x.select(0, index)
            });
        }
    }

    /// Adds rows of another cache behind those that are here; a row may be named more than once.
    ///
    /// # Panics
    /// When the other cache has been filled beyond this one's room.
    #[track_caller]
    pub fn append_rows(&mut self, other: &Self, rows: &[usize]) {
        let mut other = other.clone();
        other.select(rows);
        assert!(
            other.capacity <= self.capacity,
            "kv cache: {} columns into {}",
            other.capacity,
            self.capacity
        );
        let capacity = self.capacity;
        let join = |mine: &mut Option<Tensor<4>>, new: Option<Tensor<4>>, axis: usize| {
            let Some(new) = new else { return };
            let mut dims = new.dims();
            let columns = dims[axis];
            dims[axis] = capacity;
            let new = if columns == capacity {
                new
            } else {
                let place = new.dims().map(|n| 0..n);
                Tensor::zeros(dims, &new.device()).slice_assign(place, new)
            };
            *mine = Some(match mine.take() {
                Some(mine) => Tensor::cat(vec![mine, new], 0),
                None => new,
            });
        };
        for (mine, new) in self.keys.iter_mut().zip(other.keys) {
            join(mine, new, 3);
        }
        for (mine, new) in self.values.iter_mut().zip(other.values) {
            join(mine, new, 2);
        }
        self.lengths.extend(other.lengths);
    }

    pub(crate) fn plan(&self, t: usize, ropes: &[Rope], device: &Device) -> Step {
        let prefill = self.keys.first().is_none_or(Option::is_none);
        let longest = self.lengths.iter().max().map_or(0, |l| l + t);
        assert!(longest <= self.capacity, "kv cache: {longest} positions, room for {}", self.capacity);
        assert!(prefill || t == 1, "kv cache: {t} tokens a row after the prefill, expected 1");
        let columns = longest.next_multiple_of(COLUMN_BLOCK).min(self.capacity);
        let (positions, shape) = if prefill {
            ((0..t).collect(), (1, t))
        } else {
            (self.lengths.clone(), (self.lengths.len(), 1))
        };
        let turns = ropes
            .iter()
            .map(|rope| if prefill { rope.tables(0, t, device) } else { rope.rows(&self.lengths, device) });
        Step { turns: turns.collect(), masks: Vec::new(), positions, shape, columns, runs: self.runs() }
    }

    fn runs(&self) -> Vec<(usize, usize, usize)> {
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        for (row, &column) in self.lengths.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if run.2 == column => run.1 += 1,
                _ => runs.push((row, 1, column)),
            }
        }
        runs
    }

    /// Writes the new keys and values of `layer`, both `[B, H_kv, T, D]`, and returns all its columns
    /// in use: keys `[B, H_kv, D, S]`, values `[B, H_kv, S, D]`.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        k: Tensor<4>,
        v: Tensor<4>,
        step: &Step,
    ) -> (Tensor<4>, Tensor<4>) {
        let capacity = self.capacity;
        // `axis` is the one of the positions.
        let write = |slot: &mut Option<Tensor<4>>, new: Tensor<4>, axis: usize| {
            let mut dims = new.dims();
            let t = dims[axis];
            dims[axis] = capacity;
            let mut all = slot.take().unwrap_or_else(|| Tensor::zeros(dims, &new.device()));
            for &(first, rows, column) in &step.runs {
                let part = if rows == dims[0] { new.clone() } else { new.clone().narrow(0, first, rows) };
                let mut place = dims.map(|n| 0..n);
                place[0] = first..first + rows;
                place[axis] = column..column + t;
                all = all.slice_assign(place, part);
            }
            let view = all.clone().narrow(axis, 0, step.columns);
            *slot = Some(all);
            view
        };
        (write(&mut self.keys[layer], k.swap_dims(2, 3), 3), write(&mut self.values[layer], v, 2))
    }

    pub(crate) fn advance(&mut self, t: usize) {
        for length in &mut self.lengths {
            *length += t;
        }
    }
}
