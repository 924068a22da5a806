//! The end of the run: the model folders, the report page, the table on the terminal.

use rlhf_eval::report::{Cell as Field, Plot, Point, Report, Section, Series, Style, Table};
use rlhf_eval::stats::Interval;
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::evaluate::{Evaluation, Figures};
use super::{Setting, trends};
use crate::config::SuperhfPipeline;
use crate::error::Error;
use crate::pipeline::Outcome;
use crate::pipeline::page::{self, column, field, mean, point};
use crate::pipeline::session::Session;
use crate::pipeline::verdict;

/// The best of N answers of the start policy by the proxy reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// N.
    pub n: usize,
    /// Which repetition.
    pub seed: u64,
    /// What was measured.
    pub figures: Figures,
}

/// How well a reward model does on what it did not see.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RewardFigures {
    /// Share of held-out pairs in the right order; ties count as wrong. 95 % Wilson interval.
    pub accuracy: Option<Interval>,
    /// Held-out pairs.
    pub n_pairs: usize,
    /// Pearson correlation with held-out mean ratings.
    pub correlation: Option<f64>,
    /// Held-out rated texts.
    pub n_rated: usize,
}

impl RewardFigures {
    /// One line for the terminal.
    pub fn sentence(&self) -> String {
        let mut parts = Vec::new();
        if let Some(a) = self.accuracy {
            parts.push(format!(
                "{:.3} [{:.3}, {:.3}] of {} held-out pairs right",
                a.estimate, a.low, a.high, self.n_pairs
            ));
        }
        if let Some(r) = self.correlation {
            parts.push(format!("correlation {r:.3} with {} held-out ratings", self.n_rated));
        }
        if parts.is_empty() { "nothing held out to measure it on".to_owned() } else { parts.join(", ") }
    }
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// The start policy, by seed.
    pub(super) start: Vec<Evaluation>,
    /// Best of N at inference.
    pub(super) baselines: Vec<Baseline>,
    /// Every cell with its evaluations, last one after the last round.
    pub(super) cells: Vec<(Cell, Vec<Evaluation>)>,
}

impl Measured {
    fn read(config: &SuperhfPipeline, session: &Session) -> Result<Self, Error> {
        let mut start = Vec::new();
        for s in 0..config.sweep.seeds.get() {
            start.extend(session.get::<Evaluation>(&format!("start/{s}"))?);
        }
        let mut cells = Vec::new();
        for cell in Cell::all(config) {
            cells.push((cell, session.get(&cell.key())?.unwrap_or_default()));
        }
        Ok(Self { start, baselines: session.get("baselines")?.unwrap_or_default(), cells })
    }

    /// β and N of every variant, in order.
    pub(super) fn variants(&self) -> Vec<(f64, usize)> {
        let mut all: Vec<(f64, usize)> = Vec::new();
        for (cell, _) in &self.cells {
            if !all.iter().any(|(b, n)| b.to_bits() == cell.beta.to_bits() && *n == cell.n) {
                all.push((cell.beta, cell.n));
            }
        }
        all.sort_by(|a, b| a.1.cmp(&b.1).then(a.0.total_cmp(&b.0)));
        all
    }

    /// A figure of one variant after `round` rounds (the last for `None`), one a seed.
    pub(super) fn values(&self, beta: f64, n: usize, round: Option<u64>, key: &str) -> Vec<f64> {
        let of = |evaluations: &Vec<Evaluation>| -> Option<f64> {
            let shown = match round {
                None => evaluations.last(),
                Some(r) => evaluations.iter().find(|e| e.round == r),
            };
            shown?.figures.values.get(key).copied()
        };
        let matching = self.cells.iter().filter(|(c, _)| c.n == n && c.beta.to_bits() == beta.to_bits());
        matching.filter_map(|(_, e)| of(e)).collect()
    }

    /// A figure of the start policy, one a seed.
    pub(super) fn start(&self, key: &str) -> Vec<f64> {
        self.start.iter().filter_map(|e| e.figures.values.get(key).copied()).collect()
    }

