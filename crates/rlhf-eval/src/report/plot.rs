//! Plots and bars as SVG.

use std::collections::BTreeMap;

use plotters::style::Color;

use super::canvas::{Anchor, Canvas, GUIDE, INK, Look, PALETTE, Pixel, TEXT, WIDTH, svg, text_width};
use super::scale::{Axis, Extent, estimate, number};
use super::{Bars, Block, Plot, Point, Report, Series, Style};
use crate::error::ReportError;

type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Height of the area that holds the data.
const AREA: i32 = 640;
/// Height of a line of the legend and of a bar's row.
const ROW: i32 = 52;
/// Blank space at the edges.
const EDGE: i32 = 24;

/// Extents of the axes of all plots of equal title and axis names.
#[derive(Debug, Default)]
pub(super) struct Scales(BTreeMap<[String; 3], [Extent; 2]>);

impl Scales {
    pub(super) fn of(reports: &[Report]) -> Self {
        let mut scales = Self::default();
        let blocks = reports.iter().flat_map(|report| &report.sections).flat_map(|section| &section.blocks);
        for block in blocks {
            match block {
                Block::Plot(plot) => scales.join(plot_key(plot), plot_extents(plot)),
                Block::Bars(bars) => scales.join(bars_key(bars), bars_extents(bars)),
                _ => {}
            }
        }
        scales
    }

    fn join(&mut self, key: [String; 3], found: [Extent; 2]) {
        let extents = self.0.entry(key).or_insert([Extent::empty(); 2]);
        extents[0].join(found[0]);
        extents[1].join(found[1]);
    }

    fn axes(&self, key: &[String; 3]) -> Option<[Axis; 2]> {
        let [x, y] = self.0.get(key)?;
        (!x.is_empty()).then(|| [Axis::new(*x), Axis::new(*y)])
    }
}

/// The plot as `<svg>`; nothing where no plot of this name has a point.
pub(super) fn plot_svg(plot: &Plot, scales: &Scales) -> Result<Option<String>, ReportError> {
    let Some([x, y]) = scales.axes(&plot_key(plot)) else {
        return Ok(None);
    };
    let legend = Legend::new(&plot.series);
    let top = EDGE / 2 + legend.height() + ROW;
    let widest = y.ticks.iter().map(|(_, label)| text_width(label)).fold(0.0, f64::max);
    let frame = Frame {
        left: EDGE / 2 + widest as i32 + 20,
        right: WIDTH - EDGE - 20,
        top,
        bottom: top + AREA,
        x,
        y,
    };
    svg(frame.bottom + 2 * ROW, |canvas| {
        legend.draw(canvas)?;
        let room = WIDTH - 2 * EDGE;
        canvas.text(&plot.y_name, (EDGE / 2, top - ROW / 2 - 4), Anchor::Start, room)?;
        frame.draw(canvas)?;
        let middle = i32::midpoint(frame.left, frame.right);
        let half = (middle - EDGE).min(WIDTH - EDGE - middle);
        canvas.text(&plot.x_name, (middle, frame.bottom + ROW + 22), Anchor::Middle, 2 * half)?;
        plot.series.iter().enumerate().try_for_each(|(i, series)| frame.series(canvas, series, Look::of(i)))
    })
    .map(Some)
    .map_err(|reason| ReportError::Draw { plot: plot.title.clone(), reason })
}

