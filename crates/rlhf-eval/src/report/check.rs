//! What a report must satisfy before it is drawn or written.

use std::collections::HashSet;

use super::{Bars, Block, Cell, Plot, Range, Report, Samples, Series, Table};
use crate::error::ReportError;

/// Larger numbers would overflow where an axis is laid out; no figure of a run is so large.
const LARGEST: f64 = 1e100;

pub(super) fn report(report: &Report) -> Result<(), ReportError> {
    let place = format!("report {:?}", report.title);
    named(&place, "title", &report.title)?;
    let mut titles = HashSet::new();
    for section in &report.sections {
        named(&place, "section title", &section.title)?;
        if !titles.insert(&section.title) {
            return Err(ReportError::Value {
                place,
                expected: "section titles that differ",
                found: format!("{:?} twice", section.title),
            });
        }
        let place = format!("{place}, section {:?}", section.title);
        section.blocks.iter().try_for_each(|block| self::block(&place, block))?;
    }
    Ok(())
}

fn block(place: &str, block: &Block) -> Result<(), ReportError> {
    match block {
        Block::Paragraph { .. } | Block::Note { .. } => Ok(()),
        Block::Table(table) => self::table(&format!("{place}, table {:?}", table.caption), table),
        Block::Plot(plot) => self::plot(&format!("{place}, plot {:?}", plot.title), plot),
        Block::Bars(bars) => self::bars(&format!("{place}, bars {:?}", bars.title), bars),
        Block::Samples(samples) => self::samples(&format!("{place}, samples {:?}", samples.caption), samples),
    }
}

fn table(place: &str, table: &Table) -> Result<(), ReportError> {
    for (row, cells) in table.rows.iter().enumerate() {
        let place = format!("{place}, row {}", row + 1);
        same_length(&place, table.columns.len(), cells.len())?;
        for (cell, column) in cells.iter().zip(&table.columns) {
            let place = || format!("{place}, column {column:?}");
            match cell {
                Cell::Text(_) => {}
                Cell::Number(value) => finite(place, *value)?,
                Cell::Estimate(found) => {
                    finite(place, found.estimate)?;
                    range(place, Range { low: found.low, high: found.high })?;
                }
            }
        }
    }
    Ok(())
}

fn plot(place: &str, plot: &Plot) -> Result<(), ReportError> {
    named(place, "title", &plot.title)?;
    named(place, "name of the x axis", &plot.x_name)?;
    named(place, "name of the y axis", &plot.y_name)?;
    plot.series.iter().try_for_each(|series| self::series(place, series))
}

fn series(place: &str, series: &Series) -> Result<(), ReportError> {
    for (i, point) in series.points.iter().enumerate() {
        let at = |field: &str| format!("{place}, series {:?}, point {}, {field}", series.name, i + 1);
        finite(|| at("x"), point.x)?;
        finite(|| at("y"), point.y)?;
        point.range.map_or(Ok(()), |found| range(|| at("range"), found))?;
    }
    Ok(())
}

fn bars(place: &str, bars: &Bars) -> Result<(), ReportError> {
    named(place, "title", &bars.title)?;
    named(place, "name of the value axis", &bars.value_name)?;
    for bar in &bars.bars {
        let at = || format!("{place}, bar {:?}", bar.name);
        finite(at, bar.value)?;
        bar.range.map_or(Ok(()), |found| range(at, found))?;
    }
    Ok(())
}

fn samples(place: &str, samples: &Samples) -> Result<(), ReportError> {
    for (row, sample) in samples.rows.iter().enumerate() {
        same_length(&format!("{place}, row {}", row + 1), samples.columns.len(), sample.answers.len())?;
    }
    Ok(())
}

fn same_length(place: &str, expected: usize, found: usize) -> Result<(), ReportError> {
    if expected == found {
        return Ok(());
    }
    Err(ReportError::Ragged { place: place.to_owned(), expected, found })
}

fn named(place: &str, what: &str, name: &str) -> Result<(), ReportError> {
    if !name.trim().is_empty() {
        return Ok(());
    }
    let (expected, found) = ("a name", "an empty one".to_owned());
    Err(ReportError::Value { place: format!("{place}, {what}"), expected, found })
}

fn finite(place: impl Fn() -> String, value: f64) -> Result<(), ReportError> {
    if value.abs() <= LARGEST {
        return Ok(());
    }
    let (expected, found) = ("a finite number of at most 1e100", value.to_string());
    Err(ReportError::Value { place: place(), expected, found })
}

fn range(place: impl Fn() -> String, range: Range) -> Result<(), ReportError> {
    finite(&place, range.low)?;
    finite(&place, range.high)?;
    if range.low <= range.high {
        return Ok(());
    }
    let found = format!("low {} above high {}", range.low, range.high);
    Err(ReportError::Value { place: place(), expected: "low at most high", found })
}
