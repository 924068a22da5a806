//! Progress on standard error: a bar with rate and time left on a terminal, a plain line now and then
//! elsewhere. Standard output carries data only and is never written to.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Fewest seconds between two plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

const TEMPLATE: &str = "{prefix}  {msg} {pos}/{len} {wide_bar} {per_sec}  {eta} left";

/// The progress of a pipeline, one phase after another.
#[derive(Debug)]
pub struct Progress {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Hidden,
    Bar(Option<ProgressBar>),
    Lines(Lines),
}

impl Progress {
    /// A bar where standard error is a terminal, plain lines elsewhere.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { form: if terminal { Form::Bar(None) } else { Form::Lines(Lines::default()) } }
    }

    /// Shows nothing; for libraries and tests.
    pub fn hidden() -> Self {
        Self { form: Form::Hidden }
    }

    /// Begins a phase, as in `superhf β=0.35 seed 2`, of `total` units, as in `round`. The phase before ends.
    pub fn begin(&mut self, label: &str, unit: &str, total: u64) {
        match &mut self.form {
            Form::Hidden => {}
            Form::Bar(bar) => {
                if let Some(old) = bar.take() {
                    old.finish_and_clear();
                }
                let new = ProgressBar::new(total);
                // A template that indicatif refuses would cost the looks, not the run.
                if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                    new.set_style(style);
                }
                new.set_prefix(label.to_owned());
                new.set_message(unit.to_owned());
                *bar = Some(new);
            }
            Form::Lines(lines) => lines.begin(label, unit, total, Instant::now()),
        }
    }

    /// Counts `n` units that an earlier process did: they move the bar and not the rate.
    pub fn skip(&mut self, n: u64) {
        match &mut self.form {
            Form::Hidden => {}
            Form::Bar(bar) => {
                if let Some(bar) = bar {
                    bar.set_position(bar.position() + n);
                    bar.reset_eta();
                }
            }
            Form::Lines(lines) => lines.skipped += n,
        }
    }

    /// Counts `n` units that are done now.
    pub fn advance(&mut self, n: u64) {
        match &mut self.form {
            Form::Hidden => {}
            Form::Bar(bar) => {
                if let Some(bar) = bar {
                    bar.inc(n);
                }
            }
            Form::Lines(lines) => {
                if let Some(line) = lines.advance(n, Instant::now()) {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// Writes a line that stays, without tearing the bar.
    pub fn say(&self, line: &str) {
        match &self.form {
            Form::Hidden => {}
            Form::Bar(Some(bar)) => bar.suspend(|| eprintln!("{line}")),
            Form::Bar(None) | Form::Lines(_) => eprintln!("{line}"),
        }
    }

    /// Ends the last phase and removes its bar.
    pub fn finish(&mut self) {
        if let Form::Bar(bar) = &mut self.form
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    /// An error message that follows must not stand behind half a bar.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Plain lines: when, and what they say. The clock is an argument, so that this can be tested.
#[derive(Debug, Default)]
struct Lines {
    label: String,
    unit: String,
    total: u64,
    skipped: u64,
    done: u64,
    began: Option<Instant>,
    last_line: Option<Instant>,
}

impl Lines {
    fn begin(&mut self, label: &str, unit: &str, total: u64, now: Instant) {
        let (label, unit, last_line) = (label.to_owned(), unit.to_owned(), self.last_line);
        *self = Self { label, unit, total, skipped: 0, done: 0, began: Some(now), last_line };
    }

    fn advance(&mut self, n: u64, now: Instant) -> Option<String> {
        self.done += n;
        if self.last_line.is_some_and(|last| now - last < BETWEEN_LINES) {
            return None;
        }
        self.last_line = Some(now);
        Some(self.line(now))
    }

    fn line(&self, now: Instant) -> String {
        let Self { label, unit, total, skipped, done, .. } = self;
        let position = skipped + done;
        let seconds = self.began.map_or(0.0, |began| (now - began).as_secs_f64());
        let mut line = format!("{label}  {unit} {position}/{total}");
        // A rate from less than a second would be noise.
        if *done > 0 && seconds >= 1.0 {
            let rate = *done as f64 / seconds;
            let left = total.saturating_sub(position) as f64 / rate;
            line += &format!("  {rate:.2}/s  {} left", clock(left));
        }
        line
    }
}

/// Seconds as `h:mm:ss`, rounded up: it is not over before it is over.
fn clock(seconds: f64) -> String {
    let s = seconds.ceil() as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_rare_and_say_rate_and_time_left() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut lines = Lines::default();
        lines.begin("superhf β=0.35 seed 2", "round", 48, start);
        lines.skipped = 8;
        // 4 rounds in 2 s are 2 a second; 48 − 12 = 36 rounds left take 18 s. The 8 skipped took no time.
        let line = lines.advance(4, at(2)).unwrap();
        assert_eq!(line, "superhf β=0.35 seed 2  round 12/48  2.00/s  0:00:18 left");
        assert_eq!(lines.advance(4, at(11)), None);
        // 16 rounds in 12 s: 48 − 24 = 24 rounds left take 18 s.
        let line = lines.advance(8, at(12)).unwrap();
        assert_eq!(line, "superhf β=0.35 seed 2  round 24/48  1.33/s  0:00:18 left");
        // A new phase waits for its turn like any other line.
        lines.begin("report", "plot", 2, at(13));
        assert_eq!(lines.advance(1, at(14)), None);
        assert_eq!(lines.advance(1, at(22)).unwrap(), "report  plot 2/2  0.22/s  0:00:00 left");
    }

    #[test]
    fn no_rate_from_less_than_a_second() {
        let start = Instant::now();
        let mut lines = Lines::default();
        lines.begin("sft", "step", 3, start);
        let line = lines.advance(1, start + Duration::from_millis(999)).unwrap();
        assert_eq!(line, "sft  step 1/3");
    }

    #[test]
    fn clock_rounds_up() {
        assert_eq!(clock(3_600.0 * 25.0 + 61.2), "25:01:02");
    }

    #[test]
    fn the_template_is_one() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn hidden_takes_every_call() {
        let mut progress = Progress::hidden();
        progress.begin("a", "b", 1);
        progress.skip(1);
        progress.advance(1);
        progress.say("never seen");
        progress.finish();
    }
}
