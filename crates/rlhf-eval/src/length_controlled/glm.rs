//! Logistic regression with an L1 penalty, soft labels and at most three features, solved to rounding.
//!
//! ```text
//! F(w) = ‖w‖₁ + C Σᵢ vᵢ ( log(1 + e^zᵢ) − yᵢ zᵢ ),  zᵢ = ⟨w, xᵢ⟩
//! optimal:  |∂ⱼ + sign wⱼ| = 0 where wⱼ ≠ 0,  |∂ⱼ| ≤ 1 where wⱼ = 0          ∂: slope of the second term
//! ```
//!
//! Where: x are features, y ∈ [0, 1] labels, v ≥ 0 weights, C the inverse strength of the penalty. It is the
//! objective of liblinear's L1 solver on rows that stand once with label 1 and weight v y, once with label 0 and
//! weight v (1 − y).
//!
//! No crate is used: of those that fit an L1 logistic regression none takes weighted soft labels, and liblinear
//! stops where a relative tolerance is met. For three weights a proximal Newton step can be exact: its quadratic
//! model with ‖w‖₁ has a minimum on one of the 27 patterns of signs, and each is a linear system of at most three
//! unknowns. What comes back carries its distance from the conditions above.

use crate::error::EvalError;

/// Features of a row; one that is not used is 0 throughout, and its weight stays 0.
pub(super) type Features = [f64; 3];

/// One row that is learnt from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) x: Features,
    /// In [0, 1].
    pub(super) y: f64,
    /// At least 0.
    pub(super) weight: f64,
}

/// Weights, and how far they are from optimal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fit {
    pub(super) w: Features,
    /// Largest violation of the conditions above, relative to 1 and the sum of the slope's terms without their signs.
    pub(super) residual: f64,
}

/// A solution's largest [`Fit::residual`]: what the rounding of sums over some thousand rows leaves, with room.
const TOLERANCE: f64 = 1e-11;

/// Newton steps; a fit takes about ten.
const STEPS: usize = 200;

/// The minimum of F.
///
/// # Errors
/// No minimum within [`STEPS`] steps: numbers so large that the slopes overflow.
pub(super) fn fit(rows: &[Row], c: f64) -> Result<Fit, EvalError> {
    let mut w = [0.0; 3];
    let mut residual = f64::INFINITY;
    for _ in 0..STEPS {
        let local = Local::at(rows, c, w);
        residual = local.residual(w);
        if residual <= TOLERANCE {
            return Ok(Fit { w, residual });
        }
        w = search(rows, c, w, &local);
    }
    let (what, expected) = ("logistic regression, distance from its optimum", "at most 1e-11");
    Err(EvalError::Range { what, expected, found: residual })
}

/// ⟨w, x⟩.
pub(super) fn dot(w: Features, x: Features) -> f64 {
    w[0] * x[0] + w[1] * x[1] + w[2] * x[2]
}

