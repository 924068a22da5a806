//! What the reports of the pipelines share: figures over seeds, and the two files of a report.

use rlhf_eval::report::{self, Answer, Cell, Point, Report, Sample, Samples, Section};
use rlhf_eval::stats;

use super::Outcome;
use super::ground::Ground;
use super::session::Session;
use super::verdict::{self, Trend};
use crate::error::Error;
use crate::run::atomic;

/// Mean and 95 % interval over seeds, or the bare number of a single seed.
pub(super) fn field(values: &[f64]) -> Cell {
    match (stats::mean_interval(values, stats::LEVEL_95), values.first()) {
        (Ok(interval), _) => interval.into(),
        (Err(_), Some(one)) => Cell::finite(*one),
        (Err(_), None) => "–".into(),
    }
}

/// The same as a point at `x`; none where there is no value.
pub(super) fn point(x: f64, values: &[f64]) -> Option<Point> {
    match stats::mean_interval(values, stats::LEVEL_95) {
        Ok(interval) => Some(Point::estimate(x, interval)),
        Err(_) => values.first().map(|y| Point::new(x, *y)),
    }
}

/// The same for a terminal, 16 columns wide.
pub(super) fn column(values: &[f64]) -> String {
    match stats::mean_interval(values, stats::LEVEL_95) {
        Ok(i) => format!("{:>8.3} ±{:<6.3}", i.estimate, i.high - i.estimate),
        Err(_) => values.first().map_or_else(|| format!("{:>16}", "–"), |x| format!("{x:>8.3}        ")),
    }
}

/// The mean; 0 of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Control characters, which a page may not hold, as their pictures (U+2400 and on).
pub(super) fn visible(text: &str) -> String {
    let picture = |c: char| match c {
        '\n' | '\t' => c,
        '\u{7f}' => '\u{2421}',
        c if c < ' ' => char::from_u32(0x2400 + c as u32).unwrap_or(c),
        c => c,
    };
    text.chars().map(picture).collect()
}

/// Writes `report.json` and `report.html`.
///
/// # Errors
/// The disk, or a figure that cannot be drawn.
pub(super) fn write(report: &Report, session: &Session) -> Result<(), Error> {
    let failed = |e: rlhf_eval::error::ReportError| Error::Failed(format!("report: {e}"));
    let json = report::to_json(report).map_err(failed)?;
    let page = report::html(std::slice::from_ref(report)).map_err(failed)?;
    atomic::write(&session.paths().report_json(), json.as_bytes())?;
    atomic::write(&session.paths().report_html(), page.as_bytes())
}

/// Answers to the first prompts side by side: the start policy's, then those of each other column; of each answer
/// its prompt and its text are given.
pub(super) fn samples(
    title: &str,
    caption: String,
    start: &[[String; 2]],
    others: &[(String, &[[String; 2]])],
) -> Section {
    let columns = others.iter().map(|(name, _)| name.clone());
    let columns = std::iter::once("start (SFT)".to_owned()).chain(columns).collect();
    let rows = start.iter().enumerate().map(|(i, [prompt, text])| {
        let after = others.iter().map(|(_, answers)| answers.get(i).map_or("", |answer| answer[1].as_str()));
        let answers = std::iter::once(text.as_str()).chain(after);
        let answers = answers.map(|text| Answer { text: visible(text), note: String::new() });
        Sample { prompt: prompt.clone(), answers: answers.collect() }
    });
    let mut section = Section::new(title);
    section.push(Samples { caption, columns, rows: rows.collect() });
    section
}

/// What was counted while reading the data, and the start policy's perplexity on held-out text.
///
/// # Errors
/// A checkpoint of another form.
pub(super) fn data(ground: &Ground, session: &Session) -> Result<Section, Error> {
    let mut section = Section::new("Data and models");
    for note in &ground.data.notes {
        section.paragraph(note.clone());
    }
    if let Some(p) = session.get::<f64>("sft/perplexity")? {
        section.paragraph(format!("Held-out perplexity of the start policy: {p:.1} a token."));
    }
    if let Some(p) = session.get::<f64>("sft/word_perplexity")? {
        section.paragraph(format!("The same per white-space word and end: {}.", readable(p)));
    }
    Ok(section)
}

/// A perplexity with one decimal, a huge one in powers of ten.
pub(super) fn readable(perplexity: f64) -> String {
    if perplexity < 1e6 { format!("{perplexity:.1}") } else { format!("{perplexity:.1e}") }
}

/// Closes the run: the table on the terminal, the trends, and where the files lie.
///
/// # Errors
/// The disk.
pub(super) fn ended(mut summary: Vec<String>, trends: &[Trend], session: Session) -> Result<Outcome, Error> {
    summary.push(String::new());
    summary.extend(trends.iter().map(verdict::line));
    summary.push(String::new());
    summary.push(format!("report: {}", session.paths().report_html().display()));
    summary.push(format!("model:  {}", session.paths().model().display()));
    session.close()?;
    Ok(Outcome { summary })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_seed_has_no_interval() {
        // t = 12.7062 with one degree of freedom, s/√2 = 1: 2 ± 12.7062.
        assert_eq!(column(&[1.0, 3.0]), "   2.000 ±12.706");
        assert_eq!(column(&[0.25]), "   0.250        ");
        assert_eq!(column(&[]), "               –");
        assert_eq!(field(&[0.25]), Cell::Number(0.25));
        assert_eq!(field(&[]), Cell::Text("–".to_owned()));
        assert_eq!(point(1.0, &[]), None);
        assert_eq!(point(1.0, &[2.0]), Some(Point::new(1.0, 2.0)));
        assert!(mean(&[]).abs() < 1e-12 && (mean(&[1.0, 2.0]) - 1.5).abs() < 1e-12);
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(visible("a\u{1}\u{7f}\n\tb"), "a\u{2401}\u{2421}\n\tb");
    }
}
