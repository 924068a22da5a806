//! The trends that theory and paper lead one to expect of self-play against a biased oracle, each with
//! the figures that speak for or against it.
//!
//! All differences are paired by seed. Nothing is chosen by the numbers that it is then measured on: the
//! iteration of a seed's peak is that of the other seeds' mean curve.

use super::summary::measured::{Held, Measured, Seeds, Seen, forward, paired, plain, reverse};
use crate::pipeline::page::mean;
use crate::pipeline::verdict::{Trend, interval, text, verdict};

/// The win rate under the oracle that trains: the raw one, length and all.
pub(super) const PROXY: &str = "win_rate/proxy";
/// The win rate under the oracle that judges.
pub(super) const TRUE: &str = "win_rate/true";
/// Tokens of an answer.
pub(super) const LENGTH: &str = "completions/mean_length";
/// How alike the answers to a prompt are.
pub(super) const SELF_BLEU: &str = "self_bleu_3";

/// The iteration of the paper's comparison (its last).
const PAPER: u64 = 3;

/// All of them, in order. `judge` names the oracle that judges.
pub(super) fn all(m: &Measured, judge: &str) -> Vec<Trend> {
    let view = View { m, judge };
    let mut all = vec![
        view.forward_shortens(),
        view.reverse_wins("R2a", PROXY, "raw (the proxy's)"),
        view.reverse_wins("R2b", TRUE, judge),
        view.reverse_above_free("R2c", PROXY, "raw (the proxy's)"),
        view.reverse_above_free("R2d", TRUE, judge),
        view.free_goes_too_far(),
        view.together_is_best(),
    ];
    all.extend(view.more_diverse());
    all
}

struct View<'a> {
    m: &'a Measured,
    judge: &'a str,
}

/// λs for a statement.
fn listed(sweep: &[(f64, &Seen)]) -> String {
    sweep.iter().map(|(weight, _)| weight.to_string()).collect::<Vec<_>>().join(", ")
}

