//! Report pages: plain structs in, one self-contained HTML page out.
//!
//! A [`Report`] is data. [`to_json`] and [`from_json`] keep it in a file, [`html`] draws one or several side by
//! side, without scripts and without anything loaded from elsewhere. Values that are NaN or infinite are refused;
//! [`Series::finite`] and [`Cell::finite`] leave them out and say so on the page.
//!
//! ```
//! use rlhf_eval::report::{Plot, Point, Report, Section, Series, Style, html};
//!
//! let reward = Series::finite("β = 0.1", Style::LineAndPoints, (0..5_u8).map(|step| {
//!     Point::new(f64::from(step), f64::from(step).sqrt())
//! }));
//! let mut section = Section::new("Training");
//! section.push(Plot::new("Reward by round", "round", "mean reward").with(reward));
//! let mut report = Report::new("superhf", "seed 0");
//! report.sections.push(section);
//! let page = html(&[report])?;
//! assert!(page.contains("<svg") && !page.contains("<script"));
//! # Ok::<(), rlhf_eval::error::ReportError>(())
//! ```

mod canvas;
mod check;
mod page;
mod plot;
mod scale;

use serde::{Deserialize, Serialize};

use crate::error::ReportError;
use crate::stats::Interval;

/// Draws the page: one report in one column, several as columns side by side with equal sections in one row.
/// Plots of equal title and axis names share their scales, so that runs can be compared by eye.
///
/// # Errors
/// No report; a value that is not finite or an interval the wrong way round; a row that does not fit its header;
/// an axis or a plot without a name.
pub fn html(reports: &[Report]) -> Result<String, ReportError> {
    if reports.is_empty() {
        return Err(ReportError::Empty);
    }
    reports.iter().try_for_each(check::report)?;
    page::render(reports)
}

/// Draws one plot by itself, as an SVG image; nothing where it has no point.
///
/// # Errors
/// As [`html`].
pub fn svg(plot: &Plot) -> Result<Option<String>, ReportError> {
    let mut section = Section::new("plot");
    section.push(plot.clone());
    let mut report = Report::new(plot.title.clone(), "");
    report.sections.push(section);
    check::report(&report)?;
    plot::plot_svg(plot, &plot::Scales::of(&[report]))
}

/// The report as JSON, one line a field; the same checks as [`html`], because JSON has no NaN either.
///
/// # Errors
/// As [`html`].
pub fn to_json(report: &Report) -> Result<String, ReportError> {
    check::report(report)?;
    serde_json::to_string_pretty(report).map_err(|error| ReportError::Json { reason: error.to_string() })
}

/// Reads what [`to_json`] wrote.
///
/// # Errors
/// Text that is not JSON or not a report (with line and column), and all errors of [`html`].
pub fn from_json(text: &str) -> Result<Report, ReportError> {
    let report =
        serde_json::from_str(text).map_err(|error| ReportError::Json { reason: error.to_string() })?;
    check::report(&report)?;
    Ok(report)
}

/// What one run has to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Name of the run.
    pub title: String,
    /// What was run: seed, device, date; may be empty.
    pub subtitle: String,
    /// Sections in reading order; their titles differ.
    pub sections: Vec<Section>,
}

impl Report {
    /// A report without sections.
    pub fn new(title: impl Into<String>, subtitle: impl Into<String>) -> Self {
        Self { title: title.into(), subtitle: subtitle.into(), sections: Vec::new() }
    }
}

/// A heading and what stands under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// The heading. Sections of several reports with one title stand side by side.
    pub title: String,
    /// Content in reading order.
    pub blocks: Vec<Block>,
}

impl Section {
    /// An empty section.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), blocks: Vec::new() }
    }

    /// Appends a table, a plot, bars, samples or any other block.
    pub fn push(&mut self, block: impl Into<Block>) {
        self.blocks.push(block.into());
    }

    /// Appends a paragraph of plain text.
    pub fn paragraph(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Paragraph { text: text.into() });
    }

    /// Appends a note: a caveat that must not be overlooked.
    pub fn note(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Note { text: text.into() });
    }
}

/// One piece of a section. All text is plain: the page escapes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Block {
    /// Plain text; line breaks are kept.
    Paragraph {
        /// The text.
        text: String,
    },
    /// Plain text that stands out.
    Note {
        /// The text.
        text: String,
    },
    /// A table.
    Table(Table),
    /// Lines or points in a plane.
    Plot(Plot),
    /// Named values with intervals.
    Bars(Bars),
    /// Texts side by side.
    Samples(Samples),
}

