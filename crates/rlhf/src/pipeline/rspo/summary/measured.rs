//! What was measured, variant by variant and seed by seed.

use std::collections::{BTreeMap, BTreeSet};

use rlhf_core::loss::rspo::{RspoConfig, RspoRegularizer};
use rlhf_eval::stats::Interval;
use rlhf_selfplay::method::Method;

use super::super::measure::Evaluation;
use crate::config::{RspoPipeline, Variant};
use crate::error::Error;
use crate::pipeline::session::Session;
use crate::pipeline::verdict::difference;

/// A figure by seed.
pub(in crate::pipeline::rspo) type Seeds = BTreeMap<u64, f64>;

/// What holds a variant's policy to the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::pipeline::rspo) enum Held {
    /// Nothing: SPPO.
    Free,
    /// The forward KL alone, at this λ.
    Forward(f64),
    /// The reverse KL alone, at this λ.
    Reverse(f64),
    /// Forward and reverse KL together.
    Both,
    /// Other regularisers of RSPO.
    Mixture,
    /// Whatever another method has.
    Otherwise,
}

impl Held {
    fn of(variant: &Variant) -> Self {
        let terms = match &variant.method {
            Method::Rspo { loss } => acting(loss),
            Method::Sppo { .. } => Vec::new(),
            _ => return Self::Otherwise,
        };
        if variant.forward_samples.is_some() {
            return Self::Mixture;
        }
        let forward = |r: &RspoRegularizer| matches!(r, RspoRegularizer::ForwardImportance(_));
        let reverse = |r: &RspoRegularizer| *r == RspoRegularizer::ReverseKl;
        match &terms[..] {
            [] => Self::Free,
            [(r, weight)] if forward(r) => Self::Forward(*weight),
            [(r, weight)] if reverse(r) => Self::Reverse(*weight),
            [(a, _), (b, _)] if (forward(a) && reverse(b)) || (reverse(a) && forward(b)) => Self::Both,
            _ => Self::Mixture,
        }
    }

    /// Whether a regulariser of RSPO acts.
    pub(in crate::pipeline::rspo) fn is_regularized(self) -> bool {
        !matches!(self, Self::Free | Self::Otherwise)
    }
}

/// The terms that are not switched off, with their λ.
fn acting(loss: &RspoConfig) -> Vec<(RspoRegularizer, f64)> {
    let terms = loss.terms.iter().map(|term| (term.regularizer, term.weight.get()));
    terms.filter(|(_, weight)| *weight > 0.0).collect()
}

/// β of the square loss, where the method has one.
fn beta(variant: &Variant) -> Option<f64> {
    match &variant.method {
        Method::Rspo { loss } => Some(loss.beta.get()),
        Method::Sppo { loss } => Some(loss.beta.get()),
        _ => None,
    }
}

/// A variant with all its evaluations.
#[derive(Debug, Clone)]
pub(in crate::pipeline::rspo) struct Seen {
    /// As in the config.
    pub(in crate::pipeline::rspo) name: String,
    /// What holds it.
    pub(in crate::pipeline::rspo) held: Held,
    /// β of its square loss.
    pub(in crate::pipeline::rspo) beta: Option<f64>,
    /// Evaluations by seed, in order of iterations; the first is that of the start policy.
    pub(in crate::pipeline::rspo) runs: BTreeMap<u64, Vec<Evaluation>>,
}

impl Seen {
    /// A figure after so many iterations.
    pub(in crate::pipeline::rspo) fn at(&self, iteration: u64, key: &str) -> Seeds {
        self.each(key, |run| run.iter().find(|e| e.iteration == iteration))
    }

    /// A figure after the last iteration.
    pub(in crate::pipeline::rspo) fn last(&self, key: &str) -> Seeds {
        self.each(key, |run| run.last().filter(|e| e.iteration > 0))
    }

    fn each(&self, key: &str, pick: impl Fn(&[Evaluation]) -> Option<&Evaluation>) -> Seeds {
        let of = |(seed, run): (&u64, &Vec<Evaluation>)| Some((*seed, *pick(run)?.figures.values.get(key)?));
        self.runs.iter().filter_map(of).collect()
    }

    /// The iterations that were evaluated, 0 among them.
    pub(in crate::pipeline::rspo) fn iterations(&self) -> Vec<u64> {
        let all: BTreeSet<u64> = self.runs.values().flatten().map(|e| e.iteration).collect();
        all.into_iter().collect()
    }
}

/// Mean of `a − b` over the seeds that both have, with its 95 % interval.
pub(in crate::pipeline::rspo) fn paired(a: &Seeds, b: &Seeds) -> Option<Interval> {
    let both = a.iter().filter_map(|(seed, x)| Some((*x, *b.get(seed)?)));
    let (a, b): (Vec<f64>, Vec<f64>) = both.unzip();
    difference(&a, &b)
}

/// The values alone, in order of seeds.
pub(in crate::pipeline::rspo) fn plain(seeds: &Seeds) -> Vec<f64> {
    seeds.values().copied().collect()
}

/// Everything that was measured, in the config's order.
#[derive(Debug, Clone)]
pub(in crate::pipeline::rspo) struct Measured {
    /// One of each variant.
    pub(in crate::pipeline::rspo) variants: Vec<Seen>,
}

