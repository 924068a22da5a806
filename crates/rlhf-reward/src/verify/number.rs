//! Numbers in text, and which of them is the answer.
//!
//! ```text
//! number   = sign? money? digits group* decimals? exponent? | number "/" number | \frac{number}{number}
//! digits   = "72"      group = ",000"      decimals = ".5"      exponent = "e-3" | "× 10^{-3}" | "\times 10^-3"
//! ```
//!
//! A comma belongs to a number only where three digits follow it, as in `1,234`; a minus only where no
//! word, number or bracket ends before it, so that `20-25` are two numbers and `x = -3` is one. `$`, `£` and `€` before
//! and units or `%` behind are not read: GSM8K's key to "how many percent" is `25`. `1 1/2` is 1.5.
//!
//! Source of the forms: GSM8K's answers end in `#### 72` (Cobbe et al. 2021, arXiv:2110.14168; its model
//! samples end in `A: 72`), MATH's stand in `\boxed{…}` (Hendrycks et al. 2021, arXiv:2103.03874), and the
//! last number is what evaluations fall back on.

use serde::{Deserialize, Serialize};

/// Equal but for the rounding of the arithmetic.
const ROUNDING: f64 = 1e-9;

/// Places of a number that nothing rounded.
const ALL_PLACES: u32 = 17;

/// A number that a text states.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Number {
    value: f64,
    places: u32,
}

/// How far a number may be from a known answer. A whole answer must be met exactly, up to 1e-9 of it, under
/// each of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// 1e-9 of the answer.
    Exact,
    /// Half a unit of the last place that the answer states: `0.33` is met by 0.3333.
    Stated,
    /// This share of the answer.
    Relative(f64),
}

/// How a text gives its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extract {
    /// The first number behind the last mark, on its line. Marks are `####`, `answer:`, `answer is` and, where a
    /// line begins, `A:`; in any case.
    Marked,
    /// The last number in the last `\boxed{…}`.
    Boxed,
    /// The last number.
    Last,
    /// Marked, else boxed, else the last number.
    Any,
}

impl Number {
    /// A number as it is: nothing was rounded to state it.
    pub fn exact(value: f64) -> Self {
        Self { value, places: ALL_PLACES }
    }

    /// Reads a text that is one number and nothing else but white space, a unit of money, a unit or `%`.
    ///
    /// ```
    /// use rlhf_reward::verify::Number;
    /// let value = |text| Number::parse(text).map(|n| n.value());
    /// assert_eq!(value("-$1,234.50"), Some(-1234.5));
    /// assert_eq!(value("3/4 cup"), Some(0.75));
    /// assert_eq!(value("1.5e-3"), Some(0.0015));
    /// assert_eq!(value("7 or 8"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let found = numbers(text);
        let [one] = found.as_slice() else { return None };
        text[..one.start].trim().is_empty().then_some(one.number)
    }

    /// The value.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Whether `found` meets this answer.
    ///
    /// ```
    /// use rlhf_reward::verify::{Number, Tolerance};
    /// let answer = Number::parse("0.33").unwrap();
    /// let third = Number::exact(1.0 / 3.0);
    /// assert!(answer.equals(&third, Tolerance::Stated));
    /// assert!(!answer.equals(&third, Tolerance::Exact));
    /// ```
    pub fn equals(&self, found: &Self, tolerance: Tolerance) -> bool {
        let size = self.value.abs().max(1.0);
        let exact = ROUNDING * size;
        let allowed = match tolerance {
            _ if self.value.fract().abs() < exact => exact,
            Tolerance::Exact => exact,
            // The half itself is rounded, too.
            Tolerance::Stated => (0.5 * 10f64.powi(-i32::try_from(self.places).unwrap_or(0))) + exact,
            Tolerance::Relative(share) => exact.max(share * self.value.abs()),
        };
        (self.value - found.value).abs() <= allowed
    }
}

