//! The report of a reward pipeline: held-out accuracies, and differences between models on the same
//! pairs.

use rlhf_core::rng::stream;
use rlhf_eval::report::{self, Report, Section, Table};
use rlhf_eval::stats::{self, Bootstrap, Interval, LEVEL_95, Tally};

use super::comparisons::Comparisons;
use super::{Fold, name, phase};
use crate::config::{ComparedKind, RewardPipeline};
use crate::error::Error;
use crate::pipeline::Outcome;
use crate::pipeline::session::Session;
use crate::run::atomic;
use crate::task::Pair;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// One model's held-out pairs: whether each is in order, in the order of the folds.
struct Held {
    kind: ComparedKind,
    right: Vec<bool>,
    shares: Vec<f64>,
}

/// A row of the accuracy table.
struct Line {
    name: String,
    pairs: Interval,
    folds: Option<Interval>,
    groups: Option<Interval>,
}

/// Writes `report.json` and `report.html`, and says the same on the terminal.
///
/// # Errors
/// Figures without an interval, the disk.
pub(super) fn write(
    config: &RewardPipeline,
    session: Session,
    given: &Comparisons,
) -> Result<Outcome, Error> {
    let held = held(config, &session, given)?;
    let lines = lines(config, given, &held)?;
    let differences = differences(config, given, &held)?;
    let subtitle =
        format!("{} folds, device {}, {} threads", given.folds.len(), config.device, config.threads);
    let mut report = Report::new("Reward model", subtitle);
    let mut section = Section::new("Held-out accuracy");
    section.push(accuracy_table(&lines));
    if !differences.is_empty() {
        section.push(difference_table(given, &differences));
    }
    for note in &given.notes {
        section.paragraph(note.clone());
    }
    report.sections.push(section);
    let failed = |e: rlhf_eval::error::ReportError| Error::Failed(format!("report: {e}"));
    atomic::write(&session.paths().report_json(), report::to_json(&report).map_err(failed)?.as_bytes())?;
    let page = report::html(std::slice::from_ref(&report)).map_err(failed)?;
    atomic::write(&session.paths().report_html(), page.as_bytes())?;
    let mut summary: Vec<String> = lines.iter().map(terminal).collect();
    summary.extend(
        differences
            .iter()
            .map(|(name, d)| format!("{name}: {:+.4} [{:+.4}, {:+.4}]", d.estimate, d.low, d.high)),
    );
    summary.push(format!("report: {}", session.paths().report_html().display()));
    summary.push(format!("model:  {}", session.paths().model().display()));
    session.close()?;
    Ok(Outcome { summary })
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::Failed(e.to_string())
}

fn held(config: &RewardPipeline, session: &Session, given: &Comparisons) -> Result<Vec<Held>, Error> {
    let of = |kind| {
        let (mut right, mut shares) = (Vec::new(), Vec::new());
        for f in 0..given.folds.len() {
            let fold: Option<Fold> = session.get(&phase(kind, &f.to_string()))?;
            let fold = fold.ok_or_else(|| Error::Failed(format!("{}: fold {f}: no figures", name(kind))))?;
            shares.push(fold.right.share());
            right.extend(fold.in_order.bytes().map(|b| b == b'1'));
        }
        Ok(Held { kind, right, shares })
    };
    config.model.kind.list().into_iter().map(of).collect()
}

/// The group of each held-out pair, in the order of the folds.
fn groups(given: &Comparisons) -> Option<Vec<usize>> {
    let groups = given.groups.as_ref()?;
    Some(given.folds.iter().flat_map(|f| f.test.iter().map(|i| groups[*i])).collect())
}

/// Mean of `values` with an interval that draws whole groups, or single pairs where there are none.
fn resampled(config: &RewardPipeline, values: &[f64], groups: Option<&[usize]>) -> Result<Interval, Error> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let at = groups.map_or(i, |g| g[i]);
        if sums.len() <= at {
            sums.resize(at + 1, (0.0, 0.0));
        }
        sums[at] = (sums[at].0 + value, sums[at].1 + 1.0);
    }
    let mean = |some: &[(f64, f64)]| {
        let (sum, n) = some.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        sum / n
    };
    let how = Bootstrap { n_resamples: RESAMPLES, level: LEVEL_95 };
    stats::bootstrap(&sums, mean, how, &mut stream(config.seed, "reward/bootstrap", 0, 0)).map_err(failed)
}

fn lines(config: &RewardPipeline, given: &Comparisons, held: &[Held]) -> Result<Vec<Line>, Error> {
    let groups = groups(given);
    let mut lines = Vec::new();
    for model in held {
        let hits = model.right.iter().filter(|r| **r).count() as u64;
        let tally = Tally { hits, total: model.right.len() as u64 };
        let values: Vec<f64> = model.right.iter().map(|r| f64::from(u8::from(*r))).collect();
        let over = |g: &Vec<usize>| resampled(config, &values, Some(g));
        lines.push(Line {
            name: name(model.kind).to_owned(),
            pairs: stats::wilson(tally, LEVEL_95).map_err(failed)?,
            folds: Some(stats::mean_interval(&model.shares, LEVEL_95).map_err(failed)?),
            groups: groups.as_ref().map(over).transpose()?,
        });
    }
    let tested: Vec<&Pair> =
        given.folds.iter().flat_map(|f| f.test.iter().map(|i| &given.pairs[*i])).collect();
    for (name, tally) in ["shorter wins", "longer wins"].into_iter().zip(length_baselines(&tested)) {
        let pairs = stats::wilson(tally, LEVEL_95).map_err(failed)?;
        lines.push(Line { name: name.to_owned(), pairs, folds: None, groups: None });
    }
    Ok(lines)
}

