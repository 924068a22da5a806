//! A rollout batch: what the behaviour policy answered, what the verifier says of it, what the whole policy does.

use std::collections::BTreeMap;
use std::time::Instant;

use rlhf_core::host::advantage::{group_advantages, grouped, n_equal_groups};
use rlhf_core::rng::stream;
use rlhf_nested::behavior::{self, Blocks, NestedBatch, Scoring};
use rlhf_nested::step::{Corrected, correct};
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::logps;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Finish, Rollout};
use rlhf_policy::group;
use rlhf_policy::trim::Trim;

use super::Setting;
use super::cell::Loop;
use crate::error::Error;
use crate::pipeline::ground::{answer, generation, in_turn, sampled};
use crate::pipeline::page::mean;
use crate::pipeline::session::Session;
use crate::pipeline::sweep::numbers;
use crate::task::Verdict;

/// Largest difference between a rollout's recorded log-probability and the trainer's, in nats, where the whole
/// policy drew it: rounding of `f32`, nothing else.
const MISMATCH: f64 = 1e-3;

/// What a rollout batch is learned from.
pub(super) struct Batch {
    /// Prompt and completion, a group in a row.
    sequences: Vec<Sequence>,
    /// Whether a completion is left out of the loss.
    masked: Vec<bool>,
    corrected: Corrected,
    advantages: Vec<f64>,
    /// Of the start policy, where a KL to it is paid.
    reference: Option<Vec<Vec<f64>>>,
    /// What the batch was like, by name.
    pub(super) figures: BTreeMap<String, f64>,
}

impl Batch {
    /// Completions.
    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Completion `i` for the gradient. `on_policy` says that no step was made since it was scored: the ratio of
    /// the update then is exactly 1.
    pub(super) fn rollout(&self, i: usize, on_policy: bool) -> group::Rollout<'_> {
        let reference = self.reference.as_ref().map(|r| r[i].as_slice());
        let mut all = self.corrected.rollout(i, &self.sequences[i], self.advantages[i], reference);
        if on_policy {
            all.old_logp = None;
        }
        if self.masked[i] {
            // No token of it is scored, so none has a number.
            let nothing = |list: Option<&[f64]>| list.map(|_| &[][..]);
            all.old_logp = nothing(all.old_logp);
            all.reference_logp = nothing(all.reference_logp);
            all.weight = nothing(all.weight);
        }
        all
    }
}

/// The prompts of a batch.
struct Prompts {
    indices: Vec<usize>,
    ids: Vec<Vec<u32>>,
}

impl Prompts {
    /// The first `k`.
    fn first(&self, k: usize) -> Self {
        let k = k.min(self.ids.len());
        Self { indices: self.indices[..k].to_vec(), ids: self.ids[..k].to_vec() }
    }
}

/// A batch about to be drawn: the policy lives on the plain device.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) it: &'a Loop<'a>,
    pub(super) setting: &'a Setting,
    pub(super) session: &'a Session,
    pub(super) policy: &'a Decoder,
    /// Rollout batches before it.
    pub(super) t: u64,
}

/// What was drawn, and what the verifier says of it.
struct Drawn {
    nested: NestedBatch,
    verdicts: Vec<Verdict>,
    corrected: Corrected,
}