    fn baseline(&self, n: usize, key: &str) -> Vec<f64> {
        let of = self.baselines.iter().filter(|b| b.n == n);
        of.filter_map(|b| b.figures.values.get(key).copied()).collect()
    }

    fn rounds(&self) -> Vec<u64> {
        self.cells.first().map(|(_, e)| e.iter().map(|e| e.round).collect()).unwrap_or_default()
    }
}

/// Columns of the table of rewards: heading and key.
const REWARDS: [(&str, &str); 5] = [
    ("proxy reward", "reward/proxy"),
    ("judge reward", "reward/judge"),
    ("gold reward", "reward/gold"),
    ("KL to the start, nats", "kl"),
    ("self-similarity", "self_similarity"),
];

/// Columns of the table of texts.
const TEXTS: [(&str, &str); 4] = [
    ("distinct-2", "distinct_2"),
    ("tokens", "completions/mean_length"),
    ("share ended", "completions/ended"),
    ("perplexity under the start", "perplexity"),
];

/// Writes `model/`, `reward/`, `report.json`, `report.html`, and returns the terminal's table.
///
/// # Errors
/// The disk, or a figure that cannot be drawn.
pub(super) fn write(config: &SuperhfPipeline, setting: &Setting, session: Session) -> Result<Outcome, Error> {
    let measured = Measured::read(config, &session)?;
    save_models(config, setting, &session)?;
    let report = report(config, setting, &session, &measured)?;
    page::write(&report, &session)?;
    let summary = terminal(&measured);
    page::ended(summary, &trends::all(config, setting, &measured), session)
}

fn save_models(config: &SuperhfPipeline, setting: &Setting, session: &Session) -> Result<(), Error> {
    let Some(main) = Cell::all(config).into_iter().next() else { return Ok(()) };
    setting.ground.save(session, &main.phase())?;
    for (role, scorer) in [("proxy", &setting.proxy), ("judge", &setting.judge)] {
        if let Some(scorer) = scorer {
            scorer.save(&session.paths().root().join("reward").join(role), &setting.ground.tokenizer)?;
        }
    }
    Ok(())
}

fn report(
    config: &SuperhfPipeline,
    setting: &Setting,
    session: &Session,
    measured: &Measured,
) -> Result<Report, Error> {
    let subtitle = format!(
        "task {}, {} seeds, {} rounds of {} prompts, device {}, {} threads",
        setting.ground.data.name,
        config.sweep.seeds,
        config.superhf.n_rounds,
        config.superhf.prompts_per_round,
        config.device,
        config.threads
    );
    let mut report = Report::new("SuperHF", subtitle);
    report.sections.push(result(measured));
    report.sections.push(trend_section(config, setting, measured));
    report.sections.push(against_kl(measured));
    report.sections.push(against_settings(config, measured));
    report.sections.push(over_rounds(config, measured));
    report.sections.push(samples(config, measured));
    report.sections.push(setup(setting, session)?);
    Ok(report)
}

fn result(measured: &Measured) -> Section {
    let mut section = Section::new("Result");
    let caption = "After the last round, on the evaluation prompts: mean and 95 % interval over seeds \
                   (Student t). Rewards are on each model's own scale; \
                   best of N picks at inference, β and N are SuperHF's. \
                   Seeds vary the loop; the start policy and the rewards are shared.";
    section.push(result_table(measured, caption, &REWARDS));
    section.push(result_table(measured, "The same completions as texts.", &TEXTS));
    section
}

