//! The end of the run: the model folders, the report page, the table on the terminal.

use rlhf_eval::report::{Cell as Field, Plot, Point, Report, Section, Series, Style, Table};

use super::measure::Evaluation;
use super::oracles::{PreferenceFigures, Role};
use super::trends::{self, LENGTH, PROXY, SELF_BLEU, TRUE};
use super::{Setting, sweep};
use crate::config::{PreferenceKind, RspoPipeline};
use crate::error::Error;
use crate::pipeline::Outcome;
use crate::pipeline::page::{self, column, field, mean, point};
use crate::pipeline::session::Session;
use crate::pipeline::sweep::Cell;
use crate::pipeline::verdict;
use crate::task::restaurants::oracle::{oracle_figures, reference_answers};
use measured::{Held, Measured, Seen, forward, plain, reverse};

pub(super) mod measured;

/// KL(π ‖ μ).
const KL: &str = "kl";
/// KL(μ ‖ π).
const KL_FORWARD: &str = "kl_forward";

/// Prompts, and references of each, on which two rules are compared.
const RULE_SAMPLE: [usize; 2] = [200, 16];

/// Writes `model/`, `sft/`, `preference/`, `report.json`, `report.html`, and returns the terminal's table.
///
/// # Errors
/// The disk, or a figure that cannot be drawn.
pub(super) fn write(config: &RspoPipeline, setting: &Setting, session: Session) -> Result<Outcome, Error> {
    let measured = Measured::read(config, &session)?;
    save_models(config, setting, &session)?;
    let page = Page { config, measured: &measured, judge: judge_name(config) };
    page::write(&page.report(setting, &session)?, &session)?;
    let summary = page.terminal();
    page::ended(summary, &trends::all(&measured, page.judge), session)
}

/// What the oracle that judges is called: only a rule is the truth.
fn judge_name(config: &RspoPipeline) -> &'static str {
    if config.preference.judge == PreferenceKind::Rule { "true" } else { "judge's" }
}

fn save_models(config: &RspoPipeline, setting: &Setting, session: &Session) -> Result<(), Error> {
    let main = sweep(config).into_iter().find(Cell::is_main);
    setting.ground.save(session, &main.map(|c| c.phase()).unwrap_or_default())?;
    for (role, oracle) in [(Role::Proxy, &setting.proxy), (Role::Judge, &setting.judge)] {
        let folder = session.paths().root().join("preference").join(role.name());
        oracle.save(&folder, &setting.ground.tokenizer)?;
    }
    Ok(())
}

/// What the page is made of.
struct Page<'a> {
    config: &'a RspoPipeline,
    measured: &'a Measured,
    judge: &'static str,
}

