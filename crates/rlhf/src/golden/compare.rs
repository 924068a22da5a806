//! What our code computed, against what a case expects.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::case::{Array, Case};

/// A computed quantity, flattened.
#[derive(Debug, Clone)]
struct Found {
    values: Vec<f64>,
    /// Rounding that each number cannot avoid, such as that of a sum whose terms cancel.
    slack: Vec<f64>,
    /// By how much each number may differ instead of what the precision says.
    within: Option<f64>,
}

/// Everything that was computed for a case, by name as in [`Case::expected`].
#[derive(Debug, Clone, Default)]
pub(super) struct Computed {
    by_name: BTreeMap<String, Found>,
    /// Quantities that must be the same: texts, and lists whose ends matter.
    exact: BTreeMap<String, Value>,
    left_out: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Computed {
    pub(super) fn one(&mut self, name: &str, value: f64) {
        self.many(name, vec![value]);
    }

    pub(super) fn many(&mut self, name: &str, values: Vec<f64>) {
        self.by_name.insert(name.to_owned(), Found { slack: vec![0.0; values.len()], values, within: None });
    }

    /// A quantity that must be the same, whatever it is made of.
    pub(super) fn exact(&mut self, name: &str, value: Value) {
        self.exact.insert(name.to_owned(), value);
    }

    /// Numbers that may differ by `absolute`, whatever the precision of the case.
    pub(super) fn within(&mut self, name: &str, values: Vec<f64>, absolute: f64) {
        let found = Found { slack: vec![0.0; values.len()], values, within: Some(absolute) };
        self.by_name.insert(name.to_owned(), found);
    }

    /// A quantity that is the peer's own and not to be met here.
    pub(super) fn leave_out(&mut self, name: &str) {
        self.left_out.insert(name.to_owned());
    }

    /// Something that was found to differ on the way.
    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// The mean of `terms`, whose order of summation in `f32` may differ from ours.
    pub(super) fn mean(&mut self, name: &str, terms: &[f64], dtype: &str) {
        let n = terms.len() as f64;
        let size = terms.iter().map(|x| x.abs()).sum::<f64>() / n;
        let eps = if dtype == "f64" { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let mean = terms.iter().sum::<f64>() / n;
        self.by_name
            .insert(name.to_owned(), Found { values: vec![mean], slack: vec![eps * size], within: None });
    }

    /// Allows a quantity's numbers to differ by so much more, because the peer's own arithmetic does.
    pub(super) fn allow(&mut self, name: &str, slack: &[f64]) {
        if let Some(found) = self.by_name.get_mut(name) {
            found.slack.iter_mut().zip(slack.iter().cycle()).for_each(|(s, more)| *s += more);
        }
    }

    /// Every value through `f`.
    pub(super) fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        for found in self.by_name.values_mut() {
            found.values.iter_mut().for_each(|x| *x = f(*x));
        }
        self
    }

    /// One line for every expected quantity that is absent or differs.
    pub(super) fn against(&self, case: &Case<'_>) -> Vec<String> {
        let expected = case.expected();
        if expected.is_empty() {
            return vec!["outputs: expected a quantity, found none".to_owned()];
        }
        let expected = expected.into_iter().filter(|(name, _)| !self.left_out.contains(name));
        let differing = expected.filter_map(|(name, value)| self.differs(&name, value, case));
        self.wrong.iter().cloned().chain(differing).collect()
    }

    fn differs(&self, name: &str, value: &Value, case: &Case<'_>) -> Option<String> {
        if let Some(found) = self.exact.get(name) {
            return (found != value).then(|| format!("{name}: expected {value}, found {found}"));
        }
        let Some(found) = self.by_name.get(name) else {
            return Some(format!("{name}: expected to be computed, found no code for it"));
        };
        let expected = match Array::flat(value) {
            Ok(values) => values,
            Err(e) => return Some(format!("{name}: {e}")),
        };
        if expected.len() != found.values.len() {
            let (e, f) = (expected.len(), found.values.len());
            return Some(format!("{name}: expected {e} numbers, found {f}"));
        }
        let (relative, absolute) = found.within.map_or_else(|| tolerance(case.dtype()), |x| (0.0, x));
        let worst = |(i, (e, f)): (usize, (&f64, &f64))| {
            let allowed = f64::max(relative * e.abs(), absolute) + found.slack[i];
            let difference = (e - f).abs();
            let same = (e.is_nan() && f.is_nan()) || e.to_bits() == f.to_bits() || difference <= allowed;
            (!same).then(|| {
                format!(
                    "{name}[{i}]: expected {e:e}, found {f:e}, difference {difference:e} above {allowed:e}"
                )
            })
        };
        expected.iter().zip(&found.values).enumerate().find_map(worst)
    }
}

/// `(relative, absolute)`. The absolute part is for numbers that are nearly zero: gradients are
/// differences of numbers of size 1.
fn tolerance(dtype: &str) -> (f64, f64) {
    match dtype {
        "f64" => (1e-10, 1e-12),
        // One unit in the last of bf16's 8 bits.
        "bf16" => (2f64.powi(-7), 2f64.powi(-7) * 1e-2),
        _ => (2e-5, 1e-6),
    }
}