fn result_table(measured: &Measured, caption: &str, columns: &[(&str, &str)]) -> Table {
    let present: Vec<&(&str, &str)> =
        columns.iter().filter(|(_, key)| !measured.start(key).is_empty()).collect();
    let names = std::iter::once("policy").chain(present.iter().map(|(name, _)| *name));
    let mut table = Table::new(caption, names.collect::<Vec<_>>());
    let mut add = |name: String, values: &dyn Fn(&str) -> Vec<f64>| {
        let mut row: Vec<Field> = vec![name.into()];
        row.extend(present.iter().map(|(_, key)| field(&values(key))));
        table.rows.push(row);
    };
    add("start (SFT)".to_owned(), &|key| measured.start(key));
    let mut ns: Vec<usize> = measured.baselines.iter().map(|b| b.n).filter(|n| *n > 1).collect();
    ns.sort_unstable();
    ns.dedup();
    for n in ns {
        add(format!("best of {n}"), &|key| measured.baseline(n, key));
    }
    for (beta, n) in measured.variants() {
        add(format!("β = {beta}, N = {n}"), &|key| measured.values(beta, n, None, key));
    }
    table
}

fn trend_section(config: &SuperhfPipeline, setting: &Setting, measured: &Measured) -> Section {
    let caption = "Trends of Mukobi et al. 2023. A z-gain is a mean's rise over the start policy in standard deviations \
         of that reward over the start policy's answers; differences are paired by seed.";
    verdict::section("What the paper leads one to expect", caption, trends::all(config, setting, measured))
}

/// The rewards that a task has, by role.
fn roles(measured: &Measured) -> Vec<&'static str> {
    let all = ["proxy", "judge", "gold"];
    all.into_iter().filter(|r| !measured.start(&format!("reward/{r}")).is_empty()).collect()
}

fn against_kl(measured: &Measured) -> Section {
    let mut section = Section::new("Reward against KL");
    let main_n = measured.cells.first().map_or(0, |(c, _)| c.n);
    for role in roles(measured) {
        let key = format!("reward/{role}");
        let mut plot = Plot::new(
            format!("{role} reward against KL"),
            "KL(policy ‖ start), nats a sequence",
            format!("{role} reward, mean"),
        );
        for (beta, n) in measured.variants().into_iter().filter(|(_, n)| *n == main_n) {
            let mut points = vec![];
            points.extend(point(0.0, &measured.start(&key)));
            for round in measured.rounds() {
                let at = Some(round);
                points.extend(point(
                    mean(&measured.values(beta, n, at, "kl")),
                    &measured.values(beta, n, at, &key),
                ));
            }
            plot = plot.with(Series::finite(format!("β = {beta}"), Style::LineAndPoints, points));
        }
        section.push(plot.caption("Each line is one β from the start policy through the rounds; bars and bands are 95 % intervals over seeds."));
    }
    section
}

fn against_settings(config: &SuperhfPipeline, measured: &Measured) -> Section {
    let mut section = Section::new("β and N");
    let (main_beta, main_n) = (config.superhf.beta.get(), config.superhf.num_generations.get());
    let with_beta: Vec<(f64, usize)> =
        measured.variants().into_iter().filter(|(_, n)| *n == main_n).collect();
    let with_n: Vec<(f64, usize)> =
        measured.variants().into_iter().filter(|(b, _)| b.to_bits() == main_beta.to_bits()).collect();
    let mut similarity =
        Plot::new("Self-similarity against β", "β", "METEOR self-similarity").with(Series::finite(
            "after the last round",
            Style::LineAndPoints,
            with_beta
                .iter()
                .filter_map(|(b, n)| point(*b, &measured.values(*b, *n, None, "self_similarity")))
                .collect::<Vec<_>>(),
        ));
    let start = measured.start("self_similarity");
    let ends = [with_beta.first(), with_beta.last()];
    let level = ends.into_iter().flatten().filter_map(|(b, _)| point(*b, &start)).collect::<Vec<_>>();
    similarity = similarity.with(Series::finite("start policy", Style::Line, level));
    section.push(similarity.caption("Completions of different prompts; higher means more of one template."));
    let mut against_beta = Plot::new("Reward against β", "β", "z-gain over the start");
    let mut against_n = Plot::new("Reward against N", "log₂ N", "z-gain over the start");
    for role in roles(measured) {
        let gain = |b: f64, n: usize| trends::gains(measured, b, n, role);
        let points: Vec<Point> = with_beta.iter().filter_map(|(b, n)| point(*b, &gain(*b, *n))).collect();
        against_beta = against_beta.with(Series::finite(role, Style::LineAndPoints, points));
        let points: Vec<Point> =
            with_n.iter().filter_map(|(b, n)| point((*n as f64).log2(), &gain(*b, *n))).collect();
        against_n = against_n.with(Series::finite(role, Style::LineAndPoints, points));
    }
    section.push(against_beta.caption(format!("N = {main_n}, after the last round.")));
    section.push(against_n.caption(format!("β = {main_beta}, after the last round.")));
    section
}

