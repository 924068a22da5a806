//! How fast the nested policies generate, beside what the bandwidth model says.
//!
//! ```text
//! gain(k) = 1 / (1 − (k / L) f)
//! ```
//!
//! Where: k of L blocks are left out and f is the share of a decoding step that blocks take; where reading
//! parameters is what takes time, that is their share of the parameters read.

use std::collections::BTreeMap;
use std::time::Instant;

use rlhf_core::rng::stream;
use rlhf_eval::stats::median;
use rlhf_nested::behavior::{self, Blocks};
use rlhf_policy::generate::Generation;
use rlhf_policy::weights::parameters;

use super::Setting;
use super::rollouts::failed;
use crate::config::GrpoPipeline;
use crate::error::Error;
use crate::pipeline::ground::{generation, sampled};
use crate::pipeline::session::Session;

/// Most prompts of a measurement.
const PROMPTS: usize = 32;

/// Generation with one number of blocks left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Speed {
    /// k.
    pub(super) n_skipped: usize,
    /// k / L.
    pub(super) ratio: f64,
    /// Tokens a second of each repetition; repetition i of all speeds ran one after the other.
    pub(super) rates: Vec<f64>,
    /// What the bandwidth model expects over k = 0.
    pub(super) predicted: f64,
}

impl Speed {
    /// Tokens a second: the median of the repetitions.
    pub(super) fn median(&self) -> f64 {
        median(&self.rates).unwrap_or(f64::NAN)
    }
}

/// Each number of blocks that a variant leaves out, fewest first and 0 among them: every completion as long as
/// may be, the repetitions of all interleaved after one that does not count. Nothing without `speed_runs`.
///
/// # Errors
/// A model that cannot generate.
pub(super) fn measure(
    config: &GrpoPipeline,
    setting: &Setting,
    session: &Session,
) -> Result<Vec<Speed>, Error> {
    let runs = config.evaluation.speed_runs;
    let n = setting.n_blocks();
    let mut sets: BTreeMap<usize, Blocks> = BTreeMap::new();
    sets.insert(0, Blocks { skipped: Vec::new(), kept: (0..n).collect() });
    for variant in &config.variants {
        let schedule = variant.schedule.build(n, config.seed).map_err(failed)?;
        let blocks = Blocks::of(schedule.as_ref(), 0, n).map_err(failed)?;
        sets.entry(blocks.skipped.len()).or_insert(blocks);
    }
    if runs == 0 || sets.len() < 2 {
        return Ok(Vec::new());
    }
    let share = block_share(setting);
    let predicted = |k: usize| 1.0 / (1.0 - k as f64 / n as f64 * share);
    let of = |(k, blocks): (&usize, &Blocks)| Speed {
        n_skipped: *k,
        ratio: blocks.ratio(),
        rates: Vec::new(),
        predicted: predicted(*k),
    };
    let mut speeds: Vec<Speed> = sets.iter().map(of).collect();
    for run in 0..=runs {
        for (speed, blocks) in speeds.iter_mut().zip(sets.values()) {
            let rate = once(config, setting, session, blocks, run)?;
            if run > 0 {
                speed.rates.push(rate);
            }
        }
    }
    Ok(speeds)
}

/// Tokens a second of one generation.
fn once(
    config: &GrpoPipeline,
    setting: &Setting,
    session: &Session,
    blocks: &Blocks,
    run: usize,
) -> Result<f64, Error> {
    let ground = &setting.ground;
    let how = generation(
        &config.common(),
        ground,
        session,
        sampled(&config.sampling),
        config.grpo.num_generations.get(),
    );
    // Nothing ends a completion: speeds are compared on the same work.
    let how = Generation { eos_token_ids: Vec::new(), ..how };
    let prompts = &ground.eval_prompts[..PROMPTS.min(ground.eval_prompts.len())];
    let random = |p: usize, s: usize| stream(config.seed, "speed", run as u64, (p * 1000 + s) as u64);
    let started = Instant::now();
    let drawn = behavior::rollouts(&ground.prior, prompts, &how, blocks, &random).map_err(failed)?;
    let tokens: usize = drawn.iter().map(|r| r.tokens.len()).sum();
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}

/// The blocks' share of the parameters that a decoding step reads: of the embedding it reads rows, of a tied one
/// all, as the head.
fn block_share(setting: &Setting) -> f64 {
    let prior = &setting.ground.prior;
    let (mut blocks, mut rest) = (0usize, 0usize);
    for (name, tensor) in parameters(prior) {
        if name.starts_with("model.layers.") {
            blocks += tensor.data.len();
        } else if name != "model.embed_tokens.weight" || prior.lm_head.is_none() {
            rest += tensor.data.len();
        }
    }
    blocks as f64 / (blocks + rest).max(1) as f64
}
