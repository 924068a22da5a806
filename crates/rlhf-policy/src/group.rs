//! The gradient of a window of rollouts with advantages: GRPO and its relatives by tokens, RLOO by
//! completions.
//!
//! Advantages come from [`rlhf_core::host`], a whole group at a time, before anything is cut; what
//! the policy that drew the tokens and the reference say of them comes from
//! [`logps`](crate::completion::logps), at the same temperature as here.

use burn::tensor::Tensor;
use rlhf_core::error::NumError;
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::loss::rloo::rloo;
use rlhf_core::mask::{normalise, sequence_sum};
use rlhf_core::preset::{Normaliser, StepCounts};
use serde::Serialize;

use crate::batch::Sequence;
use crate::completion::{Completions, Cut, Tokens, backward, host, mean_of, vector};
use crate::decoder::Decoder;
use crate::optim::Grads;
use crate::surrogate::{GroupLoss, Told};

/// A sampled completion with what its group says of it.
#[derive(Debug, Clone, Copy)]
pub struct Rollout<'a> {
    /// Prompt and completion, which is scored.
    pub sequence: &'a Sequence,
    /// log π of the policy that drew it, token by token; none where that is the policy as it stands.
    pub old_logp: Option<&'a [f64]>,
    /// That of the reference; none where no KL is paid in the loss.
    pub reference_logp: Option<&'a [f64]>,
    /// w ≥ 0, one number a token, where another model drew it
    /// ([`off_policy`](rlhf_core::host::off_policy)): the surrogate of the token counts w times, its KL
    /// once, as with TRL's `importance_sampling_ratio`. None is 1 for all.
    pub weight: Option<&'a [f64]>,
    /// A: by how much it is better than its siblings.
    pub advantage: f64,
}

/// Numbers of [`grpo_gradients`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GrpoStep {
    /// The loss of a token; a [`GrpoConfig`](rlhf_core::loss::grpo::GrpoConfig) is one.
    pub loss: GroupLoss,
    /// What the sum over tokens is divided by. Where that is a micro-batch's own, the micro-batches
    /// are weighted by their rows.
    pub normaliser: Normaliser,
    /// Tokens of the longest completion allowed; only [`Normaliser::StepBudget`] asks.
    pub max_completion_length: usize,
    /// What logits are divided by, as when the completions were drawn.
    pub temperature: f64,
}

/// Numbers of [`rloo_gradients`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RlooStep {
    /// The range that a completion's ratio may move in.
    pub clip: PpoClipConfig,
    /// What logits are divided by, as when the completions were drawn.
    pub temperature: f64,
}

/// What a window showed before its step, by TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GroupRecord {
    /// The loss that was differentiated.
    pub loss: f64,
    /// Mean entropy at a scored token, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Mean KL of a scored token to the reference, as the loss weights it, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Share of ratios that fell below the range where A < 0.
    #[serde(rename = "clip_ratio/low_mean")]
    pub clip_low_mean: f64,
    /// The smallest such share of a completion.
    #[serde(rename = "clip_ratio/low_min")]
    pub clip_low_min: f64,
    /// Share of ratios that rose above the range where A > 0.
    #[serde(rename = "clip_ratio/high_mean")]
    pub clip_high_mean: f64,
    /// The largest such share of a completion.
    #[serde(rename = "clip_ratio/high_max")]
    pub clip_high_max: f64,
    /// Share of either.
    #[serde(rename = "clip_ratio/region_mean")]
    pub clip_region_mean: f64,
    /// Mean tokens of a completion.
    #[serde(rename = "completions/mean_length")]
    pub mean_length: f64,
    /// Tokens of the shortest completion.
    #[serde(rename = "completions/min_length")]
    pub min_length: usize,
    /// Tokens of the longest completion.
    #[serde(rename = "completions/max_length")]
    pub max_length: usize,
    /// Tokens read, prompts included.
    pub num_tokens: usize,
}

