//! The trends that the paper's results lead one to expect, each with the figures that speak for or
//! against it.

use rlhf_eval::stats::{self, Interval};

use super::Setting;
use super::summary::Measured;
use crate::config::SuperhfPipeline;
use crate::pipeline::verdict::{Trend, above, below, difference, interval, text, verdict};

/// Rise of a reward's mean over the start policy, in standard deviations of that reward over the
/// start policy's answers; one a seed.
pub(super) fn gains(m: &Measured, beta: f64, n: usize, role: &str) -> Vec<f64> {
    let key = format!("reward/{role}");
    let start = m.start(&key).into_iter().zip(m.start(&format!("{key}_std")));
    let end = m.values(beta, n, None, &key);
    start.zip(end).map(|((mean, sd), end)| (end - mean) / sd.max(f64::MIN_POSITIVE)).collect()
}

/// All seven, in order.
pub(super) fn all(config: &SuperhfPipeline, setting: &Setting, m: &Measured) -> Vec<Trend> {
    let view = View {
        m,
        beta: config.superhf.beta.get(),
        n: config.superhf.num_generations.get(),
        truth: if setting.gold.is_some() { "gold" } else { "judge" },
    };
    vec![
        view.reward_rises(),
        view.no_gain_without_choice(),
        view.beta_trades(),
        view.collapse_without_prior(),
        view.moderate_prior_keeps(),
        view.shared_bias(setting.gold.is_some()),
        view.saturation(),
    ]
}

struct View<'a> {
    m: &'a Measured,
    beta: f64,
    n: usize,
    truth: &'static str,
}

