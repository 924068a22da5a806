//! The trends that the paper's results lead one to expect, each with the figures that speak for or
//! against it.

use rlhf_eval::stats::{self, Interval};

use super::Setting;
use super::summary::Measured;
use crate::config::SuperhfPipeline;

/// One expectation and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trend {
    /// T-A1 to T-A7.
    pub(super) id: &'static str,
    /// What is expected.
    pub(super) statement: String,
    /// `shown`, `not shown`, or `no data`.
    pub(super) verdict: &'static str,
    /// The numbers.
    pub(super) figures: String,
}

/// Rise of a reward's mean over the start policy, in standard deviations of that reward over the
/// start policy's answers; one a seed.
pub(super) fn gains(m: &Measured, beta: f64, n: usize, role: &str) -> Vec<f64> {
    let key = format!("reward/{role}");
    let start = m.start(&key).into_iter().zip(m.start(&format!("{key}_std")));
    let end = m.values(beta, n, None, &key);
    start.zip(end).map(|((mean, sd), end)| (end - mean) / sd.max(f64::MIN_POSITIVE)).collect()
}

fn difference(a: &[f64], b: &[f64]) -> Option<Interval> {
    stats::paired_difference(a, b, stats::LEVEL_95).ok()
}

fn interval(values: &[f64]) -> Option<Interval> {
    stats::mean_interval(values, stats::LEVEL_95).ok()
}

fn text(i: Option<Interval>) -> String {
    i.map_or_else(|| "–".to_owned(), |i| format!("{:.3} [{:.3}, {:.3}]", i.estimate, i.low, i.high))
}

fn verdict(known: bool, holds: bool) -> &'static str {
    match (known, holds) {
        (false, _) => "no data",
        (true, true) => "shown",
        (true, false) => "not shown",
    }
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
            verdict: verdict(judge.is_some(), judge.is_some_and(|i| i.low > 0.0)),
            figures: if self.truth == "judge" {
                format!("z-gain of the judge: {}", text(judge))
            } else {
                format!("z-gain of the judge: {}; of {}: {}", text(judge), self.truth, text(truth))
            },
        }
    }

    fn no_gain_without_choice(&self) -> Trend {
        let values = gains(self.m, self.beta, 1, "proxy");
        let at_n = interval(&gains(self.m, self.beta, self.n, "proxy"));
        let one = interval(&values);
        // No gain: an interval that reaches zero, or a rise below a tenth of that with N.
        let small = one.zip(at_n).is_some_and(|(a, b)| a.low <= 0.0 || a.estimate < 0.1 * b.estimate);
        Trend {
            id: "T-A2",
            statement: "N = 1, where nothing is chosen, gives no gain".to_owned(),
            verdict: verdict(one.is_some(), small),
            figures: format!("proxy z-gain at N = 1: {}; at N = {}: {}", text(one), self.n, text(at_n)),
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
        let holds = a.is_some_and(|r| r < 0.0) && b.is_some_and(|r| r < 0.0);
        let show = |r: Option<f64>| r.map_or_else(|| "–".to_owned(), |r| format!("{r:.2}"));
        let ends = betas.first().zip(betas.last()).map(|(lo, hi)| {
            let part = |key: &str| {
                let at = |b: f64| self.m.values(b, self.n, None, key);
                text(difference(&at(*hi), &at(*lo)))
            };
            format!(
                "; from β = {lo} to {hi}: proxy {}, self-similarity {}",
                part("reward/proxy"),
                part("self_similarity")
            )
        });
        Trend {
            id: "T-A3",
            statement: "reward falls and diversity rises with β".to_owned(),
            verdict: verdict(betas.len() > 1 && a.is_some(), holds),
            figures: format!(
                "Spearman with β over {} runs: proxy reward {}, self-similarity {}{}",
                x.len(),
                show(a),
                show(b),
                ends.unwrap_or_default()
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
        let known = self.betas().contains(&0.0);
        let (ratio, gap) = (interval(&self.similarity_ratio(0.0)), interval(&self.gap(0.0)));
        let holds = ratio.is_some_and(|r| r.low > 1.5) && gap.is_some_and(|g| g.low > 0.0);
        Trend {
            id: "T-A4",
            statement: format!(
                "at β = 0 self-similarity grows to a multiple of the start's and the proxy runs ahead of {}",
                self.truth
            ),
            verdict: verdict(known && ratio.is_some(), holds),
            figures: format!("similarity ratio {}; gap of z-gains {}", text(ratio), text(gap)),
        }
    }

    fn moderate_prior_keeps(&self) -> Trend {
        let (ratio, gap) = (interval(&self.similarity_ratio(self.beta)), interval(&self.gap(self.beta)));
        let free = interval(&self.gap(0.0));
        // Near zero: under half the gap without a prior. Near the start: under twice its similarity.
        let small = gap.zip(free).is_some_and(|(g, f)| g.estimate < 0.5 * f.estimate.max(0.0));
        Trend {
            id: "T-A5",
            statement: format!("at β = {} the gap is near 0 and self-similarity near the start's", self.beta),
            verdict: verdict(
                gap.is_some() && free.is_some(),
                small && ratio.is_some_and(|r| r.estimate < 2.0),
            ),
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
            verdict: verdict(rule && ahead.is_some(), ahead.is_some_and(|i| i.low > 0.0)),
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
        let steps: Vec<(String, Option<Interval>)> = rise
            .windows(2)
            .map(|w| {
                let doublings = (w[1].0 as f64 / w[0].0 as f64).log2();
                let per: Vec<f64> = w[1].1.iter().zip(&w[0].1).map(|(b, a)| (b - a) / doublings).collect();
                (format!("N {} to {}", w[0].0, w[1].0), interval(&per))
            })
            .collect();
        let known = steps.len() > 1 && steps.iter().all(|(_, i)| i.is_some());
        let falls =
            steps.windows(2).all(|w| w[0].1.zip(w[1].1).is_some_and(|(a, b)| b.estimate < a.estimate));
        let shown: Vec<String> = steps.iter().map(|(name, i)| format!("{name}: {}", text(*i))).collect();
        Trend {
            id: "T-A7",
            statement: "the gain a doubling of N gives shrinks".to_owned(),
            verdict: verdict(known, falls),
            figures: format!("judge z-gain a doubling: {}", shown.join("; ")),
        }
    }
}