impl Round<'_> {
    /// Draws and judges the batch; wall-clock seconds by name beside it.
    ///
    /// # Errors
    /// A verifier that fails, a number that is not finite, a rollout of the whole policy whose recorded
    /// log-probability is not the trainer's.
    pub(super) fn batch(self) -> Result<(Batch, BTreeMap<String, f64>), Error> {
        let (it, g) = (self.it, &self.it.config.grpo);
        let mut times = BTreeMap::new();
        let drawn = self.drawn(&mut times)?;
        let mut figures = figures(it, &drawn.nested.rollouts, &drawn.verdicts);
        figures.extend(numbers(&drawn.corrected.record)?);
        let advantages = advantages(it, &drawn.verdicts, &mut figures)?;
        let Drawn { nested, corrected, .. } = drawn;
        let how = self.scoring();
        let reference = (g.beta.get() > 0.0).then(|| {
            let rows: Vec<&Sequence> = nested.sequences.iter().collect();
            logps(&self.setting.ground.prior, &rows, how.temperature, &how.cut)
        });
        let left_out = |r: &Rollout| g.mask_truncated_completions && r.finish == Finish::Length;
        let masked: Vec<bool> = nested.rollouts.iter().map(left_out).collect();
        let mut sequences = nested.sequences;
        for (sequence, _) in sequences.iter_mut().zip(&masked).filter(|(_, masked)| **masked) {
            sequence.mask.fill(false);
        }
        Ok((Batch { sequences, masked, corrected, advantages, reference, figures }, times))
    }

    /// Leaves blocks out, samples, verifies, and asks the whole policy.
    fn drawn(self, times: &mut BTreeMap<String, f64>) -> Result<Drawn, Error> {
        let mut timed = |what: &str, seconds: f64| times.insert(what.to_owned(), seconds);
        let prompts = self.prompts();
        let n_blocks = self.setting.n_blocks();
        let blocks = Blocks::of(self.it.schedule.as_ref(), self.t, n_blocks).map_err(failed)?;
        let started = Instant::now();
        let rollouts = self.draw(&prompts, &blocks, "rollout")?;
        let seconds = started.elapsed().as_secs_f64();
        let n_tokens: usize = rollouts.iter().map(|r| r.tokens.len()).sum();
        timed("rollout", seconds);
        timed("rollout_tokens_per_second", n_tokens as f64 / seconds);
        let started = Instant::now();
        let verdicts = self.judged(&prompts, &rollouts)?;
        timed("verify", started.elapsed().as_secs_f64());
        let started = Instant::now();
        let target = self.target_reward(&prompts, &blocks)?;
        timed("target", started.elapsed().as_secs_f64());
        let started = Instant::now();
        let nested = NestedBatch::score(self.policy, &prompts.ids, rollouts, blocks, self.scoring());
        same_as_recorded(self.it, &nested, self.session.step())?;
        let mut corrected = correct(self.it.variant.correction, &nested);
        timed("score", started.elapsed().as_secs_f64());
        if target.is_some() {
            let k = prompts.first(self.it.config.evaluation.target_prompts).ids.len();
            let n = k * self.it.config.grpo.num_generations.get();
            let same: Vec<f64> = verdicts[..n].iter().map(|v| v.reward).collect();
            corrected.record.rollout_reward = Some(mean(&same));
            corrected.record.policy_reward = target;
        }
        Ok(Drawn { nested, verdicts, corrected })
    }

    fn prompts(self) -> Prompts {
        let all = &self.setting.ground.train_prompts;
        let n = self.it.config.grpo.prompts_per_batch.get();
        let indices = in_turn(all.len(), n, self.it.seed, "grpo/prompts", self.t);
        let ids = indices.iter().map(|i| all[*i].clone()).collect();
        Prompts { indices, ids }
    }

    fn scoring(self) -> Scoring {
        Scoring { temperature: self.it.config.sampling.temperature.get(), cut: self.it.cut(self.setting) }
    }

    /// G completions a prompt; `purpose` names the random stream.
    fn draw(self, prompts: &Prompts, blocks: &Blocks, purpose: &str) -> Result<Vec<Rollout>, Error> {
        let (config, n) = (self.it.config, self.it.config.grpo.num_generations.get());
        let sampling = sampled(&config.sampling);
        let how = generation(&config.common(), &self.setting.ground, self.session, sampling, n);
        let (seed, t) = (self.it.seed, self.t);
        let random = |p: usize, s: usize| stream(seed, purpose, t, (p * n + s) as u64);
        behavior::rollouts(self.policy, &prompts.ids, &how, blocks, &random).map_err(failed)
    }

    /// What the verifier says of each completion.
    fn judged(self, prompts: &Prompts, drawn: &[Rollout]) -> Result<Vec<Verdict>, Error> {
        let ground = &self.setting.ground;
        let of = |r: &Rollout| {
            let prompt = &ground.data.train_prompts[prompts.indices[r.prompt]];
            self.setting.verify.verdict(prompt, &answer(Trim::None, ground, r).text)
        };
        drawn.iter().map(of).collect()
    }

    /// The whole policy's mean reward on the first few prompts, where blocks are left out.
    fn target_reward(self, prompts: &Prompts, blocks: &Blocks) -> Result<Option<f64>, Error> {
        let few = prompts.first(self.it.config.evaluation.target_prompts);
        if few.ids.is_empty() || blocks.skipped.is_empty() {
            return Ok(None);
        }
        let whole = Blocks { skipped: Vec::new(), kept: (0..self.setting.n_blocks()).collect() };
        let drawn = self.draw(&few, &whole, "rollout/target")?;
        let rewards: Vec<f64> = self.judged(&few, &drawn)?.iter().map(|v| v.reward).collect();
        Ok(Some(mean(&rewards)))
    }
}

