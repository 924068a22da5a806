//! From values to places on an axis, and from numbers to text.

/// Ticks aimed at on each axis.
const TICKS: f64 = 6.0;

/// The values that an axis must show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extent {
    low: f64,
    high: f64,
    /// Every value is a whole number, so ticks between them would mean nothing.
    whole: bool,
}

impl Extent {
    pub(super) fn empty() -> Self {
        Self { low: f64::INFINITY, high: f64::NEG_INFINITY, whole: true }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        self.whole &= value.fract().abs() <= 0.0;
    }

    pub(super) fn join(&mut self, other: Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.whole &= other.whole;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.low > self.high
    }
}

/// A linear axis over `low..=high` with ticks at round values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    /// Places of the ticks and what is written there.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis that shows `extent` with some room on both sides, so that no marker lies on the frame.
    pub(super) fn new(extent: Extent) -> Self {
        let (low, high) = (extent.low, extent.high);
        let size = low.abs().max(high.abs());
        // Values that differ by rounding only are one value; its axis has a tenth of it on either side.
        let margin = match high - low {
            span if span > 1e-9 * size => 0.04 * span,
            _ if size > 0.0 => 0.1 * size,
            _ => 1.0,
        };
        let (low, high) = (low - margin, high + margin);
        Self { low, high, ticks: ticks(low, high, extent.whole) }
    }

    /// Place of `value` as a share of the axis, 0 at its low end.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// Multiples of 1, 2 or 5 times a power of ten within the range.
fn ticks(low: f64, high: f64, whole: bool) -> Vec<(f64, String)> {
    let rough = (high - low) / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= rough).unwrap_or(10.0);
    let step = if whole { (times * power).max(1.0) } else { times * power };
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    let size = first.abs().max(last.abs()) * step;
    (0..=(last - first).max(0.0) as usize)
        .map(|i| (first + i as f64) * step)
        .map(|value| (value, tick_label(value, step, size)))
        .collect()
}

/// A tick with as many decimals as the step needs; powers of ten where the largest tick of the axis, `size`, is
/// very large or small.
fn tick_label(value: f64, step: f64, size: f64) -> String {
    // 0 times a step may be -0, and rounding may leave a trace of it.
    let value = if value.abs() < step / 2.0 { 0.0 } else { value };
    // The power of ten of the step, 2e-5 being -5; the small addend mends log10 just below a whole number.
    let power = |value: f64| (value.log10() + 1e-9).floor() as i32;
    if (1e-3..1e6).contains(&size) || size <= 0.0 {
        let places = (-power(step)).max(0).unsigned_abs() as usize;
        return minus(&format!("{value:.places$}"));
    }
    if value.abs() <= 0.0 {
        return "0".to_owned();
    }
    let places = (power(value.abs()) - power(step)).max(0).unsigned_abs() as usize;
    minus(&strip_exponent(&format!("{value:.places$e}")))
}

/// A number with four significant digits, whole numbers in full: `0.1235`, `12 345`, `1.5e-6`.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e9 && value.fract().abs() <= 0.0 {
        return minus(&group(&format!("{:.0}", value + 0.0)));
    }
    if !(1e-3..1e6).contains(&size) {
        return minus(&strip_exponent(&format!("{value:.3e}")));
    }
    let places = 3 - size.log10().floor() as i32;
    let text = format!("{value:.*}", places.max(0).unsigned_abs() as usize);
    minus(&if text.contains('.') { strip_zeros(&text).to_owned() } else { group(&text) })
}

/// An estimate and its interval to two significant digits of the interval's half: `0.620 [0.600, 0.640]`.
pub(super) fn estimate(estimate: f64, low: f64, high: f64) -> String {
    let half = (high - low) / 2.0;
    // An interval of no width asks for no number of places; the cast saturates.
    let places = 1_i32.saturating_sub((half.log10() + 1e-9).floor() as i32);
    let size = estimate.abs().max(low.abs()).max(high.abs());
    if !(0..=6).contains(&places) || size >= 1e6 {
        return format!("{} [{}, {}]", number(estimate), number(low), number(high));
    }
    let places = places.unsigned_abs() as usize;
    let text = |value: f64| {
        let text = format!("{value:.places$}");
        // -0.001 to two places is 0, not -0.
        minus(
            text.strip_prefix('-')
                .filter(|rest| rest.chars().all(|c| matches!(c, '0' | '.')))
                .unwrap_or(&text),
        )
    };
    format!("{} [{}, {}]", text(estimate), text(low), text(high))
}

/// Narrow no-break spaces between groups of three, from five digits on.
fn group(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    if digits.len() < 5 {
        return format!("{sign}{digits}");
    }
    let mut text = String::from(sign);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn strip_zeros(text: &str) -> &str {
    text.trim_end_matches('0').trim_end_matches('.')
}

/// `1.500e-6` as `1.5e-6`.
fn strip_exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((digits, exponent)) if digits.contains('.') => format!("{}e{exponent}", strip_zeros(digits)),
        _ => text.to_owned(),
    }
}

/// The minus sign is as wide as a digit; the hyphen is not.
fn minus(text: &str) -> String {
    text.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64]) -> Vec<String> {
        let mut extent = Extent::empty();
        values.iter().for_each(|&value| extent.add(value));
        Axis::new(extent).ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        assert_eq!(labels(&[0.0, 0.35, 1.0]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&[-0.5, 0.5]), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(labels(&[0.0, 2.0, 3.0]), ["0", "1", "2", "3"]); // whole: no halves
        assert_eq!(labels(&[1e-6, 2e-5]), ["5e−6", "1e−5", "1.5e−5", "2e−5"]);
        assert_eq!(labels(&[0.0, 2.5e6]), ["0", "5e5", "1e6", "1.5e6", "2e6", "2.5e6"]);
        assert_eq!(labels(&[100.0, 100.25]), ["100.00", "100.05", "100.10", "100.15", "100.20", "100.25"]);
    }

    #[test]
    fn one_value_has_an_axis_too() {
        for value in [0.0, 3.0, -2.5, 1e-8, -7e9, 0.1 + 0.2] {
            let mut extent = Extent::empty();
            extent.add(value);
            extent.add(value);
            let axis = Axis::new(extent);
            assert!((0.0..=1.0).contains(&axis.share(value)), "{value}: {axis:?}");
            assert!(axis.ticks.iter().all(|&(at, _)| (-1e-6..=1.000_001).contains(&axis.share(at))));
        }
    }

    #[test]
    fn numbers() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.123_456, "0.1235"),
            (-1.5, "−1.5"),
            (12_345.0, "12\u{202f}345"),
            (-1_234_567.0, "−1\u{202f}234\u{202f}567"),
            (1234.56, "1235"),
            (12_345.6, "12\u{202f}346"),
            (1.5e-6, "1.5e−6"),
            (2.0, "2"),
            (99.999, "100"),
        ] {
            assert_eq!(number(value), expected);
        }
        assert_eq!(estimate(0.6202, 0.6003, 0.6398), "0.620 [0.600, 0.640]"); // half 0.020
        assert_eq!(estimate(2.0, 1.79, 2.213), "2.00 [1.79, 2.21]"); // half 0.21
        assert_eq!(estimate(-0.001, -0.3, 0.25), "0.00 [−0.30, 0.25]");
        assert_eq!(estimate(0.5, 0.5, 0.5), "0.5 [0.5, 0.5]");
        assert_eq!(estimate(2e-6, 1e-6, 3e-6), "2e−6 [1e−6, 3e−6]");
        assert_eq!(estimate(5000.0, 4000.0, 6000.0), "5000 [4000, 6000]");
    }
}