/// The answer in `text`, if there is one of the form.
///
/// ```
/// use rlhf_reward::verify::{Extract, extract};
/// let value = |text, how| extract(text, how).map(|n| n.value());
/// assert_eq!(value("48 / 2 = <<48/2=24>>24\n#### 72", Extract::Marked), Some(72.0));
/// assert_eq!(value(r"so \boxed{\frac{3}{4}}, not 2", Extract::Any), Some(0.75));
/// assert_eq!(value("first 3, then 4 apples.", Extract::Any), Some(4.0));
/// assert_eq!(value("first 3, then 4 apples.", Extract::Marked), None);
/// ```
pub fn extract(text: &str, how: Extract) -> Option<Number> {
    match how {
        Extract::Marked => marked(text),
        Extract::Boxed => numbers(boxed(text)?).last().map(|found| found.number),
        Extract::Last => numbers(text).last().map(|found| found.number),
        Extract::Any => {
            [Extract::Marked, Extract::Boxed, Extract::Last].iter().find_map(|h| extract(text, *h))
        }
    }
}

fn marked(text: &str) -> Option<Number> {
    // ASCII alone changes, so places stay the same.
    let lower = text.to_ascii_lowercase();
    let anywhere = ["####", "answer:", "answer is"];
    let ends = anywhere.iter().filter_map(|mark| lower.rfind(mark).map(|at| at + mark.len()));
    let line = lower.rfind("\na:").map(|at| at + 3).or_else(|| lower.starts_with("a:").then_some(2));
    let rest = &text[ends.chain(line).max()?..];
    let line = rest.trim_start_matches([' ', '\t']).lines().next()?;
    numbers(line).first().map(|found| found.number)
}

/// What stands in the last `\boxed{…}`, brackets matched.
fn boxed(text: &str) -> Option<&str> {
    const MARK: &str = "\\boxed{";
    let inside = &text[text.rfind(MARK)? + MARK.len()..];
    let mut depth = 1usize;
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&inside[..at]);
        }
    }
    None
}

/// A number and the bytes it takes up.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    number: Number,
    start: usize,
    end: usize,
}

/// All numbers in a text, in order.
fn numbers(text: &str) -> Vec<Found> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::<Found>::new(), 0);
    while at < bytes.len() {
        match fraction(text, at).or_else(|| ratio(text, at)) {
            Some(number) => {
                at = number.end;
                found.push(number);
            }
            None => at += 1,
        }
    }
    mixed(text, &found)
}

/// `1 1/2`: a whole number, one space, a fraction below one.
fn mixed(text: &str, found: &[Found]) -> Vec<Found> {
    let mut out: Vec<Found> = Vec::with_capacity(found.len());
    for next in found {
        let part =
            text[next.start..next.end].contains(['/', '\\']) && (0.0..1.0).contains(&next.number.value);
        if let Some(last) = out.last_mut()
            && part
            && &text[last.end..next.start] == " "
            && text[last.start..last.end].bytes().all(|b| b.is_ascii_digit())
        {
            last.number = Number::exact(last.number.value + next.number.value);
            last.end = next.end;
        } else {
            out.push(*next);
        }
    }
    out
}

/// `\frac{a}{b}` at `at`, `\dfrac` and `\tfrac` too.
fn fraction(text: &str, at: usize) -> Option<Found> {
    let bytes = text.as_bytes();
    let minus = bytes[at] == b'-' && may_be_signed(text, at);
    let start = at + usize::from(minus);
    let rest = text.as_bytes().get(start..)?;
    let mark = [&b"\\frac{"[..], b"\\dfrac{", b"\\tfrac{"].into_iter().find(|mark| rest.starts_with(mark))?;
    let above = signed(text, start + mark.len())?;
    let middle = above.end;
    if !bytes[middle..].starts_with(b"}{") {
        return None;
    }
    let below = signed(text, middle + 2)?;
    let value = above.number.value / below.number.value;
    if bytes.get(below.end) != Some(&b'}') || !value.is_finite() {
        return None;
    }
    let value = if minus { -value } else { value };
    Some(Found { number: Number::exact(value), start: at, end: below.end + 1 })
}