impl Page<'_> {
    fn report(&self, setting: &Setting, session: &Session) -> Result<Report, Error> {
        let c = self.config;
        let subtitle = format!(
            "task {}, {} seeds, {} iterations of {} prompts with {} answers each, device {}, {} threads",
            setting.ground.data.name,
            c.evaluation.seeds,
            c.selfplay.n_iterations,
            c.selfplay.prompts_per_iteration,
            c.selfplay.num_generations,
            c.device,
            c.threads
        );
        let mut report = Report::new("Self-play", subtitle);
        report.sections.push(self.result());
        report.sections.push(self.trend_section());
        report.sections.push(self.over_iterations());
        report.sections.push(self.against_weights());
        report.sections.push(self.frontier());
        report.sections.push(self.samples());
        report.sections.push(self.oracles(session)?);
        report.sections.push(page::data(&setting.ground, session)?);
        Ok(report)
    }

    /// Name and key of what the tables and plots show of preferences and distance.
    fn figures(&self) -> [(String, &'static str); 5] {
        [
            ("win rate, proxy".to_owned(), PROXY),
            (format!("win rate, {}", self.judge), TRUE),
            ("KL(π ‖ μ), nats".to_owned(), KL),
            ("KL(μ ‖ π), nats".to_owned(), KL_FORWARD),
            ("self-BLEU-3".to_owned(), SELF_BLEU),
        ]
    }

    fn result(&self) -> Section {
        let mut section = Section::new("Result");
        let caption = "After the last iteration, on the evaluation prompts: mean and 95 % interval over seeds \
                       (Student t). A win rate is the mean P(answer ≻ an answer of the start policy μ) under the \
                       oracle that trains, the proxy, or the one that judges. KL is of a whole answer. Seeds vary \
                       the loop; the start policy and the oracles are shared.";
        section.push(self.table(caption, &self.figures()));
        let texts = [
            ("tokens", LENGTH),
            ("words", "completions/mean_words"),
            ("characters", "completions/mean_characters"),
            ("ended", "completions/ended"),
            ("distinct-2", "distinct_2"),
            ("perplexity", "perplexity"),
        ];
        section
            .push(self.table("The same answers as texts: the share that ended by itself, and the perplexity a token under the start policy.", &texts.map(|(name, key)| (name.to_owned(), key))));
        section
    }

    fn table(&self, caption: &str, columns: &[(String, &str)]) -> Table {
        let names = std::iter::once("policy").chain(columns.iter().map(|(name, _)| name.as_str()));
        let mut table = Table::new(caption, names);
        let mut add = |name: &str, values: &dyn Fn(&str) -> Vec<f64>| {
            let cells = columns.iter().map(|(_, key)| field(&values(key)));
            table.rows.push(std::iter::once(Field::from(name)).chain(cells).collect());
        };
        add("start (SFT)", &|key| self.measured.start(key));
        for v in &self.measured.variants {
            add(&v.name, &|key| plain(&v.last(key)));
        }
        table
    }

    fn trend_section(&self) -> Section {
        let caption = "Differences are paired by seed, each with its own 95 % interval: shown where every interval \
                       lies on the expected side of 0, unclear where only the means do. The peak of a seed's curve \
                       is where that of the other seeds' mean is, so that no seed chooses its own.";
        verdict::section("What theory leads one to expect", caption, trends::all(self.measured, self.judge))
    }

    fn over_iterations(&self) -> Section {
        let mut section = Section::new("Through the iterations");
        for (name, key) in self.figures().into_iter().chain([("length, tokens".to_owned(), LENGTH)]) {
            let mut plot = Plot::new(format!("{name} through the iterations"), "iteration", name);
            for v in &self.measured.variants {
                let points =
                    v.iterations().into_iter().filter_map(|t| point(t as f64, &plain(&v.at(t, key))));
                plot = plot.with(Series::finite(v.name.clone(), Style::LineAndPoints, points));
            }
            section
                .push(plot.caption("Iteration 0 is the start policy. Bars are 95 % intervals over seeds."));
        }
        section
    }

    fn against_weights(&self) -> Section {
        let mut section = Section::new("Strength of a regulariser");
        let both = [("proxy", PROXY), (self.judge, TRUE)];
        for (which, weight) in [("forward", forward as fn(Held) -> Option<f64>), ("reverse", reverse)] {
            let sweep = self.measured.sweep_from_free(weight);
            if sweep.len() < 2 {
                continue;
            }
            let at = |key: &str| {
                let points: Vec<Point> =
                    sweep.iter().filter_map(|(weight, v)| point(*weight, &plain(&v.last(key)))).collect();
                points
            };
            let x = format!("λ of {which} KL");
            let length = Plot::new(format!("Length against λ of {which} KL"), x.clone(), "tokens");
            section.push(length.with(Series::finite("", Style::LineAndPoints, at(LENGTH))));
            let mut wins =
                Plot::new(format!("Win rate against λ of {which} KL"), x, "win rate against the start");
            for (name, key) in both {
                wins = wins.with(Series::finite(name, Style::LineAndPoints, at(key)));
            }
            section.push(wins.caption("After the last iteration; λ = 0 is unregularised play."));
        }
        if section.blocks.is_empty() {
            section.paragraph("No variants that differ in λ of one regulariser alone.");
        }
        section
    }

    fn frontier(&self) -> Section {
        let mut section = Section::new("Win rate against KL");
        for (name, key) in [(self.judge, TRUE), ("proxy", PROXY)] {
            let title = format!("{name} win rate against KL");
            let mut plot = Plot::new(title, "KL(π ‖ μ), nats an answer", format!("{name} win rate"));
            for v in &self.measured.variants {
                let one = |t: u64| point(mean(&plain(&v.at(t, KL))), &plain(&v.at(t, key)));
                let points = v.iterations().into_iter().filter_map(one);
                plot = plot.with(Series::finite(v.name.clone(), Style::LineAndPoints, points));
            }
            section.push(plot.caption(
                "Each line is one variant from the start policy through the iterations; bars are 95 % intervals over seeds.",
            ));
        }
        section
    }

    fn samples(&self) -> Section {
        let runs: Vec<(&Seen, &[Evaluation])> =
            self.measured.variants.iter().filter_map(|v| Some((v, v.runs.get(&0)?.as_slice()))).collect();
        let start = shown(runs.first().and_then(|(_, run)| run.first()));
        let last: Vec<_> = runs.iter().map(|(v, run)| (v.name.clone(), shown(run.last()))).collect();
        let caption = format!("Seed 0, temperature {}.", self.config.evaluation.temperature.get());
        page::samples("Answers before and after", caption, start, &last)
    }

    fn oracles(&self, session: &Session) -> Result<Section, Error> {
        let mut section = Section::new("Preference oracles");
        let p = &self.config.preference;
        if [p.proxy, p.judge].contains(&PreferenceKind::Rule) {
            let [n_prompts, n_answers] = RULE_SAMPLE;
            section.paragraph(format!(
                "The rules on {n_answers} references of each of {n_prompts} prompts, where the proxy is the \
                 length-biased one and the truth the other:"
            ));
            let answers = reference_answers(self.config.seed, n_prompts, n_answers);
            let figures = oracle_figures(&answers).map_err(|e| Error::Failed(e.to_string()))?;
            for sentence in figures.sentences() {
                section.paragraph(format!("{sentence}."));
            }
        }
        for (role, kind) in [(Role::Proxy, p.proxy), (Role::Judge, p.judge)] {
            let found = session.get::<PreferenceFigures>(&role.key())?;
            let known =
                found.map_or_else(|| "nothing held out to measure it on".to_owned(), |f| f.sentence());
            section.paragraph(format!("{} oracle, {}: {known}.", role.name(), kind_name(kind)));
        }
        Ok(section)
    }

    /// The table of the result for a terminal of 120 columns.
    fn terminal(&self) -> Vec<String> {
        let judge = self.judge.trim_end_matches("'s");
        let shown =
            [("proxy wins", PROXY), (judge, TRUE), ("tokens", LENGTH), ("self-BLEU", SELF_BLEU), ("KL", KL)];
        let names = self.measured.variants.iter().map(|v| v.name.chars().count());
        let width = names.max().unwrap_or(0).max(12) + 1;
        let heads: String = shown.iter().map(|(name, _)| format!("{name:>16}")).collect();
        let mut lines = vec![format!("{:<width$}{heads}", "policy")];
        let mut add = |name: &str, values: &dyn Fn(&str) -> Vec<f64>| {
            let row: String = shown.iter().map(|(_, key)| column(&values(key))).collect();
            lines.push(format!("{name:<width$}{row}").trim_end().to_owned());
        };
        add("start (SFT)", &|key| self.measured.start(key));
        for v in &self.measured.variants {
            add(&v.name, &|key| plain(&v.last(key)));
        }
        lines
    }
}

/// The answers that an evaluation keeps for the report.
fn shown(evaluation: Option<&Evaluation>) -> &[[String; 2]] {
    evaluation.map_or(&[], |e| &e.samples)
}

/// A kind of oracle for a reader.
fn kind_name(kind: PreferenceKind) -> &'static str {
    match kind {
        PreferenceKind::Rule => "an exact rule",
        PreferenceKind::Bag => "Bradley–Terry on a bag of words",
        PreferenceKind::BradleyTerry => "Bradley–Terry on a decoder",
        PreferenceKind::Pairwise => "a pairwise cross-encoder",
        PreferenceKind::Gpm => "general preference embeddings",
    }
}
