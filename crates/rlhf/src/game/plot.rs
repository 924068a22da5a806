//! Duality gaps against steps.

use rlhf_eval::report::{Plot, Point, Series, Style, svg};
use serde_json::Value;

use crate::error::Error;

/// Gaps below are rounding: not one of their digits means anything.
const LEAST: f64 = 1e-16;

/// Draws the regularised duality gap of each step of what [`run`](super::run) gave, on a logarithmic
/// scale, as an SVG image. Steps from the first gap that is 0 but for rounding are left out.
///
/// # Errors
/// [`Error::Failed`] when no step has a gap above 0, as after `solve`.
pub fn plot(games: &Value) -> Result<String, Error> {
    let runs = games["runs"].as_array().map_or_else(|| std::slice::from_ref(games), Vec::as_slice);
    let mut plot = Plot::new("Self-play", "step", "duality gap in the regularised game, log₁₀");
    for run in runs {
        let name = run["name"].as_str().or_else(|| run["algorithm"].as_str()).unwrap_or_default();
        plot = plot.with(Series::new(name, Style::Line, points(run)));
    }
    let image = svg(&plot).map_err(|e| Error::Failed(format!("plot: {e}")))?;
    let image = image
        .ok_or_else(|| Error::Failed("plot: expected a trajectory with gaps above 0, found none".into()))?;
    // The page behind may be dark, the ink is.
    Ok(match image.split_once('>') {
        Some((head, rest)) => format!("{head}>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>{rest}"),
        None => image,
    })
}

fn points(run: &Value) -> Vec<Point> {
    let records = run["trajectory"].as_array().map_or(&[][..], Vec::as_slice);
    let one = |record: &Value| Some([record["step"].as_f64()?, record["regularized_gap"].as_f64()?]);
    let above = |[_, gap]: &[f64; 2]| *gap >= LEAST;
    records
        .iter()
        .filter_map(one)
        .take_while(above)
        .map(|[step, gap]| Point::new(step, gap.log10()))
        .collect()
}
