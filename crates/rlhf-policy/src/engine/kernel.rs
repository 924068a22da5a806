//! The product of some rows with a packed linear map.
//!
//! One output number is one chain of fused multiply-adds over the inputs in their order, whatever rows
//! stand beside it and however the work is cut. So a row's numbers have the same bits in every batch and
//! on every number of threads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Columns of a panel of weights, and of a block of numbers.
pub(super) const WIDTH: usize = 64;

/// Rows whose sums stay in registers together.
const TALL: usize = 6;

/// Multiplications below which threads cost more than they bring.
pub(super) const SMALL: usize = 1 << 16;

/// A linear map in panels of [`WIDTH`] outputs: `[out / WIDTH][in][WIDTH]`, filled up with zeros.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) panels: Vec<f32>,
    /// `[out]`, filled up with zeros; empty without a bias.
    pub(super) bias: Vec<f32>,
}

/// Rows of numbers, read in blocks of [`WIDTH`] columns.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    data: &'a [f32],
    /// From a block of columns to the next.
    block: usize,
    /// From a row to the next.
    row: usize,
}

impl<'a> Rows<'a> {
    /// Row after row: `[rows, width]`.
    pub(super) fn dense(data: &'a [f32], width: usize) -> Self {
        Self { data, block: WIDTH, row: width }
    }

    /// Block after block, `block` numbers apart: `[width / WIDTH][rows][WIDTH]`.
    pub(super) fn blocked(data: &'a [f32], block: usize) -> Self {
        Self { data, block, row: WIDTH }
    }
}

/// What happens to what the result's place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Replace,
    Add,
}

impl Map {
    /// How many panels there are.
    pub(super) fn n_panels(&self) -> usize {
        self.outputs.div_ceil(WIDTH)
    }

    /// `out ← x · panel` for one panel: `out` is `[rows][WIDTH]`.
    pub(super) fn panel(&self, arch: Arch, panel: usize, x: Rows<'_>, out: &mut [f32], put: Put) {
        let size = self.inputs * WIDTH;
        let bias = self.bias.get(panel * WIDTH..(panel + 1) * WIDTH);
        arch.dispatch(Panel { x, weights: &self.panels[panel * size..][..size], bias, out, put });
    }

    /// `out ← x · map`, or `out ← out + x · map`, in blocks of columns: `[out / WIDTH][rows][WIDTH]`.
    /// `after` is called on each finished block.
    pub(super) fn multiply(&self, arch: Arch, x: Rows<'_>, to: To<'_>, after: &(dyn Fn(&mut [f32]) + Sync)) {
        let To { out, rows, put } = to;
        let one = |(panel, out): (usize, &mut [f32])| {
            self.panel(arch, panel, x, out, put);
            after(out);
        };
        spread(&mut out[..self.n_panels() * rows * WIDTH], rows * WIDTH, rows * self.inputs * WIDTH, one);
    }
}

/// Where a product goes.
pub(super) struct To<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) put: Put,
}

/// Does `one` on every piece of `size` numbers, side by side where that pays: `cost` is the
/// multiplications of a piece.
pub(super) fn spread(
    out: &mut [f32],
    size: usize,
    cost: usize,
    one: impl Fn((usize, &mut [f32])) + Send + Sync,
) {
    if size == 0 {
        return;
    }
    if out.len() / size * cost < SMALL {
        out.chunks_mut(size).enumerate().for_each(one);
    } else {
        out.par_chunks_mut(size).enumerate().for_each(one);
    }
}

struct Panel<'a> {
    x: Rows<'a>,
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
    put: Put,
}

impl WithSimd for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let rows = self.out.len() / WIDTH;
        let mut row = 0;
        while row < rows {
            match rows - row {
                1 => strip::<S, 1>(s, &mut self, row),
                2 => strip::<S, 2>(s, &mut self, row),
                3 => strip::<S, 3>(s, &mut self, row),
                4 => strip::<S, 4>(s, &mut self, row),
                5 => strip::<S, 5>(s, &mut self, row),
                _ => strip::<S, TALL>(s, &mut self, row),
            }
            row += TALL;
        }
    }
}

/// `M` rows of the result, in as many columns at a time as registers hold.
#[inline(always)]
fn strip<S: Simd, const M: usize>(s: S, job: &mut Panel<'_>, row: usize) {
    let mut column = 0;
    while column < WIDTH {
        if S::F32_LANES >= 16 {
            tile::<S, M, 4>(s, job, row, column);
            column += 4 * S::F32_LANES;
        } else {
            tile::<S, M, 2>(s, job, row, column);
            column += 2 * S::F32_LANES;
        }
    }
}