/// Advantages of the groups, and what their rewards were like.
fn advantages(
    it: &Loop<'_>,
    verdicts: &[Verdict],
    figures: &mut BTreeMap<String, f64>,
) -> Result<Vec<f64>, Error> {
    let rewards: Vec<f64> = verdicts.iter().map(|v| v.reward).collect();
    let groups = grouped(&rewards, it.config.grpo.num_generations.get())
        .map_err(|e| Error::Failed(format!("rollouts: {e}")))?;
    let all = group_advantages(it.config.grpo.advantage(), &groups);
    let std = all.std.concat();
    figures.insert("reward_std".to_owned(), mean(&std));
    figures.insert("frac_reward_zero_std".to_owned(), all.frac_reward_zero_std());
    figures.insert("n_equal_groups".to_owned(), n_equal_groups(&groups) as f64);
    Ok(all.advantages.concat())
}

/// Rewards and lengths by TRL's names.
fn figures(it: &Loop<'_>, drawn: &[Rollout], verdicts: &[Verdict]) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut put = |key: &str, value: f64| out.insert(key.to_owned(), value);
    let rewards: Vec<f64> = verdicts.iter().map(|v| v.reward).collect();
    put("reward", mean(&rewards));
    put("accuracy", mean(&verdicts.iter().map(|v| f64::from(u8::from(v.correct))).collect::<Vec<_>>()));
    for (i, part) in verdicts.first().map(|v| v.parts.as_slice()).unwrap_or_default().iter().enumerate() {
        let values: Vec<f64> = verdicts.iter().map(|v| v.parts[i].value).collect();
        put(&format!("verifier/{}", part.name), mean(&values));
    }
    let lengths: Vec<f64> = drawn.iter().map(|r| r.tokens.len() as f64).collect();
    let ended: Vec<f64> =
        drawn.iter().zip(&lengths).filter(|(r, _)| r.finish == Finish::Eos).map(|(_, n)| *n).collect();
    let (least, most) = (
        |x: &[f64]| x.iter().copied().fold(f64::INFINITY, f64::min),
        |x: &[f64]| x.iter().copied().fold(0.0, f64::max),
    );
    put("completions/mean_length", mean(&lengths));
    put("completions/min_length", least(&lengths));
    put("completions/max_length", most(&lengths));
    put("completions/clipped_ratio", 1.0 - ended.len() as f64 / drawn.len() as f64);
    // As TRL, 0 where no completion came to its end.
    let none = ended.is_empty();
    put("completions/mean_terminated_length", if none { 0.0 } else { mean(&ended) });
    put("completions/min_terminated_length", if none { 0.0 } else { least(&ended) });
    put("completions/max_terminated_length", most(&ended));
    if it.config.grpo.mask_truncated_completions {
        put("completions/masked", (drawn.len() - ended.len()) as f64);
    }
    out
}

/// The trainer sees the rollouts' own log-probabilities where the whole policy drew them. Anything else is a
/// defect that would spoil the run in silence.
fn same_as_recorded(it: &Loop<'_>, nested: &NestedBatch, step: u64) -> Result<(), Error> {
    let s = &it.config.sampling;
    if !nested.blocks.skipped.is_empty() || s.top_k > 0 || s.top_p.get() < 1.0 {
        return Ok(());
    }
    let apart = nested.log_ratio().iter().flatten().map(|x| x.abs()).fold(0.0, f64::max);
    if apart <= MISMATCH {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "step {}: log-probabilities of a rollout: expected the trainer's within {MISMATCH} nats, found {apart} apart",
        step + 1
    )))
}

/// What rlhf-nested refuses.
pub(super) fn failed(e: impl std::fmt::Display) -> Error {
    Error::Failed(e.to_string())
}
