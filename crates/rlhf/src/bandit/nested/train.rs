//! GRPO on a table of logits with nested rollouts: what a correction does to learning, without a model.
//!
//! A completion is right where every token is, and token 0 is right everywhere, which nothing tells the
//! policy. All layers push towards it alike, so that one left out makes the rollouts worse.

use rand::RngExt;
use rlhf_core::host::advantage::group_advantages;
use rlhf_core::host::kl::exact_kl;
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::number::Prob;
use rlhf_core::preset::trl;
use rlhf_core::rng::stream;
use rlhf_nested::behavior::Blocks;
use rlhf_nested::error::Error as NestedError;
use rlhf_nested::schedule::{LayerSchedule, ScheduleConfig};
use rlhf_nested::step::RolloutCorrection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::estimate::{Answer, Estimator};
use super::law::{Layers, Shape, Table, Token};
use crate::error::Error;
use crate::input::Input;

/// Updates whose rollouts are averaged for the reward of a start.
const FIRST: usize = 10;
/// Steps times completions times tokens that are still quick.
const MAX_TOKENS: usize = 200_000_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fields {
    layers: usize,
    border: usize,
    prompts: usize,
    length: usize,
    vocabulary: usize,
    scale: f64,
    push: f64,
    num_generations: usize,
    updates: usize,
    learning_rate: f64,
    n_seeds: u64,
    record_every: usize,
    ratios: Vec<Prob>,
    corrections: Vec<RolloutCorrection>,
}

impl Default for Fields {
    /// What [`HELP`](crate::bandit::HELP) says; push and rate give the start of .18 and the end of .97
    /// that the table this follows has.
    fn default() -> Self {
        let list = r#"["none", "token", "sequence", {"retrace_traces": 1.0}, "base_clip"]"#;
        Self {
            layers: 10,
            border: 1,
            prompts: 8,
            length: 5,
            vocabulary: 5,
            scale: 0.3,
            push: 2.9,
            num_generations: 8,
            updates: 150,
            learning_rate: 2.0,
            n_seeds: 6,
            record_every: 25,
            ratios: [0.0, 0.1, 0.2, 0.3, 0.4].map(|x| Prob::new(x).expect("a ratio")).to_vec(),
            corrections: serde_json::from_str(list).expect("corrections"),
        }
    }
}

/// Training runs that have been checked.
pub(super) struct Train {
    fields: Fields,
    schedules: Vec<ScheduleConfig>,
    seed: u64,
    clip: PpoClipConfig,
}

/// What a run showed.
struct Seen {
    kl: f64,
    rollout_reward: f64,
    /// Exact, every `record_every` updates.
    accuracy: Vec<f64>,
}

pub(super) fn read(input: &mut Input, seed: u64, clip: PpoClipConfig) -> Result<Option<Train>, Error> {
    let expected = "an object with the fields that `rlhf bandit --help` lists";
    let Some(given) = input.optional::<Value>("train", expected)? else { return Ok(None) };
    let shown = given.to_string();
    let fields: Fields = serde_json::from_value(given)
        .map_err(|e| input.error("train", expected, format!("{e} in {shown}")))?;
    let counts = [
        ("train.layers", fields.layers, 1),
        ("train.prompts", fields.prompts, 1),
        ("train.length", fields.length, 1),
        ("train.vocabulary", fields.vocabulary, 2),
        ("train.num_generations", fields.num_generations, 2),
        ("train.updates", fields.updates, 1),
        ("train.record_every", fields.record_every, 1),
        ("train.n_seeds", fields.n_seeds as usize, 1),
    ];
    if let Some((field, n, least)) = counts.into_iter().find(|(_, n, least)| n < least) {
        return Err(input.error(field, format!("a whole number of at least {least}"), n.to_string()));
    }
    for (field, x) in [("train.scale", fields.scale), ("train.learning_rate", fields.learning_rate)] {
        if !(x >= 0.0 && x.is_finite()) {
            return Err(input.error(field, "a finite number of at least 0", x.to_string()));
        }
    }
    let runs = fields.ratios.len() * fields.corrections.len();
    let sizes =
        [fields.prompts, fields.num_generations, fields.length, fields.updates, fields.n_seeds as usize];
    if sizes.into_iter().chain([runs]).try_fold(1, usize::checked_mul).is_none_or(|n| n > MAX_TOKENS) {
        let expected = format!("at most {MAX_TOKENS} tokens drawn in all runs");
        return Err(input.error("train", expected, "more"));
    }
    let schedule = |ratio: &Prob| ScheduleConfig::Uniform { ratio: *ratio, border: fields.border };
    let schedules: Vec<ScheduleConfig> = fields.ratios.iter().map(schedule).collect();
    for schedule in &schedules {
        schedule.build(fields.layers, seed).map_err(|error| match error {
            NestedError::Schedule { field: "border", expected, found } => {
                input.error("train.border", expected, found)
            }
            NestedError::Schedule { expected, found, .. } => input.error("train.ratios", expected, found),
            other => input.error("train", "a schedule of layers", other.to_string()),
        })?;
    }
    Ok(Some(Train { fields, schedules, seed, clip }))
}

impl Train {
    pub(super) fn run(&self) -> Value {
        self.schedules.iter().map(|schedule| self.row(schedule)).collect()
    }

