//! What the reports of the pipelines share: figures over seeds, and the two files of a report.

use rlhf_eval::report::{self, Cell, Point, Report};
use rlhf_eval::stats;

use super::session::Session;
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
