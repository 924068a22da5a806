//! What reinforcement and Nested-ReFT lead one to expect, each with the figures that speak for or against it.

use rlhf_eval::stats::Interval;

use super::speed::Speed;
use super::summary::Measured;
use crate::pipeline::page::mean;
use crate::pipeline::verdict::{Trend, above, difference, interval, text, verdict};

/// What counts as within noise of plain GRPO: a share of answers.
const NEAR: f64 = 0.05;

/// The figure that answers are judged by.
const ACCURACY: &str = "sampled/accuracy";

/// The trends that the variants have something to say on, in order.
pub(super) fn all(m: &Measured) -> Vec<Trend> {
    let mut out = vec![learns(m)];
    if m.variants.iter().any(|v| v.x > 0.0) {
        out.extend([speed(m), small_x(m), weaker(m), corrected(m), lengths(m)]);
    }
    out
}

/// The distinct shares of blocks left out, growing, 0 left away.
fn shares(m: &Measured) -> Vec<f64> {
    let mut all: Vec<f64> = m.variants.iter().map(|v| v.x).filter(|x| *x > 0.0).collect();
    all.sort_by(f64::total_cmp);
    all.dedup_by(|a, b| a.to_bits() == b.to_bits());
    all
}

/// Variants with this share left out.
fn at(m: &Measured, x: f64) -> Vec<usize> {
    let same = |i: &usize| m.variants[*i].x.to_bits() == x.to_bits();
    (0..m.variants.len()).filter(same).collect()
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

/// Two lists of shares of right answers, paired by seed.
struct Pair {
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Pair {
    /// Of variant `i`, and what it is compared with.
    fn of(m: &Measured, i: usize, with: &[f64]) -> Self {
        Self { a: m.values(i, None, ACCURACY), b: with.to_vec() }
    }

    /// `a − b`. Where no answer was right nothing is compared, however equal the zeros are.
    fn evidence(&self) -> Option<Interval> {
        let none_right = self.a.iter().chain(&self.b).all(|share| *share <= 0.0);
        if none_right { None } else { difference(&self.a, &self.b) }
    }

    /// For a reader; of one seed the bare difference.
    fn text(&self) -> String {
        match (self.a.as_slice(), self.b.as_slice()) {
            ([a], [b]) => format!("{:.3} (one seed)", a - b),
            _ => text(self.evidence()),
        }
    }
}

fn learns(m: &Measured) -> Trend {
    // What is plain, or all where nothing is.
    let plain = at(m, 0.0);
    let of: Vec<usize> = if plain.is_empty() { (0..m.variants.len()).collect() } else { plain };
    let gains: Vec<Pair> = of.iter().map(|i| Pair::of(m, *i, &m.start(ACCURACY))).collect();
    Trend {
        id: "RL",
        statement: "plain GRPO raises the share of sampled answers that are right".to_owned(),
        verdict: verdict(&gains.iter().map(Pair::evidence).collect::<Vec<_>>()),
        figures: list(of.iter().zip(&gains).map(|(i, g)| format!("{}: {}", m.variants[*i].name, g.text()))),
    }
}

fn speed(m: &Measured) -> Trend {
    let steps: Vec<Option<Interval>> = m
        .speeds
        .windows(2)
        .map(|w| {
            let ratio: Vec<f64> = w[0].rates.iter().zip(&w[1].rates).map(|(a, b)| b / a - 1.0).collect();
            interval(&ratio)
        })
        .collect();
    let base = m.speeds.first().map_or(f64::NAN, Speed::median);
    let line = |s: &Speed| {
        let gain = s.median() / base;
        format!("k = {}: {:.0} tokens/s, gain {gain:.3}, model {:.3}", s.n_skipped, s.median(), s.predicted)
    };
    Trend {
        id: "N1",
        statement: "generation is the faster the more blocks are left out".to_owned(),
        verdict: verdict(&steps),
        figures: list(m.speeds.iter().map(line)),
    }
}

fn small_x(m: &Measured) -> Trend {
    let smallest = shares(m).first().copied().unwrap_or(0.0);
    let plain = at(m, 0.0).first().map(|i| m.values(*i, None, ACCURACY)).unwrap_or_default();
    let of: Vec<(usize, Pair)> = at(m, smallest).into_iter().map(|i| (i, Pair::of(m, i, &plain))).collect();
    let evidence: Vec<Option<Interval>> = of.iter().map(|(_, d)| above(d.evidence(), -NEAR)).collect();
    Trend {
        id: "N2",
        statement: format!(
            "at x = {smallest:.3} the whole policy is within {NEAR} of plain GRPO or above it"
        ),
        verdict: verdict(&evidence),
        figures: list(of.iter().map(|(i, d)| format!("{} − plain: {}", m.variants[*i].name, d.text()))),
    }
}

fn weaker(m: &Measured) -> Trend {
    let mut evidence = Vec::new();
    let mut figures = Vec::new();
    for (i, v) in m.variants.iter().enumerate().filter(|(_, v)| v.x > 0.0) {
        let kl = m.rollouts(i, "nested/kl");
        let less =
            difference(&m.rollouts(i, "nested/policy_reward"), &m.rollouts(i, "nested/rollout_reward"));
        // The same correction at the next smaller share.
        let before = m.variants.iter().enumerate().filter(|(_, w)| w.correction == v.correction && w.x < v.x);
        let before = before.max_by(|a, b| a.1.x.total_cmp(&b.1.x)).map(|(j, _)| m.rollouts(j, "nested/kl"));
        evidence.push(less);
        if let Some(before) = before {
            evidence.push(difference(&kl, &before));
        }
        let kl = if let [one] = kl.as_slice() { format!("{one:.3} (one seed)") } else { text(interval(&kl)) };
        figures.push(format!("{}: KL {kl}, reward lower by {}", v.name, text(less)));
    }
    Trend {
        id: "N3",
        statement:
            "rollouts of the nested policy earn less than the whole policy's, and KL(b ‖ π) grows with x"
                .to_owned(),
        verdict: verdict(&evidence),
        figures: list(figures.into_iter()),
    }
}

fn corrected(m: &Measured) -> Trend {
    let largest = shares(m).last().copied().unwrap_or(0.0);
    let plain = |i: &usize| m.variants[*i].correction == "none";
    let (without, with): (Vec<usize>, Vec<usize>) = at(m, largest).into_iter().partition(plain);
    let without = without.first().map(|i| m.values(*i, None, ACCURACY)).unwrap_or_default();
    let of: Vec<(usize, Pair)> = with.into_iter().map(|i| (i, Pair::of(m, i, &without))).collect();
    let evidence: Vec<Option<Interval>> = of.iter().map(|(_, d)| d.evidence()).collect();
    Trend {
        id: "N4",
        statement: format!("at x = {largest:.3} corrected rollouts teach more than uncorrected ones"),
        verdict: verdict(&evidence),
        figures: list(of.iter().map(|(i, d)| format!("{} − none: {}", m.variants[*i].name, d.text()))),
    }
}

fn lengths(m: &Measured) -> Trend {
    let all: Vec<Vec<f64>> =
        (0..m.variants.len()).map(|i| m.rollouts(i, "completions/mean_length")).collect();
    Trend {
        id: "N5",
        statement: "the length of rollouts is watched, since it distorts tokens a second".to_owned(),
        verdict: if all.iter().all(|n| !n.is_empty()) { "measured" } else { "no data" },
        figures: list(m.variants.iter().zip(&all).map(|(v, n)| format!("{}: {:.2} tokens", v.name, mean(n)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(a: &[f64], b: &[f64]) -> Pair {
        Pair { a: a.to_vec(), b: b.to_vec() }
    }

    #[test]
    fn where_no_answer_was_right_nothing_is_shown() {
        let zeros = pair(&[0.0, 0.0], &[0.0, 0.0]);
        assert_eq!(verdict(&[above(zeros.evidence(), -NEAR)]), "no data");
        // Equal shares of right answers are evidence, and within the noise.
        let equal = pair(&[0.5, 0.5], &[0.5, 0.5]);
        assert_eq!(verdict(&[above(equal.evidence(), -NEAR)]), "shown");
        let better = pair(&[0.5, 0.6], &[0.0, 0.1]);
        let interval = better.evidence().expect("two pairs");
        assert!((interval.estimate - 0.5).abs() < 1e-12, "{interval:?}");
    }

    #[test]
    fn one_seed_has_a_difference_and_no_evidence() {
        let one = pair(&[0.75], &[0.5]);
        assert_eq!((one.text().as_str(), one.evidence()), ("0.250 (one seed)", None));
    }
}