    fn row(&self, schedule: &ScheduleConfig) -> Value {
        let fields = &self.fields;
        let seeds = || self.seed..self.seed.saturating_add(fields.n_seeds);
        let mean =
            |of: &dyn Fn(&Seen) -> f64, seen: &[Seen]| seen.iter().map(of).sum::<f64>() / seen.len() as f64;
        let runs: Vec<Vec<Seen>> = fields
            .corrections
            .iter()
            .map(|c| seeds().map(|seed| self.once(schedule, *c, seed)).collect())
            .collect();
        let accuracy = |seen: &Vec<Seen>| -> Vec<f64> {
            (0..seen[0].accuracy.len()).map(|i| mean(&|s| s.accuracy[i], seen)).collect()
        };
        let results: Vec<Value> = fields
            .corrections
            .iter()
            .zip(&runs)
            .map(|(c, seen)| {
                let reward = mean(&|s| s.rollout_reward, seen);
                json!({ "correction": c, "rollout_reward": reward, "accuracy": accuracy(seen) })
            })
            .collect();
        json!({
            "ratio": schedule.realised_ratio(fields.layers, 0),
            "kl": runs.first().map(|seen| mean(&|s| s.kl, seen)),
            "corrections": results,
        })
    }

    /// One run from its own start.
    fn once(&self, schedule: &ScheduleConfig, correction: RolloutCorrection, seed: u64) -> Seen {
        let fields = &self.fields;
        let rows = fields.prompts * fields.length;
        let shape = Shape { layers: fields.layers, rows, vocabulary: fields.vocabulary, scale: fields.scale };
        let mut layers = Layers::random(shape, seed);
        let mut right = vec![0.0; fields.vocabulary];
        right[0] = fields.push / fields.layers as f64;
        layers.add(&vec![right; rows], 1.0);
        let schedule = schedule.build(fields.layers, seed).expect("checked when it was read");
        let mut seen =
            Seen { kl: self.kl(&layers, schedule.as_ref()), rollout_reward: 0.0, accuracy: Vec::new() };
        let first = FIRST.min(fields.updates);
        for update in 0..fields.updates {
            let policy = layers.whole();
            if update.is_multiple_of(fields.record_every) {
                seen.accuracy.push(self.accuracy(&policy));
            }
            let behavior = layers.through(&self.kept(schedule.as_ref(), update));
            let groups = self.rollouts(&behavior, seed, update);
            let estimator = Estimator { correction, clip: self.clip, policy: &policy };
            layers.add(&self.gradient(&estimator, &behavior, &groups), fields.learning_rate);
            if update < first {
                let rewards = groups.iter().flatten().map(|a| a.reward).sum::<f64>();
                seen.rollout_reward += rewards / (groups.len() * fields.num_generations * first) as f64;
            }
        }
        seen.accuracy.push(self.accuracy(&layers.whole()));
        seen
    }

    fn kept(&self, schedule: &dyn LayerSchedule, batch: usize) -> Vec<usize> {
        Blocks::of(schedule, batch as u64, self.fields.layers).expect("a schedule of our own").kept
    }

    /// KL(b ‖ π) of a completion, nats, over the layers of the first batches.
    fn kl(&self, layers: &Layers, schedule: &dyn LayerSchedule) -> f64 {
        let policy = layers.whole();
        let of = |batch: usize| {
            let behavior = layers.through(&self.kept(schedule, batch));
            let rows = behavior.iter().zip(&policy).map(|(b, p)| exact_kl(b, p)).sum::<f64>();
            rows / self.fields.prompts as f64
        };
        (0..FIRST).map(of).sum::<f64>() / FIRST as f64
    }

    /// The probability of a right completion, over prompts.
    fn accuracy(&self, policy: &Table) -> f64 {
        let right = |rows: &[Vec<f64>]| rows.iter().map(|row| row[0]).sum::<f64>().exp();
        policy.chunks(self.fields.length).map(right).sum::<f64>() / self.fields.prompts as f64
    }

    /// A group of completions a prompt.
    fn rollouts(&self, behavior: &Table, seed: u64, update: usize) -> Vec<Vec<Answer>> {
        let Fields { length, num_generations, .. } = self.fields;
        let answer = |prompt: usize, sample: usize| {
            let index = (prompt * num_generations + sample) as u64;
            let mut rng = stream(seed, "bandit/nested/rollout", update as u64, index);
            let mut draw = |row: usize| Token { row, token: drawn(&behavior[row], rng.random()) };
            let tokens: Vec<Token> = (prompt * length..(prompt + 1) * length).map(&mut draw).collect();
            let reward = f64::from(u8::from(tokens.iter().all(|t| t.token == 0)));
            Answer { tokens, reward }
        };
        let group = |prompt| (0..num_generations).map(|sample| answer(prompt, sample)).collect();
        (0..self.fields.prompts).map(group).collect()
    }

    /// The mean over completions of the means over their tokens, as GRPO has it, upwards.
    fn gradient(&self, estimator: &Estimator<'_>, behavior: &Table, groups: &[Vec<Answer>]) -> Vec<Vec<f64>> {
        let rewards: Vec<Vec<f64>> = groups.iter().map(|g| g.iter().map(|a| a.reward).collect()).collect();
        let advantages = group_advantages(trl::grpo().advantage, &rewards).advantages;
        let n = (groups.len() * self.fields.num_generations * self.fields.length) as f64;
        let mut gradient: Vec<Vec<f64>> = behavior.iter().map(|row| vec![0.0; row.len()]).collect();
        for (answer, advantage) in groups.iter().flatten().zip(advantages.iter().flatten()) {
            let coefficients = estimator.coefficients(answer, &answer.logps(behavior), *advantage);
            for (token, c) in answer.tokens.iter().zip(coefficients) {
                let slopes = token.slope(estimator.policy);
                gradient[token.row].iter_mut().zip(slopes).for_each(|(g, s)| *g += c * s / n);
            }
        }
        gradient
    }
}

/// The token that `uniform` falls on.
fn drawn(logp: &[f64], uniform: f64) -> usize {
    let mut left = uniform;
    for (token, logp) in logp.iter().enumerate() {
        left -= logp.exp();
        if left < 0.0 {
            return token;
        }
    }
    logp.len() - 1
}