/// The gradient of one window by tokens: its loss under the step's normaliser. A micro-batch that scores no
/// token adds nothing.
///
/// # Errors
/// A window without completions or tokens, or a longest completion of 0 tokens where it counts.
///
/// # Panics
/// On lists of numbers that are not one a token or are there for some rollouts only, a weight below 0, or no
/// reference where β > 0.
#[track_caller]
pub fn grpo_gradients(
    policy: &Decoder,
    window: &[Rollout<'_>],
    step: &GrpoStep,
    cut: &Cut,
) -> Result<(Grads, GroupRecord), NumError> {
    let n_tokens = window.iter().map(|r| r.sequence.n_targets()).sum();
    if n_tokens == 0 {
        return Err(NumError { what: "window", expected: "a scored token", found: 0.0 });
    }
    let max_completion_length = step.max_completion_length;
    let counts = StepCounts { n_tokens, n_sequences: window.len(), max_completion_length };
    let how = step.normaliser.of_step(counts)?;
    let (mut total, mut seen) = (Grads::default(), Seen::new(step.loss.surrogate.range()));
    for rollouts in cut.of(window) {
        if rollouts.iter().all(|r| r.sequence.n_targets() == 0) {
            seen.lengths.extend(rollouts.iter().map(|_| 0));
            continue;
        }
        let completions = read(policy, rollouts, step.temperature, cut);
        let tokens = &completions.tokens;
        let [_, c] = tokens.logp.dims();
        let told = Told {
            logp: tokens.logp.clone(),
            old_logp: old_logp(tokens, rollouts),
            reference_logp: table(tokens, rollouts, "reference_logp", |r| r.reference_logp),
            weight: weights(tokens, rollouts),
            advantage: advantages(rollouts, tokens),
        };
        let out = step.loss.tokens(told, &tokens.mask);
        let weight = match step.normaliser {
            Normaliser::SequenceMean | Normaliser::BatchTokens => rollouts.len() as f64 / window.len() as f64,
            Normaliser::StepTokens | Normaliser::StepBudget | Normaliser::StepSequences => 1.0,
        };
        let loss = normalise(how, out.loss, &tokens.mask).mul_scalar(weight);
        seen.add(&completions, &loss);
        seen.entropy.extend(completions.watched(policy, cut).into_iter().flat_map(|s| s.entropy));
        let ratios = host(out.ratio);
        for (row, (rollout, n)) in rollouts.iter().zip(&completions.counts).enumerate() {
            seen.ratios(&ratios[row * c..row * c + n], rollout.advantage);
        }
        seen.kl += out.kl.map_or(0.0, |kl| host(kl).iter().sum());
        total = total.plus(backward(policy, &loss));
    }
    let has_kl = step.loss.beta.get() > 0.0;
    Ok((total, seen.record(has_kl)))
}

/// The gradient of one window by completions: the mean of [`rloo`].
///
/// # Panics
/// As [`grpo_gradients`], on an empty window, a micro-batch that scores no token, and on weights: a completion
/// has one ratio.
#[track_caller]
pub fn rloo_gradients(
    policy: &Decoder,
    window: &[Rollout<'_>],
    step: &RlooStep,
    cut: &Cut,
) -> (Grads, GroupRecord) {
    assert!(!window.is_empty(), "rloo: no rollout");
    assert!(window.iter().all(|r| r.weight.is_none()), "rloo: weight: expected none, found some");
    let (mut total, mut seen) = (
        Grads::default(),
        Seen::new([1.0 - step.clip.epsilon_low.get(), 1.0 + step.clip.epsilon_high.get()]),
    );
    for rollouts in cut.of(window) {
        let completions = read(policy, rollouts, step.temperature, cut);
        let tokens = &completions.tokens;
        let old = sequence_sum(old_logp(tokens, rollouts), &tokens.mask);
        let out = rloo(step.clip, tokens.sums(), old, advantages(rollouts, tokens));
        let loss = out.loss.sum().div_scalar(window.len() as f64);
        seen.add(&completions, &loss);
        seen.entropy.extend(completions.watched(policy, cut).into_iter().flat_map(|s| s.entropy));
        for (ratio, rollout) in host(out.ratio).iter().zip(rollouts) {
            seen.ratios(&[*ratio], rollout.advantage);
        }
        total = total.plus(backward(policy, &loss));
    }
    (total, seen.record(false))
}

fn read(policy: &Decoder, rollouts: &[Rollout<'_>], temperature: f64, cut: &Cut) -> Completions {
    let rows: Vec<&Sequence> = rollouts.iter().map(|r| r.sequence).collect();
    Completions::new(policy, &rows, temperature, cut.pad)
}

fn advantages(rollouts: &[Rollout<'_>], tokens: &Tokens) -> Tensor<1> {
    vector(rollouts.iter().map(|r| r.advantage), &tokens.logp.device())
}

#[track_caller]
fn old_logp(tokens: &Tokens, rollouts: &[Rollout<'_>]) -> Tensor<2> {
    table(tokens, rollouts, "old_logp", |r| r.old_logp).unwrap_or_else(|| tokens.logp.clone().detach())
}

#[track_caller]
fn weights(tokens: &Tokens, rollouts: &[Rollout<'_>]) -> Option<Tensor<2>> {
    let below = |w: &[f64]| w.iter().any(|w| *w < 0.0);
    assert!(!rollouts.iter().filter_map(|r| r.weight).any(below), "group: weight: expected none below 0");
    table(tokens, rollouts, "weight", |r| r.weight)
}

/// Lists of all rollouts as one table; none where no rollout has one.
#[track_caller]
fn table<'a>(
    tokens: &Tokens,
    rollouts: &[Rollout<'a>],
    name: &str,
    of: impl Fn(&Rollout<'a>) -> Option<&'a [f64]>,
) -> Option<Tensor<2>> {
    let lists: Vec<&[f64]> = rollouts.iter().filter_map(&of).collect();
    if lists.is_empty() {
        return None;
    }
    assert_eq!(lists.len(), rollouts.len(), "group: {name}: expected a list for each rollout or for none");
    for (list, rollout) in lists.iter().zip(rollouts) {
        assert_eq!(list.len(), rollout.sequence.n_targets(), "group: {name}: expected one number a token");
    }
    Some(tokens.table(&lists))
}

/// Numbers of a window, gathered over its micro-batches.
struct Seen {
    /// Ratios below and above count as clipped.
    range: [f64; 2],
    loss: f64,
    kl: f64,
    entropy: Vec<f64>,
    lengths: Vec<usize>,
    num_tokens: usize,
    n_ratios: usize,
    /// Clipped below and above, and the extreme shares.
    clipped: [usize; 2],
    low_min: f64,
    high_max: f64,
}

impl Seen {
    fn new(range: [f64; 2]) -> Self {
        Self {
            range,
            loss: 0.0,
            kl: 0.0,
            entropy: Vec::new(),
            lengths: Vec::new(),
            num_tokens: 0,
            n_ratios: 0,
            clipped: [0; 2],
            low_min: f64::INFINITY,
            high_max: 0.0,
        }
    }

    fn add(&mut self, completions: &Completions, loss: &Tensor<1>) {
        self.loss += host(loss.clone())[0];
        self.lengths.extend(&completions.counts);
        self.num_tokens += completions.n_read;
    }

    /// The ratios of one completion.
    fn ratios(&mut self, ratios: &[f64], advantage: f64) {
        let [low, high] = self.range;
        let n_low = ratios.iter().filter(|r| **r < low && advantage < 0.0).count();
        let n_high = ratios.iter().filter(|r| **r > high && advantage > 0.0).count();
        self.n_ratios += ratios.len();
        self.clipped[0] += n_low;
        self.clipped[1] += n_high;
        if !ratios.is_empty() {
            self.low_min = self.low_min.min(n_low as f64 / ratios.len() as f64);
            self.high_max = self.high_max.max(n_high as f64 / ratios.len() as f64);
        }
    }

    fn record(&self, has_kl: bool) -> GroupRecord {
        let share = |n: usize| n as f64 / self.n_ratios as f64;
        let n_tokens = self.lengths.iter().sum::<usize>() as f64;
        let [low, high] = self.clipped;
        GroupRecord {
            loss: self.loss,
            entropy: mean_of(&self.entropy),
            kl: has_kl.then(|| self.kl / n_tokens),
            clip_low_mean: share(low),
            clip_low_min: self.low_min,
            clip_high_mean: share(high),
            clip_high_max: self.high_max,
            clip_region_mean: share(low + high),
            mean_length: n_tokens / self.lengths.len() as f64,
            min_length: self.lengths.iter().copied().min().unwrap_or(0),
            max_length: self.lengths.iter().copied().max().unwrap_or(0),
            num_tokens: self.num_tokens,
        }
    }
}