/// σ(z).
pub(super) fn sigmoid(z: f64) -> f64 {
    let e = (-z.abs()).exp();
    if z >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

fn norm(w: Features) -> f64 {
    w.iter().map(|w| w.abs()).sum()
}

fn objective(rows: &[Row], c: f64, w: Features) -> f64 {
    let loss = |row: &Row| {
        let z = dot(w, row.x);
        // Of the two ways to be wrong, so that neither is a difference of large numbers.
        row.weight * (row.y * softplus(-z) + (1.0 - row.y) * softplus(z))
    };
    norm(w) + c * rows.iter().map(loss).sum::<f64>()
}

/// Slope and curvature of the smooth term at some weights.
struct Local {
    slope: Features,
    curvature: [Features; 3],
    /// The slope's terms without their signs: what its rounding is measured by.
    size: Features,
}

impl Local {
    fn at(rows: &[Row], c: f64, w: Features) -> Self {
        let mut local = Self { slope: [0.0; 3], curvature: [[0.0; 3]; 3], size: [0.0; 3] };
        for row in rows {
            let z = dot(w, row.x);
            let weight = c * row.weight;
            // σ(z) − y in two parts and σ(z) σ(−z): the digits of both tails are kept.
            let (up, down) = ((1.0 - row.y) * sigmoid(z), row.y * sigmoid(-z));
            let bend = weight * sigmoid(z) * sigmoid(-z);
            for j in 0..3 {
                local.slope[j] += weight * (up - down) * row.x[j];
                local.size[j] += weight * (up + down) * row.x[j].abs();
                for k in 0..3 {
                    local.curvature[j][k] += bend * row.x[j] * row.x[k];
                }
            }
        }
        local
    }

    fn residual(&self, w: Features) -> f64 {
        let of = |j: usize| {
            let violation = if w[j] == 0.0 {
                (self.slope[j].abs() - 1.0).max(0.0)
            } else {
                (self.slope[j] + w[j].signum()).abs()
            };
            violation / (1.0 + self.size[j])
        };
        // Not `f64::max`, which would drop a NaN.
        (0..3).map(of).fold(0.0, |worst, r| if r.is_nan() || r > worst { r } else { worst })
    }

    /// `slope · d + ½ dᵀ curvature d + ‖w + d‖₁ − ‖w‖₁` of a step d to `to`.
    fn model(&self, w: Features, to: Features) -> f64 {
        let d = [0, 1, 2].map(|j| to[j] - w[j]);
        let bent = [0, 1, 2].map(|j| dot(self.curvature[j], d));
        dot(self.slope, d) + 0.5 * dot(d, bent) + norm(to) - norm(w)
    }

    /// The weights at which [`Local::model`] is smallest. Every pattern whose own minimum has its signs is a
    /// candidate, so the smallest of them is the minimum of all. A pattern without a unique minimum may be passed
    /// over: where features repeat each other, a minimum lies on a pattern with fewer weights too.
    fn newton(&self, w: Features) -> Features {
        let mut best = [0.0; 3];
        let mut lowest = self.model(w, best);
        for pattern in 0..27u8 {
            let signs = [pattern % 3, pattern / 3 % 3, pattern / 9].map(|sign| f64::from(sign) - 1.0);
            let Some(to) = self.with_signs(w, signs) else { continue };
            let value = self.model(w, to);
            if value < lowest {
                (best, lowest) = (to, value);
            }
        }
        best
    }

    /// Where the model is flat among weights of these signs, if the solution has them.
    fn with_signs(&self, w: Features, signs: Features) -> Option<Features> {
        let at = [0, 1, 2].map(|j| dot(self.curvature[j], w) - self.slope[j] - signs[j]);
        let free = signs.map(|sign| sign != 0.0);
        // Weights at 0 get the equation w = 0.
        let mut rows = [[0.0; 4]; 3];
        for j in 0..3 {
            for k in 0..3 {
                let identity = if j == k { 1.0 } else { 0.0 };
                rows[j][k] = if free[j] && free[k] {
                    self.curvature[j][k]
                } else if free[j] {
                    0.0
                } else {
                    identity
                };
            }
            rows[j][3] = if free[j] { at[j] } else { 0.0 };
        }
        let to = solve(rows)?;
        (0..3).all(|j| !free[j] || to[j] * signs[j] > 0.0).then_some(to)
    }
}

/// Solves three equations by elimination with pivots; none where they are singular.
fn solve(mut rows: [[f64; 4]; 3]) -> Option<Features> {
    for column in 0..3 {
        let pivot = (column..3).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        let lead = rows[column];
        if lead[column] == 0.0 || lead[column].is_nan() {
            return None;
        }
        for row in rows.iter_mut().skip(column + 1) {
            let factor = row[column] / lead[column];
            for (entry, lead) in row.iter_mut().zip(lead) {
                *entry -= factor * lead;
            }
        }
    }
    let mut x = [0.0; 3];
    for j in (0..3).rev() {
        let rest: f64 = (j + 1..3).map(|k| rows[j][k] * x[k]).sum();
        x[j] = (rows[j][3] - rest) / rows[j][j];
    }
    x.iter().all(|x| x.is_finite()).then_some(x)
}

/// The Newton step, halved until F falls by a part of what its slope promises, or by no more than rounding.
fn search(rows: &[Row], c: f64, w: Features, local: &Local) -> Features {
    let to = local.newton(w);
    let here = objective(rows, c, w);
    let promised = dot(local.slope, [0, 1, 2].map(|j| to[j] - w[j])) + norm(to) - norm(w);
    let rounding = 1e-13 * (1.0 + here.abs());
    let mut share = 1.0;
    while share > 1e-10 {
        // The whole step lands on exact zeros.
        let there = if share < 1.0 { [0, 1, 2].map(|j| w[j] + share * (to[j] - w[j])) } else { to };
        if objective(rows, c, there) <= here + 1e-4 * share * promised + rounding {
            return there;
        }
        share *= 0.5;
    }
    w
}
