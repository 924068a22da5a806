//! How fast the machine's work is, in tokens a second: training steps, log-probabilities, generation.
//!
//! The workloads are those of `docs/benchmarks.md`; each is one step of one method on a Llama-style
//! decoder of 9,965,824 parameters (or of a folder), with the sizes fixed, so that two programs can
//! be compared on the same work.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use rlhf_eval::stats::median;
use serde::Serialize;

use crate::error::Error;

mod deep;
mod probe;
mod start;
mod work;

pub(crate) use probe::{Probe, peak_mib};
use work::Bench;

/// A workload: its name and what one repetition does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    Sft,
    Dpo,
    DpoCached,
    Reward,
    Logprobs,
    Generate,
    GenerateGreedy,
    GenerateShared,
    Grpo,
    GenerateDeep,
    GenerateNested,
    Start,
}

impl Workload {
    /// The two of the deep model run when they are asked for: its 92 million parameters are many for the rest.
    const ALL: [Self; 12] = [
        Self::Sft,
        Self::Dpo,
        Self::DpoCached,
        Self::Reward,
        Self::Logprobs,
        Self::Generate,
        Self::GenerateGreedy,
        Self::GenerateShared,
        Self::Grpo,
        Self::Start,
        Self::GenerateDeep,
        Self::GenerateNested,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::DpoCached => "dpo-cached",
            Self::Reward => "reward",
            Self::Logprobs => "logprobs",
            Self::Generate => "generate",
            Self::GenerateGreedy => "generate-greedy",
            Self::GenerateShared => "generate-shared",
            Self::Grpo => "grpo",
            Self::GenerateDeep => "generate-deep",
            Self::GenerateNested => "generate-nested",
            Self::Start => "start",
        }
    }
}

/// What is measured, and how often.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Names of workloads; empty for all but those of the deep model.
    pub workloads: Vec<String>,
    /// Repetitions after the warm-up.
    pub runs: usize,
    /// A model folder in place of the built-in shape.
    pub model: Option<PathBuf>,
}

/// One workload's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// The workload.
    pub workload: String,
    /// Tokens of one repetition: read ones of a training step or a scoring, new ones of a generation.
    pub tokens: usize,
    /// Tokens a second: the median repetition.
    pub median: f64,
    /// The slowest.
    pub min: f64,
    /// The fastest.
    pub max: f64,
    /// Of each repetition, in order: those of several workloads took turns.
    pub rates: Vec<f64>,
    /// Seconds of the median repetition.
    pub seconds: f64,
    /// Repetitions.
    pub runs: usize,
    /// Peak resident memory of this process so far, MiB, where the system tells.
    pub peak_rss_mib: Option<usize>,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<16} {:>8.0} tokens/s  ({:.0} to {:.0}, {} runs of {} tokens, {:.3} s each)",
            self.workload, self.median, self.min, self.max, self.runs, self.tokens, self.seconds
        )?;
        match self.peak_rss_mib {
            Some(mib) => write!(f, "  peak {mib} MiB"),
            None => Ok(()),
        }
    }
}

/// What leaving blocks out gains, where both workloads of the deep model were measured: the ratio of each
/// repetition to the one that ran before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// The middle ratio.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Gain {
    /// None unless both were measured.
    pub fn of(speeds: &[Speed]) -> Option<Self> {
        let of = |w: Workload| speeds.iter().find(|s| s.workload == w.name()).map(|s| &s.rates);
        let (deep, nested) = (of(Workload::GenerateDeep)?, of(Workload::GenerateNested)?);
        let ratios: Vec<f64> = nested.iter().zip(deep).map(|(a, b)| a / b).collect();
        let (min, max) = ends(&ratios);
        Some(Self { median: median(&ratios).ok()?, min, max })
    }
}

impl fmt::Display for Gain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blocks, left_out) = (deep::BLOCKS, deep::SKIPPED);
        write!(
            f,
            "{left_out} of {blocks} blocks left out: {:.3} times the tokens/s ({:.3} to {:.3}, pair by pair); \
             the bandwidth model says {:.3}",
            self.median,
            self.min,
            self.max,
            deep::predicted()
        )
    }
}

/// Measures the workloads asked for: repetitions interleaved after two warm-ups each.
///
/// # Errors
/// An unknown workload, no repetition, a model folder that cannot be read.
pub fn run(options: &BenchOptions, device: &Device) -> Result<Vec<Speed>, Error> {
    let chosen = chosen(&options.workloads)?;
    if options.runs == 0 {
        return Err(Error::config("command line", "--runs", "at least 1", "0"));
    }
    let mut bench = Bench::new(options.model.as_deref(), device)?;
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); chosen.len()];
    let mut tokens = vec![0; chosen.len()];
    for repetition in 0..options.runs + 2 {
        for (i, workload) in chosen.iter().enumerate() {
            let started = Instant::now();
            let done = bench.once(*workload)?;
            tokens[i] = done.tokens;
            if repetition > 1 {
                seconds[i].push(done.seconds.unwrap_or_else(|| started.elapsed().as_secs_f64()));
            }
        }
    }
    let peak = peak_mib();
    Ok((0..chosen.len()).map(|i| speed(chosen[i], tokens[i], &seconds[i], peak)).collect())
}

/// The least and the largest.
fn ends(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)))
}

fn chosen(names: &[String]) -> Result<Vec<Workload>, Error> {
    let known = |name: &str| Workload::ALL.into_iter().find(|w| w.name() == name);
    if names.is_empty() {
        let deep = |w: &Workload| matches!(w, Workload::GenerateDeep | Workload::GenerateNested);
        return Ok(Workload::ALL.into_iter().filter(|w| !deep(w)).collect());
    }
    let one = |name: &String| {
        let all: Vec<&str> = Workload::ALL.iter().map(|w| w.name()).collect();
        known(name).ok_or_else(|| Error::config("command line", "WORKLOAD", all.join(", "), name.as_str()))
    };
    names.iter().map(one).collect()
}

fn speed(workload: Workload, tokens: usize, seconds: &[f64], peak_rss_mib: Option<usize>) -> Speed {
    let rate = |s: f64| tokens as f64 / s;
    let median = median(seconds).unwrap_or(f64::NAN);
    let (least, most) = ends(seconds);
    Speed {
        workload: workload.name().to_owned(),
        tokens,
        median: rate(median),
        min: rate(most),
        max: rate(least),
        rates: seconds.iter().map(|s| rate(*s)).collect(),
        seconds: median,
        runs: seconds.len(),
        peak_rss_mib,
    }
}
