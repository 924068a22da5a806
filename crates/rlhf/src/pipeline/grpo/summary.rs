//! The end of the run: the model folders, the report page, the table on the terminal.

use std::collections::BTreeMap;

use rlhf_eval::report::{Cell as Field, Plot, Point, Report, Section, Series, Style, Table};
use rlhf_eval::stats::Interval;
use rlhf_nested::step::RolloutCorrection;

use super::measure::Evaluation;
use super::speed::{self, Speed};
use super::times::{self, Times};
use super::{Setting, blocks, sweep, trends};
use crate::config::GrpoPipeline;
use crate::error::Error;
use crate::pipeline::Outcome;
use crate::pipeline::page::{self, column, field, point};
use crate::pipeline::session::Session;
use crate::pipeline::sweep::Cell;
use crate::pipeline::verdict;

/// Everything that was measured.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Variants of the config, in order.
    pub(super) variants: Vec<VariantOf>,
    /// The start policy, by seed.
    pub(super) start: Vec<Evaluation>,
    /// Every cell with its evaluations, the last one after the last batch.
    pub(super) cells: Vec<(Cell, Vec<Evaluation>)>,
    /// Generation by the number of blocks left out; empty where it was not measured.
    pub(super) speeds: Vec<Speed>,
    /// Where the batches' time went, by phase; empty as `speeds`.
    pub(super) times: BTreeMap<String, Times>,
}

/// A variant as the report knows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VariantOf {
    pub(super) name: String,
    /// x: the share of blocks that the first batch leaves out.
    pub(super) x: f64,
    /// The correction's name.
    pub(super) correction: String,
}

impl Measured {
    fn read(config: &GrpoPipeline, setting: &Setting, session: &Session) -> Result<Self, Error> {
        let mut start = Vec::new();
        for s in 0..config.evaluation.seeds.get() {
            start.extend(session.get::<Evaluation>(&format!("start/{s}"))?);
        }
        let mut cells = Vec::new();
        for cell in sweep(config) {
            cells.push((cell.clone(), session.get(&cell.key())?.unwrap_or_default()));
        }
        let n = setting.n_blocks();
        let of = |v: &crate::config::GrpoVariant| VariantOf {
            name: v.name.clone(),
            x: v.schedule.realised_ratio(n, 0),
            correction: name_of(v.correction),
        };
        let variants = config.variants.iter().map(of).collect();
        let speeds = speed::measure(config, setting, session)?;
        // No clock in the report without the other one: it is the same bytes then.
        let times = if speeds.is_empty() { BTreeMap::new() } else { times::by_phase(session)? };
        Ok(Self { variants, start, cells, speeds, times })
    }

    fn of(&self, variant: usize) -> impl Iterator<Item = &Vec<Evaluation>> {
        self.cells.iter().filter(move |(c, _)| c.variant == variant).map(|(_, e)| e)
    }

    /// A figure of one variant after `batch` batches (the last for `None`), one a seed.
    pub(super) fn values(&self, variant: usize, batch: Option<u64>, key: &str) -> Vec<f64> {
        let of = |all: &Vec<Evaluation>| -> Option<f64> {
            let shown = match batch {
                None => all.last(),
                Some(b) => all.iter().find(|e| e.batch == b),
            };
            shown?.figures.values.get(key).copied()
        };
        self.of(variant).filter_map(of).collect()
    }

    /// The mean of a figure of the rollouts over the whole run, one a seed.
    pub(super) fn rollouts(&self, variant: usize, key: &str) -> Vec<f64> {
        let of = |all: &Vec<Evaluation>| -> Option<f64> {
            let values: Vec<f64> = all.iter().filter_map(|e| e.rollouts.values.get(key).copied()).collect();
            (!values.is_empty()).then(|| page::mean(&values))
        };
        self.of(variant).filter_map(of).collect()
    }

    /// The same up to the evaluation after `batch`.
    fn rollouts_at(&self, variant: usize, batch: u64, key: &str) -> Vec<f64> {
        let of = |all: &Vec<Evaluation>| -> Option<f64> {
            all.iter().find(|e| e.batch == batch)?.rollouts.values.get(key).copied()
        };
        self.of(variant).filter_map(of).collect()
    }

    /// A time of one variant's batches, one a seed.
    pub(super) fn times(&self, variant: usize, of: impl Fn(&Times) -> f64) -> Vec<f64> {
        let cells = self.cells.iter().filter(|(c, _)| c.variant == variant);
        cells.filter_map(|(c, _)| self.times.get(&c.phase())).map(of).collect()
    }

    /// A figure of the start policy, one a seed.
    pub(super) fn start(&self, key: &str) -> Vec<f64> {
        self.start.iter().filter_map(|e| e.figures.values.get(key).copied()).collect()
    }