/// Share of pairs whose chosen answer is the shorter one, and the longer one; in characters, equal
/// lengths count for neither.
fn length_baselines(pairs: &[&Pair]) -> [Tally; 2] {
    let n = |text: &str| text.chars().count();
    let total = pairs.len() as u64;
    let shorter = pairs.iter().filter(|p| n(&p.chosen) < n(&p.rejected)).count() as u64;
    let longer = pairs.iter().filter(|p| n(&p.chosen) > n(&p.rejected)).count() as u64;
    [Tally { hits: shorter, total }, Tally { hits: longer, total }]
}

/// Every model against Bradley–Terry on the same trunk, on the same held-out pairs.
fn differences(
    config: &RewardPipeline,
    given: &Comparisons,
    held: &[Held],
) -> Result<Vec<(String, Interval)>, Error> {
    let Some(base) = held.iter().find(|h| h.kind == ComparedKind::Transformer) else { return Ok(Vec::new()) };
    let groups = groups(given);
    let one = |model: &Held| {
        let gain = |(a, b): (&bool, &bool)| f64::from(u8::from(*a)) - f64::from(u8::from(*b));
        let values: Vec<f64> = model.right.iter().zip(&base.right).map(gain).collect();
        let found = resampled(config, &values, groups.as_deref())?;
        Ok((format!("{} − {}", name(model.kind), name(base.kind)), found))
    };
    held.iter().filter(|h| h.kind != base.kind).map(one).collect()
}

fn terminal(line: &Line) -> String {
    let shown = |before: &str, i: Option<Interval>| {
        i.map_or_else(String::new, |i| format!("; {before} {:.4} [{:.4}, {:.4}]", i.estimate, i.low, i.high))
    };
    let Line { name, pairs, folds, groups } = line;
    format!(
        "{name:<14} {:.4} [{:.4}, {:.4}]{}{}",
        pairs.estimate,
        pairs.low,
        pairs.high,
        shown("mean of folds", *folds),
        shown("groups resampled", *groups)
    )
}

fn accuracy_table(lines: &[Line]) -> Table {
    let mut table = Table::new(
        "Share of held-out pairs whose chosen answer is preferred; ties count as wrong.",
        [
            "model",
            "all pairs (Wilson 95 %)",
            "mean of folds (Student t 95 %)",
            "groups resampled (bootstrap 95 %)",
        ],
    );
    for Line { name, pairs, folds, groups } in lines {
        let or_dash = |i: &Option<Interval>| i.map_or_else(|| "–".into(), Into::into);
        table.rows.push(vec![name.clone().into(), (*pairs).into(), or_dash(folds), or_dash(groups)]);
    }
    table
}

fn difference_table(given: &Comparisons, differences: &[(String, Interval)]) -> Table {
    let drawn = if given.groups.is_some() { "whole groups" } else { "pairs" };
    let about = format!("Difference in accuracy on the same held-out pairs; the bootstrap draws {drawn}.");
    let mut table = Table::new(about, ["models", "difference (95 %)"]);
    for (name, difference) in differences {
        table.rows.push(vec![name.clone().into(), (*difference).into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, Pipeline, load};

    #[test]
    fn groups_widen_an_interval_that_pairs_would_make_narrow() {
        let Pipeline::Reward(config) = load("reward", &Overrides::default()).expect("loads").pipeline else {
            panic!("expected the reward pipeline");
        };
        // Four groups of 100 pairs that are all right or all wrong.
        let values: Vec<f64> = (0..400).map(|i| if i / 100 == 0 { 0.0 } else { 1.0 }).collect();
        let of: Vec<usize> = (0..400).map(|i| i / 100).collect();
        let pairs = resampled(&config, &values, None).expect("finite");
        let groups = resampled(&config, &values, Some(&of)).expect("finite");
        assert!((pairs.estimate - 0.75).abs() < 1e-12 && (groups.estimate - 0.75).abs() < 1e-12);
        assert!(pairs.low > 0.7 && pairs.high < 0.8, "{pairs:?}");
        assert!(groups.low <= 0.25 + 1e-12 && groups.high >= 1.0 - 1e-12, "{groups:?}");
    }

    #[test]
    fn equal_lengths_count_for_neither() {
        let pair = |a: &str, b: &str| Pair { prompt: String::new(), chosen: a.into(), rejected: b.into() };
        let pairs = [pair("aa", "b"), pair("a", "bb"), pair("é", "b"), pair("aaa", "b")];
        let [shorter, longer] = length_baselines(&pairs.iter().collect::<Vec<_>>());
        assert_eq!((shorter.hits, longer.hits, longer.total), (1, 2, 4));
    }
}