/// The bars as `<svg>`; nothing where there are none.
pub(super) fn bars_svg(bars: &Bars, scales: &Scales) -> Result<Option<String>, ReportError> {
    let Some([x, _]) = scales.axes(&bars_key(bars)) else {
        return Ok(None);
    };
    let figures: Vec<String> = bars
        .bars
        .iter()
        .map(|bar| bar.range.map_or(number(bar.value), |r| estimate(bar.value, r.low, r.high)))
        .collect();
    let widest = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|text| text_width(text)).fold(0.0, f64::max).min(f64::from(WIDTH) * 0.35) as i32
    };
    let names = widest(&mut bars.bars.iter().map(|bar| &bar.name));
    let values = widest(&mut figures.iter());
    let rows = i32::try_from(bars.bars.len()).unwrap_or(i32::MAX / ROW - 8);
    let frame = Frame {
        left: EDGE / 2 + names + 20,
        right: WIDTH - EDGE - values - 20,
        top: EDGE / 2,
        bottom: EDGE / 2 + rows * ROW,
        x,
        y: Axis::new(Extent::empty()),
    };
    svg(frame.bottom + 2 * ROW, |canvas| {
        frame.vertical_guides(canvas)?;
        for ((i, bar), figure) in (0..rows).zip(&bars.bars).zip(&figures) {
            let middle = frame.top + i * ROW + ROW / 2;
            let (zero, end) = (frame.pixel_x(0.0), frame.pixel_x(bar.value));
            canvas.text(&bar.name, (frame.left - 16, middle), Anchor::End, names)?;
            canvas.rectangle([(zero.min(end), middle - 16), (zero.max(end), middle + 16)], PALETTE[5])?;
            if let Some(range) = bar.range {
                let ends = (frame.pixel_x(range.low), frame.pixel_x(range.high));
                canvas.error_bar((ends.0, middle), (ends.1, middle), INK)?;
            }
            canvas.text(figure, (frame.right + 20, middle), Anchor::Start, values)?;
        }
        let zero = frame.pixel_x(0.0);
        canvas.line(&[(zero, frame.top), (zero, frame.bottom)], INK, 2)?;
        let middle = i32::midpoint(frame.left, frame.right);
        let half = (middle - EDGE).min(WIDTH - EDGE - middle);
        canvas.text(&bars.value_name, (middle, frame.bottom + ROW + 22), Anchor::Middle, 2 * half)
    })
    .map(Some)
    .map_err(|reason| ReportError::Draw { plot: bars.title.clone(), reason })
}

fn plot_key(plot: &Plot) -> [String; 3] {
    [plot.title.clone(), plot.x_name.clone(), plot.y_name.clone()]
}

fn bars_key(bars: &Bars) -> [String; 3] {
    // No plot has an axis without a name, so this meets no plot's key.
    [bars.title.clone(), bars.value_name.clone(), String::new()]
}

fn plot_extents(plot: &Plot) -> [Extent; 2] {
    let [mut x, mut y] = [Extent::empty(); 2];
    for point in plot.series.iter().flat_map(|series| &series.points) {
        x.add(point.x);
        y.add(point.y);
        if let Some(range) = point.range {
            y.add(range.low);
            y.add(range.high);
        }
    }
    [x, y]
}

fn bars_extents(bars: &Bars) -> [Extent; 2] {
    let mut x = Extent::empty();
    for bar in &bars.bars {
        x.add(0.0);
        x.add(bar.value);
        if let Some(range) = bar.range {
            x.add(range.low);
            x.add(range.high);
        }
    }
    [x, Extent::empty()]
}

/// The area of the data in pixels, and its axes.
struct Frame {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
    x: Axis,
    y: Axis,
}

impl Frame {
    fn pixel_x(&self, value: f64) -> i32 {
        (f64::from(self.left) + self.x.share(value) * f64::from(self.right - self.left)).round() as i32
    }

    fn pixel_y(&self, value: f64) -> i32 {
        (f64::from(self.bottom) - self.y.share(value) * f64::from(self.bottom - self.top)).round() as i32
    }

    fn pixel(&self, point: &Point) -> Pixel {
        (self.pixel_x(point.x), self.pixel_y(point.y))
    }

    fn draw(&self, canvas: &Canvas<'_>) -> Drawn {
        for (value, label) in &self.y.ticks {
            let y = self.pixel_y(*value);
            canvas.line(&[(self.left, y), (self.right, y)], GUIDE, 2)?;
            canvas.text(label, (self.left - 12, y), Anchor::End, WIDTH)?;
        }
        self.vertical_guides(canvas)?;
        canvas.line(&[(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)], INK, 2)
    }