    fn batches(&self) -> Vec<u64> {
        self.cells.first().map(|(_, e)| e.iter().map(|e| e.batch).collect()).unwrap_or_default()
    }

    /// Whether a variant leaves blocks out.
    fn is_nested(&self) -> bool {
        self.variants.iter().any(|v| v.x > 0.0)
    }
}

/// A correction's name as in a config, with its number.
fn name_of(correction: RolloutCorrection) -> String {
    match serde_json::to_value(correction) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(map)) => {
            map.iter().map(|(name, number)| format!("{name} {number}")).collect::<Vec<_>>().join(", ")
        }
        _ => format!("{correction:?}"),
    }
}

/// Columns of the table of results: heading and key.
const RESULT: [(&str, &str); 7] = [
    ("greedy: all right", "greedy/accuracy"),
    ("sampled: all right", "sampled/accuracy"),
    ("prompts solved by a sample", "sampled/pass"),
    ("sampled reward", "sampled/reward"),
    ("greedy BLEU", "greedy/bleu"),
    ("sampled BLEU", "sampled/bleu"),
    ("KL to the start, nats", "kl"),
];

/// Writes `model/`, `sft/`, `report.json`, `report.html`, and returns the terminal's table.
///
/// # Errors
/// The disk, or a figure that cannot be drawn.
pub(super) fn write(config: &GrpoPipeline, setting: &Setting, session: Session) -> Result<Outcome, Error> {
    let measured = Measured::read(config, setting, &session)?;
    let main = sweep(config).into_iter().find(Cell::is_main);
    setting.ground.save(&session, &main.map(|c| c.phase()).unwrap_or_default())?;
    let report = report(config, setting, &session, &measured)?;
    page::write(&report, &session)?;
    let summary = terminal(&measured);
    page::ended(summary, &trends::all(&measured), session)
}

fn report(
    config: &GrpoPipeline,
    setting: &Setting,
    session: &Session,
    measured: &Measured,
) -> Result<Report, Error> {
    let subtitle = format!(
        "task {}, {} seeds, {} batches of {} prompts × {} completions, device {}, {} threads",
        setting.ground.data.name,
        config.evaluation.seeds,
        config.grpo.n_batches,
        config.grpo.prompts_per_batch,
        config.grpo.num_generations,
        config.device,
        config.threads
    );
    let title = if measured.is_nested() { "Nested-ReFT" } else { "GRPO" };
    let mut report = Report::new(title, subtitle);
    report.sections.push(result(measured));
    report.sections.push(verdict::section(
        "What is to be expected",
        "Differences are paired by seed; N1 to N5 are the trends of Nested-ReFT's specification.",
        trends::all(measured),
    ));
    if measured.is_nested() {
        report.sections.push(blocks::section(measured));
    }
    report.sections.push(over_batches(measured));
    report.sections.push(samples(measured));
    report.sections.push(page::data(&setting.ground, session)?);
    Ok(report)
}

/// Mean and interval over seeds; of a single seed the share's own Wilson interval.
fn accuracy(values: &dyn Fn(&str) -> Vec<f64>, key: &str) -> Field {
    let all = values(key);
    match (all.as_slice(), values(&format!("{key}_low")).first(), values(&format!("{key}_high")).first()) {
        ([estimate], Some(low), Some(high)) => {
            Interval { estimate: *estimate, low: *low, high: *high }.into()
        }
        _ => field(&all),
    }
}

fn result(measured: &Measured) -> Section {
    let mut section = Section::new("Result");
    let caption = "The whole policy on the evaluation prompts after the last batch: mean and 95 % interval over seeds \
                   (Student t; Wilson where there is one seed). Seeds vary the loop; the start policy is shared.";
    let present: Vec<&(&str, &str)> =
        RESULT.iter().filter(|(_, key)| !measured.start(key).is_empty()).collect();
    let names = std::iter::once("rollouts").chain(present.iter().map(|(name, _)| *name));
    let mut table = Table::new(caption, names.collect::<Vec<_>>());
    let mut add = |name: &str, values: &dyn Fn(&str) -> Vec<f64>| {
        let mut row: Vec<Field> = vec![name.into()];
        row.extend(present.iter().map(|(_, key)| accuracy(values, key)));
        table.rows.push(row);
    };
    add("start (SFT)", &|key| measured.start(key));
    for (i, variant) in measured.variants.iter().enumerate() {
        add(&variant.name, &|key| measured.values(i, None, key));
    }
    section.push(table);
    section.push(parts(measured));
    section
}