impl Measured {
    /// Reads what the cells left.
    ///
    /// # Errors
    /// A record of another shape.
    pub(super) fn read(config: &RspoPipeline, session: &Session) -> Result<Self, Error> {
        let seen = |v: &Variant| {
            let (name, runs) = (v.name.clone(), BTreeMap::new());
            Seen { name, held: Held::of(v), beta: beta(v), runs }
        };
        let mut variants: Vec<Seen> = config.variants.iter().map(seen).collect();
        for cell in super::super::sweep(config) {
            if let Some(run) = session.get::<Vec<Evaluation>>(&cell.key())? {
                variants[cell.variant].runs.insert(cell.seed, run);
            }
        }
        Ok(Self { variants })
    }

    /// The unregularised variant; the first of several.
    pub(in crate::pipeline::rspo) fn free(&self) -> Option<&Seen> {
        self.variants.iter().find(|v| v.held == Held::Free)
    }

    /// The variants that one regulariser alone holds, as `weight` reads its λ, from the weakest to the
    /// strongest; those with the unregularised one's β, where there is one.
    pub(in crate::pipeline::rspo) fn sweep(&self, weight: fn(Held) -> Option<f64>) -> Vec<(f64, &Seen)> {
        let beta = self.free().and_then(|v| v.beta);
        let same = |v: &Seen| beta.is_none_or(|b| v.beta.is_some_and(|x| x.to_bits() == b.to_bits()));
        let of = |v| weight(Seen::held(v)).map(|weight| (weight, v));
        let mut sweep: Vec<(f64, &Seen)> = self.variants.iter().filter(|v| same(v)).filter_map(of).collect();
        sweep.sort_by(|a, b| a.0.total_cmp(&b.0));
        sweep
    }

    /// The sweep with λ = 0 before it.
    pub(in crate::pipeline::rspo) fn sweep_from_free(
        &self,
        weight: fn(Held) -> Option<f64>,
    ) -> Vec<(f64, &Seen)> {
        self.free().map(|v| (0.0, v)).into_iter().chain(self.sweep(weight)).collect()
    }

    /// A figure of the start policy, which all variants share.
    pub(super) fn start(&self, key: &str) -> Vec<f64> {
        self.variants.iter().map(|v| plain(&v.at(0, key))).find(|x| !x.is_empty()).unwrap_or_default()
    }
}

impl Seen {
    fn held(&self) -> Held {
        self.held
    }
}

/// λ of the forward KL alone.
pub(in crate::pipeline::rspo) fn forward(held: Held) -> Option<f64> {
    if let Held::Forward(weight) = held { Some(weight) } else { None }
}

/// λ of the reverse KL alone.
pub(in crate::pipeline::rspo) fn reverse(held: Held) -> Option<f64> {
    if let Held::Reverse(weight) = held { Some(weight) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(method: &str) -> Held {
        let text = format!(r#"{{"name": "v", "method": {method}}}"#);
        Held::of(&serde_json::from_str::<Variant>(&text).expect("a variant"))
    }

    #[test]
    fn what_holds_a_variant_is_read_from_its_terms() {
        let rspo = |terms: &str| {
            held(&format!(r#"{{"kind": "rspo", "loss": {{"beta": 0.1, "terms": [{terms}]}}}}"#))
        };
        let forward = r#"{"regularizer": {"forward_importance": 10.0}, "weight": 0.2}"#;
        let reverse = r#"{"regularizer": "reverse_kl", "weight": 0.5}"#;
        let off = r#"{"regularizer": "reverse_kl", "weight": 0.0}"#;
        let chi2 = r#"{"regularizer": {"chi2": 10.0}, "weight": 0.1}"#;
        assert_eq!(held(r#"{"kind": "sppo", "loss": {"beta": 0.1}}"#), Held::Free);
        assert_eq!(rspo(""), Held::Free);
        assert_eq!(rspo(off), Held::Free);
        assert_eq!(rspo(forward), Held::Forward(0.2));
        assert_eq!(rspo(&format!("{off}, {forward}")), Held::Forward(0.2));
        assert_eq!(rspo(reverse), Held::Reverse(0.5));
        assert_eq!(rspo(&format!("{reverse}, {forward}")), Held::Both);
        assert_eq!(rspo(&format!("{forward}, {reverse}")), Held::Both);
        assert_eq!(rspo(chi2), Held::Mixture);
        assert_eq!(rspo(&format!("{forward}, {forward}")), Held::Mixture);
        assert_eq!(held(r#"{"kind": "inpo", "loss": {"eta": 0.1, "tau": 0.05}}"#), Held::Otherwise);
    }

    #[test]
    fn seeds_that_both_have_are_paired() {
        let seeds = |pairs: &[(u64, f64)]| pairs.iter().copied().collect::<Seeds>();
        let a = seeds(&[(0, 1.0), (1, 2.0), (2, 9.0)]);
        // Differences 1 and 1: no spread.
        let found = paired(&a, &seeds(&[(0, 0.0), (1, 1.0), (3, 5.0)])).expect("two pairs");
        assert!((found.estimate - 1.0).abs() < 1e-12 && (found.high - found.low).abs() < 1e-12);
        assert_eq!(paired(&a, &seeds(&[(2, 1.0)])), None);
    }
}
