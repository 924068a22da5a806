//! Small matrix products on slices, for tiles that stay in cache.

use pulp::Simd;

/// Row-major numbers whose rows start `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

/// Where a product goes.
pub(super) struct Target<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) how: Put,
}

/// What happens to what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Replace,
    Add,
}

/// Rows of the result that are kept in registers, times two vectors.
const ROWS: usize = 4;

/// `to ← a b` with `a: [m, k]`, `b: [k, n]` for a size of `[m, n, k]`.
#[inline(always)]
pub(super) fn product<S: Simd>(s: S, size: [usize; 3], a: View<'_>, b: View<'_>, mut to: Target<'_>) {
    let [m, n, k] = size;
    let mut row = 0;
    while row + ROWS <= m {
        let r: [&[f32]; ROWS] = std::array::from_fn(|i| &a.data[(row + i) * a.stride..][..k]);
        let left = |k: usize| [r[0][k], r[1][k], r[2][k], r[3][k]];
        strip(s, [n, k], left, b, to.strip(row));
        row += ROWS;
    }
    while row < m {
        let r = &a.data[row * a.stride..][..k];
        strip(s, [n, k], |k| [r[k]], b, to.strip(row));
        row += 1;
    }
}

/// `to ← aᵀ b` with `a: [k, m]`, `b: [k, n]` for a size of `[m, n, k]`.
#[inline(always)]
pub(super) fn product_t<S: Simd>(s: S, size: [usize; 3], a: View<'_>, b: View<'_>, mut to: Target<'_>) {
    let [m, n, k] = size;
    let mut row = 0;
    while row + ROWS <= m {
        let left = |k: usize| {
            let x = &a.data[k * a.stride + row..][..ROWS];
            [x[0], x[1], x[2], x[3]]
        };
        strip(s, [n, k], left, b, to.strip(row));
        row += ROWS;
    }
    while row < m {
        strip(s, [n, k], |k| [a.data[k * a.stride + row]], b, to.strip(row));
        row += 1;
    }
}

impl Target<'_> {
    #[inline(always)]
    fn strip(&mut self, row: usize) -> Target<'_> {
        Target { data: &mut self.data[row * self.stride..], stride: self.stride, how: self.how }
    }
}

/// `M` rows of the result.
#[inline(always)]
fn strip<S: Simd, const M: usize>(
    s: S,
    [n, k]: [usize; 2],
    left: impl Fn(usize) -> [f32; M],
    b: View<'_>,
    mut to: Target<'_>,
) {
    let lanes = S::F32_LANES;
    let mut column = 0;
    while column + 2 * lanes <= n {
        vectors::<S, M, 2>(s, [column, k], &left, b, &mut to);
        column += 2 * lanes;
    }
    if column + lanes <= n {
        vectors::<S, M, 1>(s, [column, k], &left, b, &mut to);
        column += lanes;
    }
    if column < n {
        rest(s, [column, n, k], &left, b, &mut to);
    }
}

#[inline(always)]
fn vectors<S: Simd, const M: usize, const W: usize>(
    s: S,
    [column, k]: [usize; 2],
    left: &impl Fn(usize) -> [f32; M],
    b: View<'_>,
    to: &mut Target<'_>,
) {
    let width = W * S::F32_LANES;
    let mut sum = [[s.splat_f32s(0.0); W]; M];
    for i in 0..k {
        let row = &b.data[i * b.stride + column..][..width];
        let row = S::as_simd_f32s(row).0;
        let x = left(i);
        for m in 0..M {
            let x = s.splat_f32s(x[m]);
            for w in 0..W {
                sum[m][w] = s.mul_add_e_f32s(x, row[w], sum[m][w]);
            }
        }
    }
    for (m, sum) in sum.iter().enumerate() {
        let out = S::as_mut_simd_f32s(&mut to.data[m * to.stride + column..][..width]).0;
        for (out, sum) in out.iter_mut().zip(sum) {
            *out = match to.how {
                Put::Replace => *sum,
                Put::Add => s.add_f32s(*out, *sum),
            };
        }
    }
}

/// The last columns, fewer than a vector holds.
#[inline(always)]
fn rest<S: Simd, const M: usize>(
    s: S,
    [column, n, k]: [usize; 3],
    left: &impl Fn(usize) -> [f32; M],
    b: View<'_>,
    to: &mut Target<'_>,
) {
    let mut sum = [s.splat_f32s(0.0); M];
    for i in 0..k {
        let row = s.partial_load_f32s(&b.data[i * b.stride..][column..n]);
        let x = left(i);
        for m in 0..M {
            sum[m] = s.mul_add_e_f32s(s.splat_f32s(x[m]), row, sum[m]);
        }
    }
    for (m, sum) in sum.iter().enumerate() {
        let out = &mut to.data[m * to.stride..][column..n];
        let value = match to.how {
            Put::Replace => *sum,
            Put::Add => s.add_f32s(s.partial_load_f32s(out), *sum),
        };
        s.partial_store_f32s(out, value);
    }
}
