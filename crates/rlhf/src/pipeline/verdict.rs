//! Expectations of a paper or a theory, and what came of them: a verdict is read from intervals.

use rlhf_eval::report::{Section, Table};
use rlhf_eval::stats::{self, Interval};

/// One expectation and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trend {
    /// Its short name, such as `T-A1`.
    pub(super) id: &'static str,
    /// What is expected.
    pub(super) statement: String,
    /// `shown` where intervals say so, `unclear` where only the means do, `not shown`, or `no data`.
    pub(super) verdict: &'static str,
    /// The numbers.
    pub(super) figures: String,
}

/// Mean of `a − b`, paired, with its 95 % interval; none of fewer than two pairs.
pub(super) fn difference(a: &[f64], b: &[f64]) -> Option<Interval> {
    stats::paired_difference(a, b, stats::LEVEL_95).ok()
}

/// Mean with its 95 % interval; none of fewer than two values.
pub(super) fn interval(values: &[f64]) -> Option<Interval> {
    stats::mean_interval(values, stats::LEVEL_95).ok()
}

/// The interval for a reader.
pub(super) fn text(i: Option<Interval>) -> String {
    i.map_or_else(|| "–".to_owned(), |i| format!("{:.3} [{:.3}, {:.3}]", i.estimate, i.low, i.high))
}

/// From evidence that speaks for the statement where it is positive: all intervals above zero, or
/// all means, or neither. `None` is a figure that is missing; no evidence at all is none either.
pub(super) fn verdict(evidence: &[Option<Interval>]) -> &'static str {
    let Some(all) = evidence.iter().copied().collect::<Option<Vec<Interval>>>() else { return "no data" };
    if all.is_empty() {
        "no data"
    } else if all.iter().all(|i| i.low > 0.0) {
        "shown"
    } else if all.iter().all(|i| i.estimate > 0.0) {
        "unclear"
    } else {
        "not shown"
    }
}

/// `c − x`, the other way round, so that what should be small can be evidence.
pub(super) fn below(x: Option<Interval>, c: f64) -> Option<Interval> {
    x.map(|x| Interval { estimate: c - x.estimate, low: c - x.high, high: c - x.low })
}

/// `x − c`.
pub(super) fn above(x: Option<Interval>, c: f64) -> Option<Interval> {
    x.map(|x| Interval { estimate: x.estimate - c, low: x.low - c, high: x.high - c })
}

/// The table of a report.
pub(super) fn section(title: &str, caption: &str, trends: Vec<Trend>) -> Section {
    let mut section = Section::new(title);
    let mut table = Table::new(caption, ["", "expected", "found", "figures"]);
    for t in trends {
        // A name stays on one line.
        let id = t.id.replace('-', "\u{2011}");
        table.rows.push(vec![id.into(), t.statement.into(), t.verdict.into(), t.figures.into()]);
    }
    section.push(table);
    section
}

/// The line of a terminal.
pub(super) fn line(t: &Trend) -> String {
    format!("{}  {:<9}  {}: {}", t.id, t.verdict, t.statement, t.figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_read_from_its_intervals() {
        let i = |low, estimate, high| Some(Interval { estimate, low, high });
        assert_eq!(verdict(&[i(0.1, 0.2, 0.3), i(0.1, 1.0, 2.0)]), "shown");
        assert_eq!(verdict(&[i(0.1, 0.2, 0.3), i(-0.1, 1.0, 2.0)]), "unclear");
        assert_eq!(verdict(&[i(0.1, 0.2, 0.3), i(-0.3, -0.2, -0.1)]), "not shown");
        assert_eq!(verdict(&[i(0.1, 0.2, 0.3), None]), "no data");
        assert_eq!(verdict(&[]), "no data");
        // 1 to 3 about 2 is 2 below 4, between 1 and 3; and 1 above 1, between 0 and 2.
        assert_eq!(below(i(1.0, 2.0, 3.0), 4.0), i(1.0, 2.0, 3.0));
        assert_eq!(below(i(1.0, 1.5, 3.0), 4.0), i(1.0, 2.5, 3.0));
        assert_eq!(above(i(1.0, 1.5, 3.0), 1.0), i(0.0, 0.5, 2.0));
    }
}
