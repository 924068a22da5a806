//! The report's section on rollouts of a part of the blocks: what drew them, how fast, and what became of it.

use rlhf_eval::report::{Cell as Field, Plot, Point, Section, Series, Style, Table};

use super::speed::Speed;
use super::summary::Measured;
use super::times::Times;
use crate::pipeline::page::{field, point};

/// Columns of the table of rollouts.
const ROLLOUTS: [(&str, &str); 10] = [
    ("share of blocks left out", "nested/skipped_ratio"),
    ("KL(b ‖ π), nats", "nested/kl"),
    ("mean token ratio", "nested/mean_ratio"),
    ("effective completions", "nested/effective_sample_size"),
    ("share bounded", "nested/share_bounded"),
    ("reward", "reward"),
    ("reward, few prompts", "nested/rollout_reward"),
    ("whole policy's reward on them", "nested/policy_reward"),
    ("tokens", "completions/mean_length"),
    ("groups of one reward", "frac_reward_zero_std"),
];

/// What leaving blocks out does.
pub(super) fn section(measured: &Measured) -> Section {
    let mut section = Section::new("Blocks left out");
    let caption = "Rollouts of all batches: mean over batches, then mean and 95 % interval over seeds. b is the nested \
                   policy that draws, π the whole one before the update; the mean token ratio π/b is 1 in expectation.";
    let names = std::iter::once("rollouts").chain(ROLLOUTS.iter().map(|(name, _)| *name));
    let mut table = Table::new(caption, names.collect::<Vec<_>>());
    for (i, variant) in measured.variants.iter().enumerate() {
        let mut row: Vec<Field> = vec![variant.name.as_str().into()];
        row.extend(ROLLOUTS.iter().map(|(_, key)| field(&measured.rollouts(i, key))));
        table.rows.push(row);
    }
    section.push(table);
    if !measured.speeds.is_empty() {
        section.push(speed_table(measured));
        section.push(speed_plot(measured));
        section.push(times(measured));
    }
    let shown = [
        ("KL(b ‖ π), nats a completion", "nested/kl", false),
        ("sampled: all right", "sampled/accuracy", true),
        ("greedy: all right", "greedy/accuracy", true),
        ("tokens of a rollout", "completions/mean_length", false),
    ];
    for (name, key, of_policy) in shown {
        section.push(against_x(measured, name, key, of_policy));
    }
    section
}

fn speed_table(measured: &Measured) -> Table {
    let caption = "Generation on this machine, completions of one length, repetitions interleaved: median, slowest and \
                   fastest. The bandwidth model is 1 / (1 − (k/L) f), f the blocks' share of the parameters read.";
    let columns =
        ["blocks left out", "share x", "tokens/s", "slowest", "fastest", "gain", "gain by the model"];
    let mut table = Table::new(caption, columns);
    let base = measured.speeds.first().map_or(f64::NAN, Speed::median);
    for speed in &measured.speeds {
        let (least, most) =
            speed.rates.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
        table.rows.push(vec![
            speed.n_skipped.to_string().into(),
            Field::finite(speed.ratio),
            Field::finite(speed.median()),
            Field::finite(least),
            Field::finite(most),
            Field::finite(speed.median() / base),
            Field::finite(speed.predicted),
        ]);
    }
    table
}

/// Where the time of the batches went.
fn times(measured: &Measured) -> Table {
    let caption = "Wall-clock seconds a batch and completion tokens a second, of generation alone and of all four \
                   together: mean and 95 % interval over seeds. Completions differ in length from variant to variant.";
    let columns =
        ["rollouts", "rollout", "verifier", "score", "updates", "tokens/s generated", "tokens/s end to end"];
    let mut table = Table::new(caption, columns);
    for (i, variant) in measured.variants.iter().enumerate() {
        let mut row: Vec<Field> = vec![variant.name.as_str().into()];
        row.extend((0..4).map(|part| field(&measured.times(i, |t| t.a_batch()[part]))));
        row.push(field(&measured.times(i, Times::generated)));
        row.push(field(&measured.times(i, Times::end_to_end)));
        table.rows.push(row);
    }
    table
}

/// Tokens a second against x, beside what the bandwidth model makes of those of the whole policy.
fn speed_plot(measured: &Measured) -> Plot {
    let name = "tokens generated a second";
    let base = measured.speeds.first().map_or(f64::NAN, Speed::median);
    let seen: Vec<Point> = measured.speeds.iter().filter_map(|s| point(s.ratio, &s.rates)).collect();
    let model: Vec<Point> = measured.speeds.iter().map(|s| Point::new(s.ratio, base * s.predicted)).collect();
    Plot::new(format!("{name} against x"), "share of blocks left out", name)
        .with(Series::finite("measured", Style::LineAndPoints, seen))
        .with(Series::finite("bandwidth model", Style::Line, model))
        .caption(
            "Means of the repetitions with 95 % intervals; the model starts at the whole policy's median.",
        )
}

/// A figure against x, one line a correction; plain GRPO is where all begin.
fn against_x(measured: &Measured, name: &str, key: &str, of_policy: bool) -> Plot {
    let of = |i: usize| if of_policy { measured.values(i, None, key) } else { measured.rollouts(i, key) };
    let mut plot = Plot::new(format!("{name} against x"), "share of blocks left out", name);
    let mut corrections: Vec<&str> = Vec::new();
    for variant in measured.variants.iter().filter(|v| v.x > 0.0) {
        if !corrections.contains(&variant.correction.as_str()) {
            corrections.push(&variant.correction);
        }
    }
    for correction in corrections {
        let mut points: Vec<Point> = Vec::new();
        for (i, v) in measured.variants.iter().enumerate() {
            if v.x <= 0.0 || v.correction == correction {
                points.extend(point(v.x, &of(i)));
            }
        }
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        plot = plot.with(Series::finite(correction, Style::LineAndPoints, points));
    }
    plot.caption("Bars and bands are 95 % intervals over seeds.")
}
