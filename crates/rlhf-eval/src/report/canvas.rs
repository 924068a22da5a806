//! A thin layer over the drawing library: pixels in, SVG text out.

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width of every drawing in pixels of its own; the page scales it down. Twice what is seen, because the drawing
/// library rounds to whole pixels.
pub(super) const WIDTH: i32 = 1280;
/// Height of ordinary text.
pub(super) const TEXT: f64 = 28.0;
/// The ink of text and axes.
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Lines that guide the eye.
pub(super) const GUIDE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// Okabe and Ito's colours, which people with any colour vision tell apart, without the yellow, which vanishes on
/// white.
pub(super) const PALETTE: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x00, 0x00),
];

/// A place in pixels from the top left.
pub(super) type Pixel = (i32, i32);

type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// How the lines and markers of the `i`-th series look: colour and shape change together, and a second round of
/// the colours is dashed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) colour: RGBColor,
    shape: usize,
    dashed: Dash,
}

#[derive(Debug, Clone, Copy)]
enum Dash {
    Solid,
    Dashed,
}

impl Look {
    pub(super) fn of(i: usize) -> Self {
        let dashed = if (i / PALETTE.len()).is_multiple_of(2) { Dash::Solid } else { Dash::Dashed };
        Self { colour: PALETTE[i % PALETTE.len()], shape: i % 5, dashed }
    }
}

/// Where text stands relative to its place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    /// To the right of it.
    Start,
    /// Around it.
    Middle,
    /// To the left of it.
    End,
}

pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// Draws on a canvas of [`WIDTH`] and `height`; the result is an `<svg>` element.
pub(super) fn svg(height: i32, draw: impl FnOnce(&Canvas<'_>) -> Drawn) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH.unsigned_abs(), height.unsigned_abs()))
            .into_drawing_area();
        let canvas = Canvas { area };
        draw(&canvas).map_err(|error| error.to_string())?;
        canvas.area.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}

impl Canvas<'_> {
    pub(super) fn line(&self, points: &[Pixel], colour: RGBColor, width: u32) -> Drawn {
        Ok(self.area.draw(&PathElement::new(points.to_vec(), colour.stroke_width(width)))?)
    }

    /// The line of a series. Neighbours that fall on one pixel are drawn once.
    pub(super) fn series_line(&self, points: &[Pixel], look: Look) -> Drawn {
        let mut points = points.to_vec();
        points.dedup();
        match look.dashed {
            Dash::Solid => self.line(&points, look.colour, 4),
            Dash::Dashed => {
                let style = look.colour.stroke_width(4);
                Ok(self.area.draw(&DashedPathElement::new(points, 14, 10, style))?)
            }
        }
    }

    pub(super) fn filled(&self, corners: Vec<Pixel>, colour: impl Color) -> Drawn {
        Ok(self.area.draw(&Polygon::new(corners, colour.filled()))?)
    }

    pub(super) fn rectangle(&self, corners: [Pixel; 2], colour: RGBColor) -> Drawn {
        Ok(self.area.draw(&Rectangle::new(corners, colour.filled()))?)
    }

    pub(super) fn marker(&self, (x, y): Pixel, look: Look) -> Drawn {
        let at = |offsets: &[Pixel]| offsets.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        let corners = match look.shape {
            0 => return Ok(self.area.draw(&Circle::new((x, y), 9, look.colour.filled()))?),
            1 => at(&[(-8, -8), (8, -8), (8, 8), (-8, 8)]),
            2 => at(&[(0, -11), (10, 8), (-10, 8)]),
            3 => at(&[(0, -12), (12, 0), (0, 12), (-12, 0)]),
            _ => at(&[(0, 11), (10, -8), (-10, -8)]),
        };
        self.filled(corners, look.colour)
    }

    /// An error bar between two places one above the other or side by side.
    pub(super) fn error_bar(&self, from: Pixel, to: Pixel, colour: RGBColor) -> Drawn {
        self.line(&[from, to], colour, 3)?;
        let cap = if from.0 == to.0 { (8, 0) } else { (0, 8) };
        for (x, y) in [from, to] {
            self.line(&[(x - cap.0, y - cap.1), (x + cap.0, y + cap.1)], colour, 3)?;
        }
        Ok(())
    }

    /// Text of [`TEXT`] height, vertically centred at its place; made smaller where it would be wider than `room`.
    pub(super) fn text(&self, text: &str, at: Pixel, anchor: Anchor, room: i32) -> Drawn {
        let fit = (f64::from(room) / text_width(text)).min(1.0);
        let side = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        // The drawing library divides by 1.24 what it writes as the font size.
        let style =
            TextStyle::from(("sans-serif", TEXT * fit * 1.24)).color(&INK).pos(Pos::new(side, VPos::Center));
        Ok(self.area.draw(&Text::new(text.to_owned(), at, style))?)
    }
}

/// Estimated width of text of [`TEXT`] height: system fonts differ, so this is on the safe side.
pub(super) fn text_width(text: &str) -> f64 {
    let em: f64 = text.chars().map(|c| if u32::from(c) < 0x2e80 { 0.56 } else { 1.0 }).sum();
    em * TEXT
}