/// What the verifier counts, part by part.
fn parts(measured: &Measured) -> Table {
    let known = measured.start.first().map(|e| e.figures.values.keys()).into_iter().flatten();
    let keys: Vec<&String> = known.filter(|k| k.contains("/verifier/")).collect();
    let caption = "The verifier's parts: means over the evaluation prompts, then mean and 95 % interval over seeds. `answered`: an \
                   answer in the form that was asked for, right or wrong (own questions: marked by #### or boxed).";
    let names = keys.iter().map(|k| k.replace("/verifier/", ": ").replace('_', " "));
    let mut table =
        Table::new(caption, std::iter::once("rollouts".to_owned()).chain(names).collect::<Vec<_>>());
    let mut add = |name: &str, values: &dyn Fn(&str) -> Vec<f64>| {
        let mut row: Vec<Field> = vec![name.into()];
        row.extend(keys.iter().map(|key| field(&values(key))));
        table.rows.push(row);
    };
    add("start (SFT)", &|key| measured.start(key));
    for (i, variant) in measured.variants.iter().enumerate() {
        add(&variant.name, &|key| measured.values(i, None, key));
    }
    table
}

fn over_batches(measured: &Measured) -> Section {
    let mut section = Section::new("Through the batches");
    let shown = [
        ("sampled: all right", "sampled/accuracy"),
        ("sampled reward", "sampled/reward"),
        ("greedy BLEU", "greedy/bleu"),
        ("completion length, tokens", "sampled/mean_length"),
    ];
    for (name, key) in shown.into_iter().filter(|(_, key)| !measured.start(key).is_empty()) {
        let mut plot = Plot::new(format!("{name} through the batches"), "rollout batch", name);
        for (i, variant) in measured.variants.iter().enumerate() {
            let mut points: Vec<Point> = point(0.0, &measured.start(key)).into_iter().collect();
            let at = |b: &u64| point(*b as f64, &measured.values(i, Some(*b), key));
            points.extend(measured.batches().iter().filter_map(at));
            plot = plot.with(Series::finite(variant.name.as_str(), Style::Line, points));
        }
        section.push(plot.caption("Bands are 95 % intervals over seeds."));
    }
    if measured.is_nested() {
        let name = "KL(b ‖ π), nats a completion";
        let mut plot = Plot::new(format!("{name} through the batches"), "rollout batch", name);
        for (i, variant) in measured.variants.iter().enumerate().filter(|(_, v)| v.x > 0.0) {
            let at = |b: &u64| point(*b as f64, &measured.rollouts_at(i, *b, "nested/kl"));
            let points: Vec<Point> = measured.batches().iter().filter_map(at).collect();
            plot = plot.with(Series::finite(variant.name.as_str(), Style::Line, points));
        }
        section.push(plot.caption("Means over the batches since the evaluation before."));
    }
    section
}

fn samples(measured: &Measured) -> Section {
    let cells = measured.cells.iter().filter(|(c, _)| c.seed == 0);
    let last: Vec<_> = cells.map(|(c, e)| (c.name.clone(), shown(e.last()))).collect();
    let start = shown(measured.start.first());
    page::samples("Answers before and after", "Seed 0, greedy.".to_owned(), start, &last)
}

/// The answers that an evaluation keeps for the report.
fn shown(evaluation: Option<&Evaluation>) -> &[[String; 2]] {
    evaluation.map_or(&[], |e| &e.samples)
}

/// The table of the result for a terminal of 100 columns.
fn terminal(measured: &Measured) -> Vec<String> {
    let keys = ["greedy/accuracy", "sampled/accuracy", "greedy/bleu", "kl"];
    let present: Vec<&str> = keys.into_iter().filter(|k| !measured.start(k).is_empty()).collect();
    let head: String = present.iter().map(|k| format!("{k:>18}")).collect();
    let nested = measured.is_nested();
    let more = if nested { format!("{:>18}", "KL(b‖π)") } else { String::new() };
    let mut lines = vec![format!("{:<26}{head}{more}", "rollouts")];
    let mut add = |name: &str, values: &dyn Fn(&str) -> Vec<f64>, kl: Option<Vec<f64>>| {
        let row: String = present.iter().map(|k| format!("  {}", column(&values(k)))).collect();
        let last = kl.map_or_else(String::new, |kl| format!("  {}", column(&kl)));
        lines.push(format!("{name:<26}{row}{last}").trim_end().to_owned());
    };
    add("start (SFT)", &|k| measured.start(k), None);
    for (i, variant) in measured.variants.iter().enumerate() {
        let kl = nested.then(|| measured.rollouts(i, "nested/kl"));
        add(&variant.name, &|k| measured.values(i, None, k), kl);
    }
    lines
}