    fn vertical_guides(&self, canvas: &Canvas<'_>) -> Drawn {
        for (value, label) in &self.x.ticks {
            let x = self.pixel_x(*value);
            canvas.line(&[(x, self.top), (x, self.bottom)], GUIDE, 2)?;
            canvas.text(label, (x, self.bottom + 28), Anchor::Middle, WIDTH)?;
        }
        Ok(())
    }

    fn series(&self, canvas: &Canvas<'_>, series: &Series, look: Look) -> Drawn {
        let places: Vec<Pixel> = series.points.iter().map(|point| self.pixel(point)).collect();
        match series.style {
            Style::Line => self.bands(canvas, &series.points, look)?,
            Style::LineAndPoints | Style::Points => {
                for point in &series.points {
                    let Some(range) = point.range else { continue };
                    let x = self.pixel_x(point.x);
                    let ends = ((x, self.pixel_y(range.low)), (x, self.pixel_y(range.high)));
                    canvas.error_bar(ends.0, ends.1, look.colour)?;
                }
            }
        }
        if series.style != Style::Points {
            canvas.series_line(&places, look)?;
        }
        if series.style != Style::Line || places.len() == 1 {
            places.iter().try_for_each(|&place| canvas.marker(place, look))?;
        }
        Ok(())
    }

    /// One band for each run of points that have intervals.
    fn bands(&self, canvas: &Canvas<'_>, points: &[Point], look: Look) -> Drawn {
        for run in points.split(|point| point.range.is_none()) {
            let end = |point: &Point, value: f64| (self.pixel_x(point.x), self.pixel_y(value));
            let ranges = || run.iter().filter_map(|point| point.range.map(|range| (point, range)));
            let mut corners: Vec<Pixel> = ranges().map(|(point, range)| end(point, range.high)).collect();
            let lower: Vec<Pixel> = ranges().map(|(point, range)| end(point, range.low)).collect();
            corners.extend(lower.into_iter().rev());
            if run.len() > 1 {
                canvas.filled(corners, look.colour.mix(0.2))?;
            } else if let [high, low] = corners[..] {
                canvas.error_bar(low, high, look.colour)?;
            }
        }
        Ok(())
    }
}

/// Names of the series in lines above the plot.
struct Legend<'a> {
    /// Place and series of each entry; places count from the left and in lines from the top.
    entries: Vec<(Pixel, usize, &'a Series)>,
    lines: i32,
}

impl<'a> Legend<'a> {
    fn new(series: &'a [Series]) -> Self {
        let mut legend = Self { entries: Vec::new(), lines: 0 };
        let mut x = 0;
        for (i, series) in series.iter().enumerate().filter(|(_, series)| !series.name.is_empty()) {
            let width = 70 + text_width(&series.name) as i32 + 36;
            if legend.lines == 0 || x + width > WIDTH - EDGE {
                x = EDGE / 2;
                legend.lines += 1;
            }
            legend.entries.push(((x, legend.lines - 1), i, series));
            x += width;
        }
        legend
    }

    fn height(&self) -> i32 {
        if self.lines > 0 { self.lines * (TEXT as i32 + 14) + 8 } else { 0 }
    }

    fn draw(&self, canvas: &Canvas<'_>) -> Drawn {
        for &((x, line), i, series) in &self.entries {
            let y = EDGE / 2 + line * (TEXT as i32 + 14) + 16;
            let look = Look::of(i);
            if series.style != Style::Points {
                canvas.series_line(&[(x, y), (x + 56, y)], look)?;
            }
            if series.style != Style::Line {
                canvas.marker((x + 28, y), look)?;
            }
            canvas.text(&series.name, (x + 70, y), Anchor::Start, WIDTH - x - 70 - EDGE)?;
        }
        Ok(())
    }
}