impl From<Table> for Block {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

impl From<Plot> for Block {
    fn from(plot: Plot) -> Self {
        Self::Plot(plot)
    }
}

impl From<Bars> for Block {
    fn from(bars: Bars) -> Self {
        Self::Bars(bars)
    }
}

impl From<Samples> for Block {
    fn from(samples: Samples) -> Self {
        Self::Samples(samples)
    }
}

/// A table; the first cell of each row is its heading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What the table shows; may be empty.
    pub caption: String,
    /// Headings, with units.
    pub columns: Vec<String>,
    /// Rows, each as long as `columns`.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new<S: Into<String>>(caption: impl Into<String>, columns: impl IntoIterator<Item = S>) -> Self {
        Self {
            caption: caption.into(),
            columns: columns.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// One cell of a table: in JSON a string, a number, or an object with `estimate`, `low` and `high`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// Plain text.
    Text(String),
    /// A number, shown with four significant digits.
    Number(f64),
    /// An estimate with its interval, shown as `0.62 [0.60, 0.64]`.
    Estimate(Interval),
}

impl Cell {
    /// The number, or the words "not finite" where it is NaN or infinite.
    pub fn finite(value: f64) -> Self {
        if value.is_finite() { Self::Number(value) } else { Self::Text("not finite".to_owned()) }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<Interval> for Cell {
    fn from(interval: Interval) -> Self {
        Self::Estimate(interval)
    }
}

/// Series in a plane with two linear axes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// Stands above the plot.
    pub title: String,
    /// Name of the horizontal axis, with unit; never empty.
    pub x_name: String,
    /// Name of the vertical axis, with unit; never empty.
    pub y_name: String,
    /// Stands below the plot: how many seeds, which interval; may be empty.
    pub caption: String,
    /// What is drawn; later series lie on top.
    pub series: Vec<Series>,
}

impl Plot {
    /// A plot without series and caption.
    pub fn new(title: impl Into<String>, x_name: impl Into<String>, y_name: impl Into<String>) -> Self {
        let (title, x_name, y_name) = (title.into(), x_name.into(), y_name.into());
        Self { title, x_name, y_name, caption: String::new(), series: Vec::new() }
    }

    /// The plot with one more series.
    #[must_use]
    pub fn with(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// The plot with this caption.
    #[must_use]
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }
}

/// Points of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Name in the legend; a plot whose only series has no name has no legend.
    pub name: String,
    /// How the points are drawn.
    pub style: Style,
    /// Points in the order in which a line joins them.
    pub points: Vec<Point>,
    /// Points that are missing because they were not finite; the page says how many.
    pub left_out: usize,
}

impl Series {
    /// A series of all `points`; [`html`] refuses it if one is not finite.
    pub fn new(name: impl Into<String>, style: Style, points: impl IntoIterator<Item = Point>) -> Self {
        Self { name: name.into(), style, points: points.into_iter().collect(), left_out: 0 }
    }

    /// A series of the finite `points`, which counts the others.
    pub fn finite(name: impl Into<String>, style: Style, points: impl IntoIterator<Item = Point>) -> Self {
        let mut series = Self::new(name, style, points);
        let all = series.points.len();
        series.points.retain(Point::is_finite);
        series.left_out = all - series.points.len();
        series
    }
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// A line; intervals are a band around it. For many points, such as one a step.
    Line,
    /// A line with markers; intervals are error bars.
    LineAndPoints,
    /// Markers alone; intervals are error bars.
    Points,
}

/// One point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Place on the horizontal axis.
    pub x: f64,
    /// Place on the vertical axis.
    pub y: f64,
    /// Interval of `y`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
}

impl Point {
    /// A point without an interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, range: None }
    }

    /// An estimate with its interval at `x`.
    pub fn estimate(x: f64, y: Interval) -> Self {
        Self { x, y: y.estimate, range: Some(Range { low: y.low, high: y.high }) }
    }

    fn is_finite(&self) -> bool {
        let range = self.range.is_none_or(|range| range.low.is_finite() && range.high.is_finite());
        self.x.is_finite() && self.y.is_finite() && range
    }
}

/// The two ends of an interval, `low ≤ high`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Horizontal bars from 0, with intervals where there are some and the figures beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bars {
    /// Stands above the bars.
    pub title: String,
    /// Name of the axis of the values, with unit; never empty.
    pub value_name: String,
    /// Stands below the bars; may be empty.
    pub caption: String,
    /// Bars from top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// Interval of `value`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
}

impl Bar {
    /// A bar without an interval.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, range: None }
    }

    /// An estimate with its interval.
    pub fn estimate(name: impl Into<String>, value: Interval) -> Self {
        let range = Some(Range { low: value.low, high: value.high });
        Self { name: name.into(), value: value.estimate, range }
    }
}

/// Answers to the same prompts side by side, such as before and after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// How the samples were chosen; may be empty.
    pub caption: String,
    /// Who answers: `before`, `after`.
    pub columns: Vec<String>,
    /// Prompts with their answers.
    pub rows: Vec<Sample>,
}

/// A prompt and one answer for each column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// Answers, as many as [`Samples::columns`].
    pub answers: Vec<Answer>,
}

/// A text and what is to be known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The text as it was generated.
    pub text: String,
    /// Figures beside it, such as `reward 1.83`; may be empty.
    pub note: String,
}
