//! The HTML page. The template escapes every text; only our own drawings go in as they are.

use minijinja::{Environment, context};
use serde::Serialize;

use super::plot::{Scales, bars_svg, plot_svg};
use super::scale::{estimate, number};
use super::{Block, Cell, Plot, Report, Samples, Table};
use crate::error::ReportError;

/// The name ends in `.html`, which turns the escaping on.
const TEMPLATE: (&str, &str) = ("page.html", include_str!("page.html"));

/// A section title and, for each report, what stands under it.
#[derive(Debug, Serialize)]
struct Row<'a> {
    title: &'a str,
    /// Nothing for a report that lacks the section.
    cells: Vec<Option<Vec<Shown<'a>>>>,
}

/// A block as the template wants it.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Shown<'a> {
    Paragraph { text: &'a str },
    Note { text: &'a str },
    Table { caption: &'a str, columns: Vec<ShownCell<'a>>, rows: Vec<Vec<ShownCell<'a>>> },
    Figure { title: &'a str, caption: String, svg: Option<String> },
    Samples(&'a Samples),
}

#[derive(Debug, Serialize)]
struct ShownCell<'a> {
    class: &'a str,
    text: String,
}

/// The page of reports that have passed their checks.
pub(super) fn render(reports: &[Report]) -> Result<String, ReportError> {
    let scales = Scales::of(reports);
    let mut titles: Vec<&str> = Vec::new();
    for section in reports.iter().flat_map(|report| &report.sections) {
        if !titles.contains(&section.title.as_str()) {
            titles.push(&section.title);
        }
    }
    let rows = titles
        .into_iter()
        .map(|title| {
            let cells = reports.iter().map(|report| shown(report, title, &scales));
            Ok(Row { title, cells: cells.collect::<Result<_, _>>()? })
        })
        .collect::<Result<Vec<_>, ReportError>>()?;
    let page = |error: minijinja::Error| ReportError::Page { reason: error.to_string() };
    let mut environment = Environment::new();
    environment.add_template(TEMPLATE.0, TEMPLATE.1).map_err(page)?;
    let template = environment.get_template(TEMPLATE.0).map_err(page)?;
    template.render(context! { reports, rows }).map_err(page)
}

fn shown<'a>(
    report: &'a Report,
    title: &str,
    scales: &Scales,
) -> Result<Option<Vec<Shown<'a>>>, ReportError> {
    let section = report.sections.iter().find(|section| section.title == title);
    section.map(|section| section.blocks.iter().map(|block| show(block, scales)).collect()).transpose()
}

fn show<'a>(block: &'a Block, scales: &Scales) -> Result<Shown<'a>, ReportError> {
    Ok(match block {
        Block::Paragraph { text } => Shown::Paragraph { text },
        Block::Note { text } => Shown::Note { text },
        Block::Table(table) => show_table(table),
        Block::Samples(samples) => Shown::Samples(samples),
        Block::Plot(plot) => {
            Shown::Figure { title: &plot.title, caption: plot_caption(plot), svg: plot_svg(plot, scales)? }
        }
        Block::Bars(bars) => {
            Shown::Figure { title: &bars.title, caption: bars.caption.clone(), svg: bars_svg(bars, scales)? }
        }
    })
}

fn show_table(table: &Table) -> Shown<'_> {
    // A column that has numbers is set to the right as a whole, words among them included.
    let class = |column: usize| {
        let numbers = table.rows.iter().any(|row| !matches!(row[column], Cell::Text(_)));
        if numbers { "number" } else { "text" }
    };
    let classes: Vec<&str> = (0..table.columns.len()).map(class).collect();
    let text = |cell: &Cell| match cell {
        Cell::Text(text) => text.clone(),
        Cell::Number(value) => number(*value),
        Cell::Estimate(found) => estimate(found.estimate, found.low, found.high),
    };
    let line = |texts: &mut dyn Iterator<Item = String>| {
        texts.zip(&classes).map(|(text, &class)| ShownCell { class, text }).collect()
    };
    let columns = line(&mut table.columns.iter().cloned());
    let rows = table.rows.iter().map(|row| line(&mut row.iter().map(text))).collect();
    Shown::Table { caption: &table.caption, columns, rows }
}

/// The caption, and how many points are missing from which series.
fn plot_caption(plot: &Plot) -> String {
    let mut sentences = vec![plot.caption.clone()];
    for series in plot.series.iter().filter(|series| series.left_out > 0) {
        let name = if series.name.is_empty() { &plot.title } else { &series.name };
        sentences.push(format!("Left out of “{name}” because not finite: {}.", series.left_out));
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences.join(" ")
}