/// A number at `at`, or two with a stroke between.
fn ratio(text: &str, at: usize) -> Option<Found> {
    let above = signed(text, at)?;
    if text.as_bytes().get(above.end) == Some(&b'/')
        && let Some(below) = plain(text, above.end + 1)
        && below.number.value != 0.0
        // A date, or a longer quotient, is no fraction.
        && text.as_bytes().get(below.end) != Some(&b'/')
    {
        let number = Number::exact(above.number.value / below.number.value);
        return Some(Found { number, start: at, end: below.end });
    }
    Some(above)
}

/// Whether a minus at `at` is a sign: nothing that could be subtracted from ends before it.
fn may_be_signed(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back();
    before.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, ')' | ']' | '}' | '%' | '-')))
}

/// A number with its sign and unit of money, which may stand in either order.
fn signed(text: &str, at: usize) -> Option<Found> {
    let mut rest = text.get(at..)?;
    let mut minus = false;
    for _ in 0..3 {
        let c = rest.chars().next()?;
        let here = text.len() - rest.len();
        match c {
            '-' | '−' if !minus && may_be_signed(text, here) => minus = true,
            '$' | '£' | '€' => {}
            // LaTeX's `\$`.
            '\\' if rest.starts_with("\\$") => {}
            _ => break,
        }
        rest = &rest[c.len_utf8()..];
    }
    let start = text.len() - rest.len();
    // Digits inside a word or a number that was passed over are none.
    let in_word =
        start == at && text[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    if in_word {
        return None;
    }
    let mut found = plain(text, start)?;
    if minus {
        found.number.value = -found.number.value;
    }
    Some(Found { start: at, ..found })
}

/// Digits with groups, decimals and exponent.
fn plain(text: &str, at: usize) -> Option<Found> {
    let bytes = text.as_bytes();
    let digits =
        |from: usize| bytes[from.min(bytes.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
    let first = digits(at);
    let mut end = at + first;
    if (1..=3).contains(&first) {
        while bytes.get(end) == Some(&b',') && digits(end + 1) == 3 {
            end += 4;
        }
    }
    let mut places = 0;
    if bytes.get(end) == Some(&b'.') {
        places = digits(end + 1);
        end += if places > 0 { 1 + places } else { 0 };
    }
    if first == 0 && places == 0 {
        return None;
    }
    let mantissa: String = text[at..end].chars().filter(|c| *c != ',').collect();
    let (exponent, end) = exponent(text, end).unwrap_or((0, end));
    let value: f64 = format!("{mantissa}e{exponent}").parse().ok().filter(|v: &f64| v.is_finite())?;
    let places = u32::try_from((places as i64 - i64::from(exponent)).max(0)).unwrap_or(0);
    Some(Found { number: Number { value, places }, start: at, end })
}

/// A power of ten at `at`, and where it ends.
fn exponent(text: &str, at: usize) -> Option<(i32, usize)> {
    let rest = &text[at..];
    let close = |tail: &str, closed: bool| {
        let n = tail.bytes().skip(1).take_while(u8::is_ascii_digit).count() + 1;
        let power: i32 = tail.get(..n)?.parse().ok()?;
        let after = &tail[n..];
        let after = if closed { after.strip_prefix('}')? } else { after };
        let ends = !after.starts_with(|c: char| c.is_alphanumeric());
        ends.then_some((power, text.len() - after.len()))
    };
    if let Some(tail) = rest.strip_prefix(['e', 'E']) {
        return close(tail, false);
    }
    let tail = rest.trim_start_matches(' ');
    let tail = ["×", "\\times", "\\cdot", "x", "*"].iter().find_map(|sign| tail.strip_prefix(sign))?;
    let tail = tail.trim_start_matches(' ').strip_prefix("10^")?;
    match tail.strip_prefix('{') {
        Some(tail) => close(tail, true),
        None => close(tail, false),
    }
}