#[inline(always)]
fn tile<S: Simd, const M: usize, const W: usize>(s: S, job: &mut Panel<'_>, row: usize, column: usize) {
    let width = W * S::F32_LANES;
    let mut sums = [[s.splat_f32s(0.0); W]; M];
    for (block, lines) in job.weights.as_chunks::<WIDTH>().0.chunks(WIDTH).enumerate() {
        let x: [&[f32]; M] = std::array::from_fn(|m| {
            &job.x.data[block * job.x.block + (row + m) * job.x.row..][..lines.len()]
        });
        for (i, line) in lines.iter().enumerate() {
            let line = vectors::<S, W>(&line[column..column + width]);
            for m in 0..M {
                let x = s.splat_f32s(x[m][i]);
                for w in 0..W {
                    sums[m][w] = s.mul_add_e_f32s(x, line[w], sums[m][w]);
                }
            }
        }
    }
    for (m, sums) in sums.iter_mut().enumerate() {
        if let Some(bias) = job.bias {
            let bias = vectors::<S, W>(&bias[column..column + width]);
            for w in 0..W {
                sums[w] = s.add_f32s(sums[w], bias[w]);
            }
        }
        let out = &mut job.out[(row + m) * WIDTH + column..][..width];
        let out = S::as_mut_simd_f32s(out).0;
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = match job.put {
                Put::Replace => *sum,
                Put::Add => s.add_f32s(*out, *sum),
            };
        }
    }
}

#[inline(always)]
fn vectors<S: Simd, const W: usize>(x: &[f32]) -> &[S::f32s; W] {
    &pulp::as_arrays::<W, _>(S::as_simd_f32s(x).0).0[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers: every sum is exact, in any order.
    fn whole(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * step) % 13) as f32 - 6.0).collect()
    }

    fn map(inputs: usize, outputs: usize) -> (Map, Vec<f32>) {
        let weights = whole(inputs * outputs, 5);
        let mut panels = vec![0.0; outputs.div_ceil(WIDTH) * inputs * WIDTH];
        for (i, w) in weights.iter().enumerate() {
            let (line, column) = (i / outputs, i % outputs);
            panels[(column / WIDTH * inputs + line) * WIDTH + column % WIDTH] = *w;
        }
        let mut bias = whole(outputs, 3);
        bias.resize(outputs.div_ceil(WIDTH) * WIDTH, 0.0);
        (Map { inputs, outputs, panels, bias }, weights)
    }

    #[test]
    fn a_product_is_the_sum_of_products_for_any_number_of_rows() {
        for (inputs, outputs) in [(1, 1), (63, 65), (64, 64), (130, 200)] {
            let (map, weights) = map(inputs, outputs);
            for rows in 1..14 {
                let x = whole(rows * inputs, 7);
                let mut out = vec![1.0; map.n_panels() * rows * WIDTH];
                for (put, before) in [(Put::Replace, 0.0), (Put::Add, 100.0)] {
                    out.fill(100.0);
                    let to = To { out: &mut out, rows, put };
                    map.multiply(Arch::new(), Rows::dense(&x, inputs), to, &|_| ());
                    for row in 0..rows {
                        for column in 0..outputs {
                            let products =
                                (0..inputs).map(|i| x[row * inputs + i] * weights[i * outputs + column]);
                            let expected = before + map.bias[column] + products.sum::<f32>();
                            let found = out[(column / WIDTH * rows + row) * WIDTH + column % WIDTH];
                            assert!((found - expected).abs() <= 0.0, "{found} for {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_done_after_a_block_is_done_once() {
        let (map, _) = map(3, 70);
        let x = whole(2 * 3, 7);
        let mut plain = vec![0.0; 2 * 2 * WIDTH];
        let mut changed = plain.clone();
        let rows = Rows::dense(&x, 3);
        map.multiply(Arch::new(), rows, To { out: &mut plain, rows: 2, put: Put::Replace }, &|_| ());
        let twice = |block: &mut [f32]| block.iter_mut().for_each(|x| *x *= 2.0);
        map.multiply(Arch::new(), rows, To { out: &mut changed, rows: 2, put: Put::Replace }, &twice);
        assert!(plain.iter().zip(&changed).all(|(p, c)| (2.0 * p - c).abs() <= 0.0));
        assert!(plain.iter().any(|p| p.abs() > 0.0));
    }
}
