//! Linear models on sparse features, by Newton's method with conjugate gradients.
//!
//! ```text
//! w* = argmin  Σᵢ ℓᵢ(w · xᵢ) + ½ λ |w|²
//! ratings:      ℓ(s) = ½ (s − y)²
//! preferences:  ℓ(s) = log(1 + e^−s),  x = x(chosen) − x(rejected)
//! ```
//!
//! Where: λ is `l2`, the prior precision of a weight in units of examples. Both problems are
//! strictly convex, so the answer does not depend on the way there. Sums run in a fixed order.

/// One example: a sparse row `(column, value)` and its target.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Columns and values of the row.
    pub row: Vec<(u32, f64)>,
    /// What is fitted.
    pub target: Target,
}

/// What a row's score is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// A number the score should equal.
    Rating(f64),
    /// The score should be positive: the row is chosen minus rejected.
    Preferred,
}

/// Largest gradient norm, relative to that at zero, that counts as solved.
const TOLERANCE: f64 = 1e-8;

/// The weights that minimise the penalised loss.
///
/// # Panics
/// If a row names a column of `n_columns` or beyond.
pub fn fit(examples: &[Example], n_columns: usize, l2: f64) -> Vec<f64> {
    let mut w = vec![0.0; n_columns];
    let first = norm(&gradient(examples, &w, l2));
    for _ in 0..50 {
        let g = gradient(examples, &w, l2);
        if norm(&g) <= TOLERANCE * first {
            break;
        }
        let step = conjugate_gradients(examples, &w, &g, l2);
        // Newton's step can overshoot on the logistic loss: halve it until the loss falls.
        let before = objective(examples, &w, l2);
        let mut size = 1.0;
        loop {
            let next: Vec<f64> = w.iter().zip(&step).map(|(a, b)| a - size * b).collect();
            if objective(examples, &next, l2) <= before || size < 1e-6 {
                w = next;
                break;
            }
            size *= 0.5;
        }
    }
    w
}

/// `w · x`.
pub fn dot(w: &[f64], row: &[(u32, f64)]) -> f64 {
    row.iter().map(|(c, v)| w[*c as usize] * v).sum()
}

fn objective(examples: &[Example], w: &[f64], l2: f64) -> f64 {
    let loss = |e: &Example| {
        let s = dot(w, &e.row);
        match e.target {
            Target::Rating(y) => 0.5 * (s - y) * (s - y),
            Target::Preferred => (-s).max(0.0) + (-s.abs()).exp().ln_1p(),
        }
    };
    examples.iter().map(loss).sum::<f64>() + 0.5 * l2 * w.iter().map(|x| x * x).sum::<f64>()
}

/// First and second derivative of one loss in its score.
fn slopes(e: &Example, w: &[f64]) -> (f64, f64) {
    let s = dot(w, &e.row);
    match e.target {
        Target::Rating(y) => (s - y, 1.0),
        Target::Preferred => {
            let p = 1.0 / (1.0 + s.exp());
            (-p, p * (1.0 - p))
        }
    }
}

fn gradient(examples: &[Example], w: &[f64], l2: f64) -> Vec<f64> {
    let mut g: Vec<f64> = w.iter().map(|x| l2 * x).collect();
    for e in examples {
        let (slope, _) = slopes(e, w);
        for (c, v) in &e.row {
            g[*c as usize] += slope * v;
        }
    }
    g
}

/// Solves `H x = g` for the Hessian at `w`.
fn conjugate_gradients(examples: &[Example], w: &[f64], g: &[f64], l2: f64) -> Vec<f64> {
    let curvature: Vec<f64> = examples.iter().map(|e| slopes(e, w).1).collect();
    let hessian = |x: &[f64]| {
        let mut out: Vec<f64> = x.iter().map(|a| l2 * a).collect();
        for (e, h) in examples.iter().zip(&curvature) {
            let s = h * dot(x, &e.row);
            for (c, v) in &e.row {
                out[*c as usize] += s * v;
            }
        }
        out
    };
    let mut x = vec![0.0; g.len()];
    let mut r = g.to_vec();
    let mut p = r.clone();
    let mut rr = square(&r);
    let enough = 1e-18 * rr;
    for _ in 0..1000 {
        if rr <= enough {
            break;
        }
        let hp = hessian(&p);
        let a = rr / p.iter().zip(&hp).map(|(x, y)| x * y).sum::<f64>();
        for i in 0..x.len() {
            x[i] += a * p[i];
            r[i] -= a * hp[i];
        }
        let next = square(&r);
        let b = next / rr;
        rr = next;
        for i in 0..p.len() {
            p[i] = r[i] + b * p[i];
        }
    }
    x
}

fn square(x: &[f64]) -> f64 {
    x.iter().map(|a| a * a).sum()
}

fn norm(x: &[f64]) -> f64 {
    square(x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ridge_has_its_closed_form() {
        // One column: w = Σ x y / (Σ x² + λ) = (1·2 + 2·3) / (1 + 4 + 3) = 1.
        let rows = [(1.0, 2.0), (2.0, 3.0)];
        let examples: Vec<_> =
            rows.iter().map(|(x, y)| Example { row: vec![(0, *x)], target: Target::Rating(*y) }).collect();
        assert!((fit(&examples, 1, 3.0)[0] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn preferences_are_solved_to_their_stationary_point() {
        // λ w = n σ(−w) for n equal pairs with x = 1.
        let examples = vec![Example { row: vec![(0, 1.0)], target: Target::Preferred }; 5];
        let w = fit(&examples, 1, 0.5)[0];
        assert!((0.5 * w - 5.0 / (1.0 + w.exp())).abs() < 1e-7, "{w}");
    }
}