impl View<'_> {
    fn betas(&self) -> Vec<f64> {
        self.m.variants().into_iter().filter(|(_, n)| *n == self.n).map(|(b, _)| b).collect()
    }

    fn ns(&self) -> Vec<usize> {
        let same = |b: f64| b.to_bits() == self.beta.to_bits();
        self.m.variants().into_iter().filter(|(b, _)| same(*b)).map(|(_, n)| n).collect()
    }

    fn reward_rises(&self) -> Trend {
        let judge = interval(&gains(self.m, self.beta, self.n, "judge"));
        let truth = interval(&gains(self.m, self.beta, self.n, self.truth));
        Trend {
            id: "T-A1",
            statement: format!(
                "test (judge) reward rises over the start by more than the spread over seeds (β = {}, N = {})",
                self.beta, self.n
            ),
            verdict: verdict(&[judge]),
            figures: if self.truth == "judge" {
                format!("z-gain of the judge: {}", text(judge))
            } else {
                format!("z-gain of the judge: {}; of {}: {}", text(judge), self.truth, text(truth))
            },
        }
    }

    fn no_gain_without_choice(&self) -> Trend {
        let one = gains(self.m, self.beta, 1, "proxy");
        let many = gains(self.m, self.beta, self.n, "proxy");
        // No gain: less than a quarter of what choosing among N gives, which itself is a gain.
        let quarter: Vec<f64> = many.iter().map(|x| x / 4.0).collect();
        let (less, many) = (difference(&quarter, &one), interval(&many));
        let evidence = if self.n > 1 { [less, many] } else { [None, None] };
        let one = interval(&one);
        Trend {
            id: "T-A2",
            statement: "N = 1, where nothing is chosen, gives no gain".to_owned(),
            verdict: verdict(&evidence),
            figures: format!("proxy z-gain at N = 1: {}; at N = {}: {}", text(one), self.n, text(many)),
        }
    }

    fn beta_trades(&self) -> Trend {
        let betas = self.betas();
        let (mut x, mut reward, mut similarity) = (Vec::new(), Vec::new(), Vec::new());
        for b in &betas {
            let r = gains(self.m, *b, self.n, "proxy");
            x.extend(std::iter::repeat_n(*b, r.len()));
            reward.extend(r);
            similarity.extend(self.m.values(*b, self.n, None, "self_similarity"));
        }
        let rho = |y: &[f64]| stats::spearman(&x, y).ok();
        let (a, b) = (rho(&reward), rho(&similarity));
        let show = |r: Option<f64>| r.map_or_else(|| "–".to_owned(), |r| format!("{r:.2}"));
        let (lo, hi) = (betas.first().copied().unwrap_or(0.0), betas.last().copied().unwrap_or(0.0));
        // What falls from the smallest β to the largest.
        let fall = |key: &str| {
            let at = |b: f64| self.m.values(b, self.n, None, key);
            if betas.len() > 1 { difference(&at(lo), &at(hi)) } else { None }
        };
        let (proxy, alike) = (fall("reward/proxy"), fall("self_similarity"));
        Trend {
            id: "T-A3",
            statement: "reward falls and diversity rises with β".to_owned(),
            verdict: verdict(&[proxy, alike]),
            figures: format!(
                "Spearman with β over {} runs: proxy reward {}, self-similarity {}; fall from β = {lo} to {hi}: \
                 proxy {}, self-similarity {}",
                x.len(),
                show(a),
                show(b),
                text(proxy),
                text(alike)
            ),
        }
    }

    /// Proxy z-gain less the truth's, one a seed.
    fn gap(&self, beta: f64) -> Vec<f64> {
        let proxy = gains(self.m, beta, self.n, "proxy");
        proxy.into_iter().zip(gains(self.m, beta, self.n, self.truth)).map(|(p, t)| p - t).collect()
    }

    fn similarity_ratio(&self, beta: f64) -> Vec<f64> {
        let end = self.m.values(beta, self.n, None, "self_similarity");
        end.into_iter().zip(self.m.start("self_similarity")).map(|(e, s)| e / s).collect()
    }

    fn collapse_without_prior(&self) -> Trend {
        let (ratio, gap) = (interval(&self.similarity_ratio(0.0)), interval(&self.gap(0.0)));
        // A multiple: half as much again at least.
        let evidence = [above(ratio, 1.5), gap];
        Trend {
            id: "T-A4",
            statement: format!(
                "at β = 0 self-similarity grows to a multiple of the start's and the proxy runs ahead of {}",
                self.truth
            ),
            verdict: verdict(&evidence),
            figures: format!("similarity ratio {}; gap of z-gains {}", text(ratio), text(gap)),
        }
    }

    fn moderate_prior_keeps(&self) -> Trend {
        let (ratio, gap) = (interval(&self.similarity_ratio(self.beta)), interval(&self.gap(self.beta)));
        let free = interval(&self.gap(0.0));
        // Near zero: under half the gap without a prior, which itself is one. Near the start's: less
        // than twice and more than half of it.
        let half: Vec<f64> = self.gap(0.0).iter().map(|g| g / 2.0).collect();
        let size: Vec<f64> = self.gap(self.beta).iter().map(|g| g.abs()).collect();
        let evidence = [free, difference(&half, &size), below(ratio, 2.0), above(ratio, 0.5)];
        Trend {
            id: "T-A5",
            statement: format!("at β = {} the gap is near 0 and self-similarity near the start's", self.beta),
            verdict: verdict(&evidence),
            figures: format!(
                "similarity ratio {}; gap of z-gains {} against {} at β = 0",
                text(ratio),
                text(gap),
                text(free)
            ),
        }
    }

    fn shared_bias(&self, rule: bool) -> Trend {
        let judge = gains(self.m, 0.0, self.n, "judge");
        let ahead = difference(&judge, &gains(self.m, 0.0, self.n, "gold"));
        let length = {
            let end = self.m.values(0.0, self.n, None, "completions/mean_length");
            difference(&end, &self.m.start("completions/mean_length"))
        };
        Trend {
            id: "T-A6",
            statement: "at β = 0 the judge rises more than the truth: both rewards share a bias".to_owned(),
            verdict: verdict(&[if rule { ahead } else { None }]),
            figures: if rule {
                format!("judge less gold z-gain {}; tokens {}", text(ahead), text(length))
            } else {
                format!("needs a third reward, which this task lacks; tokens {}", text(length))
            },
        }
    }

    fn saturation(&self) -> Trend {
        let ns = self.ns();
        let rise: Vec<(usize, Vec<f64>)> =
            ns.iter().map(|n| (*n, gains(self.m, self.beta, *n, "judge"))).collect();
        let per: Vec<(String, Vec<f64>)> = rise
            .windows(2)
            .map(|w| {
                let doublings = (w[1].0 as f64 / w[0].0 as f64).log2();
                let gains = w[1].1.iter().zip(&w[0].1).map(|(b, a)| (b - a) / doublings).collect();
                (format!("N {} to {}", w[0].0, w[1].0), gains)
            })
            .collect();
        let mut evidence: Vec<Option<Interval>> =
            per.windows(2).map(|w| difference(&w[0].1, &w[1].1)).collect();
        if evidence.is_empty() {
            evidence.push(None);
        }
        let steps: Vec<(String, Option<Interval>)> =
            per.into_iter().map(|(name, gains)| (name, interval(&gains))).collect();
        let shown: Vec<String> = steps.iter().map(|(name, i)| format!("{name}: {}", text(*i))).collect();
        Trend {
            id: "T-A7",
            statement: "the gain a doubling of N gives shrinks".to_owned(),
            verdict: verdict(&evidence),
            figures: if shown.is_empty() {
                "one N only".to_owned()
            } else {
                format!("judge z-gain a doubling: {}", shown.join("; "))
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cell::Cell;
    use super::super::evaluate::{Evaluation, Figures};
    use super::*;

    fn evaluation(proxy: f64, judge: f64, similarity: f64) -> Evaluation {
        let values = [
            ("reward/proxy", proxy),
            ("reward/proxy_std", 1.0),
            ("reward/judge", judge),
            ("reward/judge_std", 1.0),
            ("self_similarity", similarity),
            ("completions/mean_length", 10.0),
        ];
        let values: BTreeMap<String, f64> = values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Evaluation { round: 1, figures: Figures { values }, samples: Vec::new() }
    }

    /// Three seeds a hundredth apart, and the start at rewards of 0 and a similarity of 0.2. A cell is
    /// β, N, proxy, judge, similarity.
    fn verdicts(cells: &[(f64, usize, f64, f64, f64)]) -> Vec<&'static str> {
        let jitter = |seed: u64| seed as f64 / 100.0;
        let start = (0..3).map(|_| evaluation(0.0, 0.0, 0.2)).collect();
        let cells = cells
            .iter()
            .flat_map(|&(beta, n, proxy, judge, similarity)| {
                (0..3).map(move |seed| {
                    let j = jitter(seed);
                    (Cell { beta, n, seed }, vec![evaluation(proxy + j, judge - j, similarity + j / 10.0)])
                })
            })
            .collect();
        let m = Measured { start, baselines: Vec::new(), cells };
        let view = View { m: &m, beta: 0.5, n: 16, truth: "judge" };
        [
            view.reward_rises(),
            view.no_gain_without_choice(),
            view.beta_trades(),
            view.collapse_without_prior(),
            view.moderate_prior_keeps(),
            view.saturation(),
        ]
        .map(|t| t.verdict)
        .to_vec()
    }

    #[test]
    fn what_the_paper_expects_is_shown() {
        let cells = [
            (0.5, 1, 0.0, 0.0, 0.2),
            (0.5, 4, 0.8, 0.8, 0.22),
            (0.0, 16, 4.0, 1.0, 0.8),
            (0.5, 16, 1.2, 1.1, 0.25),
        ];
        assert_eq!(verdicts(&cells), ["shown"; 6]);
    }

    #[test]
    fn what_contradicts_it_is_not() {
        // The judge falls; N = 1 gains as much; β raises both; no collapse at β = 0; the moderate
        // prior collapses to nothing alike; doublings give more and more.
        let cells = [
            (0.5, 1, 1.2, -2.0, 0.2),
            (0.5, 4, 1.2, -1.9, 0.2),
            (0.0, 16, 0.5, 0.5, 0.01),
            (0.5, 16, 1.2, -1.0, 0.02),
        ];
        assert_eq!(verdicts(&cells), ["not shown"; 6]);
    }
}