impl View<'_> {
    fn forward_shortens(&self) -> Trend {
        let sweep = self.m.sweep_from_free(forward);
        let (mut evidence, mut shown) = (Vec::new(), Vec::new());
        for pair in sweep.windows(2) {
            let shorter = paired(&pair[0].1.last(LENGTH), &pair[1].1.last(LENGTH));
            shown.push(format!("{} to {}: {}", pair[0].0, pair[1].0, text(shorter)));
            evidence.push(shorter);
        }
        if self.m.free().is_none() {
            evidence.push(None);
        }
        Trend {
            id: "R1",
            statement: format!("forward KL shortens answers, the more the larger λ (λ = {})", listed(&sweep)),
            verdict: verdict(&evidence),
            figures: format!("tokens fewer from one λ to the next: {}", or_none(&shown)),
        }
    }

    fn reverse_wins(&self, id: &'static str, key: &str, whose: &str) -> Trend {
        let sweep = self.m.sweep(reverse);
        let rise = |v: &Seen| paired(&v.last(key), &v.at(0, key));
        let each: Vec<_> = sweep.iter().map(|(weight, v)| (*weight, rise(v))).collect();
        let shown: Vec<String> =
            each.iter().map(|(weight, i)| format!("λ = {weight}: {}", text(*i))).collect();
        Trend {
            id,
            statement: format!("reverse KL raises the {whose} win rate against the start policy"),
            verdict: verdict(&each.iter().map(|(_, i)| *i).collect::<Vec<_>>()),
            figures: format!("rise over the start's own: {}", or_none(&shown)),
        }
    }

    fn reverse_above_free(&self, id: &'static str, key: &str, whose: &str) -> Trend {
        let sweep = self.m.sweep(reverse);
        let (mut evidence, mut shown) = (Vec::new(), Vec::new());
        for (weight, v) in &sweep {
            let ahead = |t: u64| self.m.free().and_then(|free| paired(&v.at(t, key), &free.at(t, key)));
            let then = ahead(PAPER);
            shown.push(format!("λ = {weight}: {}, after 1: {}", text(then), text(ahead(1))));
            evidence.push(then);
        }
        Trend {
            id,
            statement: format!(
                "after {PAPER} iterations the {whose} win rate of reverse KL is above the unregularised one's"
            ),
            verdict: verdict(&evidence),
            figures: format!("difference: {}", or_none(&shown)),
        }
    }

    fn free_goes_too_far(&self) -> Trend {
        let found = self.m.free().map(Overshoot::of).unwrap_or_default();
        let [rise, fall, proxy] = [&found.rise, &found.fall, &found.proxy].map(|x| interval(x));
        let peak = self.m.free().and_then(|v| peak(v, None));
        let when = peak.map_or_else(String::new, |t| format!(" (the mean curve's is after {t})"));
        Trend {
            id: "R3",
            statement: format!(
                "unregularised play goes too far: the {} win rate rises to a peak{when} and falls from it, while the proxy's rises on",
                self.judge
            ),
            verdict: verdict(&[rise, fall, proxy]),
            figures: format!(
                "{} from the start to the peak: {}; lost from the peak to the end: {}; proxy gained meanwhile: {}",
                self.judge,
                text(rise),
                text(fall),
                text(proxy)
            ),
        }
    }

    fn together_is_best(&self) -> Trend {
        let together = self.m.variants.iter().find(|v| v.held == Held::Both);
        let others = self.m.variants.iter().filter(|v| together.is_none_or(|t| t.name != v.name));
        let means =
            others.filter(|v| !v.last(TRUE).is_empty()).map(|v| (&v.name, mean(&plain(&v.last(TRUE)))));
        let mut means: Vec<(&String, f64)> = means.collect();
        means.sort_by(|a, b| a.1.total_cmp(&b.1));
        let own = together.and_then(|v| interval(&plain(&v.last(TRUE))));
        let (verdict, figures) = match (own, means.first(), means.last()) {
            (Some(own), Some((_, worst)), Some((name, best))) => {
                // Within its interval of the best: the best mean does not lie above the interval, which
                // says something only where the worst lies below it.
                let verdict = match (*best <= own.high, own.low > *worst) {
                    (true, true) => "shown",
                    (true, false) => "unclear",
                    (false, _) => "not shown",
                };
                let place = if *best <= own.estimate { "best" } else { "not first" };
                let own = text(Some(own));
                (
                    verdict,
                    format!("{place}: {own}; the best other one, {name}: {best:.3}; the worst: {worst:.3}"),
                )
            }
            _ => ("no data", "–".to_owned()),
        };
        Trend {
            id: "R4",
            statement: format!(
                "forward and reverse KL together are best, or within their interval of the best, by the {} win rate at the end",
                self.judge
            ),
            verdict,
            figures,
        }
    }

    /// One of each regularised variant.
    fn more_diverse(&self) -> Vec<Trend> {
        let held = self.m.variants.iter().filter(|v| v.held.is_regularized());
        let of = |v: &Seen| {
            let lower = self.m.free().and_then(|free| paired(&free.last(SELF_BLEU), &v.last(SELF_BLEU)));
            Trend {
                id: "R5",
                statement: format!("answers are more diverse with “{}” than unregularised", v.name),
                verdict: verdict(&[lower]),
                figures: format!("self-BLEU-3 lower by {}", text(lower)),
            }
        };
        held.map(of).collect()
    }
}

fn or_none(shown: &[String]) -> String {
    if shown.is_empty() { "no such variant".to_owned() } else { shown.join("; ") }
}

/// The iteration at which the mean curve of the true win rate is highest, the first of equals; the mean
/// is over all seeds but one.
fn peak(v: &Seen, without: Option<u64>) -> Option<u64> {
    let others = |seeds: Seeds| -> Vec<f64> {
        seeds.into_iter().filter(|(seed, _)| Some(*seed) != without).map(|(_, x)| x).collect()
    };
    let curve = v.iterations().into_iter().map(|t| (t, others(v.at(t, TRUE))));
    let curve = curve.filter(|(_, values)| !values.is_empty()).map(|(t, values)| (t, mean(&values)));
    curve.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(t, _)| t)
}

/// What each seed did around the peak of the other seeds' mean curve.
#[derive(Default)]
struct Overshoot {
    /// True win rate at the peak, less that of the start.
    rise: Vec<f64>,
    /// True win rate at the peak, less that at the end.
    fall: Vec<f64>,
    /// The proxy's at the end, less that at the peak.
    proxy: Vec<f64>,
}

impl Overshoot {
    fn of(v: &Seen) -> Self {
        let mut found = Self::default();
        for seed in v.runs.keys() {
            let Some(peak) = peak(v, Some(*seed)) else { continue };
            let value = |seeds: Seeds| seeds.get(seed).copied();
            let all = [v.at(0, TRUE), v.at(peak, TRUE), v.last(TRUE), v.at(peak, PROXY), v.last(PROXY)];
            let [Some(start), Some(top), Some(end), Some(proxy), Some(proxy_end)] = all.map(value) else {
                continue;
            };
            found.rise.push(top - start);
            found.fall.push(top - end);
            found.proxy.push(proxy_end - proxy);
        }
        found
    }
}

#[cfg(test)]
mod tests;