fn over_rounds(config: &SuperhfPipeline, measured: &Measured) -> Section {
    let mut section = Section::new("Through the rounds");
    let main_n = config.superhf.num_generations.get();
    let shown = [
        ("proxy reward", "reward/proxy"),
        ("self-similarity", "self_similarity"),
        ("completion length, tokens", "completions/mean_length"),
    ];
    for (name, key) in shown {
        let mut plot = Plot::new(format!("{name} through the rounds"), "round", name);
        for (beta, n) in measured.variants().into_iter().filter(|(_, n)| *n == main_n) {
            let mut points: Vec<Point> = point(0.0, &measured.start(key)).into_iter().collect();
            points.extend(
                measured
                    .rounds()
                    .into_iter()
                    .filter_map(|r| point(r as f64, &measured.values(beta, n, Some(r), key))),
            );
            plot = plot.with(Series::finite(format!("β = {beta}"), Style::Line, points));
        }
        section.push(plot.caption("Bands are 95 % intervals over seeds."));
    }
    section
}

fn samples(config: &SuperhfPipeline, measured: &Measured) -> Section {
    let main_n = config.superhf.num_generations.get();
    let cells = measured.cells.iter().filter(|(c, _)| c.seed == 0 && c.n == main_n);
    let last: Vec<_> = cells.map(|(c, e)| (format!("β = {}", c.beta), shown(e.last()))).collect();
    let caption = format!("Seed 0, N = {main_n}, temperature {}.", config.evaluation.temperature.get());
    page::samples("Completions before and after", caption, shown(measured.start.first()), &last)
}

/// The answers that an evaluation keeps for the report.
fn shown(evaluation: Option<&Evaluation>) -> &[[String; 2]] {
    evaluation.map_or(&[], |e| &e.samples)
}

fn setup(setting: &Setting, session: &Session) -> Result<Section, Error> {
    let mut section = page::data(&setting.ground, session)?;
    for role in ["proxy", "judge"] {
        if let Some(figures) = session.get::<RewardFigures>(&format!("reward/{role}"))? {
            section.paragraph(format!("{role} reward: {}.", figures.sentence()));
        }
    }
    Ok(section)
}

/// The table of the result for a terminal of 100 columns.
fn terminal(measured: &Measured) -> Vec<String> {
    let keys = ["reward/proxy", "reward/judge", "reward/gold", "kl", "self_similarity"];
    let present: Vec<&str> = keys.into_iter().filter(|k| !measured.start(k).is_empty()).collect();
    let mut lines = vec![format!(
        "{:<26}{}",
        "policy",
        present.iter().map(|k| format!("{:>16}", k.trim_start_matches("reward/"))).collect::<String>()
    )];
    let mut add = |name: &str, values: &dyn Fn(&str) -> Vec<f64>| {
        let row: String = present.iter().map(|k| column(&values(k))).collect();
        lines.push(format!("{name:<26}{row}").trim_end().to_owned());
    };
    add("start (SFT)", &|k| measured.start(k));
    for (beta, n) in measured.variants() {
        add(&format!("SuperHF β={beta} N={n}"), &|k| measured.values(beta, n, None, k));
    }
    lines
}
