//! `GRPOTrainer` and `RLOOTrainer`: groups of recorded completions under the reward of the script
//! that made the files, which is the share of even tokens less a hundredth a token.
//!
//! A generation serves `num_iterations` optimiser steps. Its log-probabilities, rewards and
//! advantages are our own.

use std::collections::BTreeMap;

use burn::module::Module;
use rlhf_core::host::advantage::{GroupAdvantages, group_advantages};
use rlhf_core::host::kl::k1;
use rlhf_core::host::reinforce::{RlooAdvantageConfig, rloo_advantages};
use rlhf_core::host::whiten::{Moments, Spread};
use rlhf_core::loss::grpo::GrpoConfig;
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::number::Weight;
use rlhf_core::preset::{GrpoRecipe, trl};
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Cut, logps};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::group::{GroupRecord, GrpoStep, RlooStep, Rollout, grpo_gradients, rloo_gradients};
use rlhf_policy::optim::Grads;
use serde_json::{Value, json};

use super::super::compare::Computed;
use super::settings::Settings;
use super::text::{Side, averages, numbers, ones, padded, place, recorded};
use super::{Micro, Run, Shown, Window, text_of, train};

/// What both trainers have.
struct Group {
    num_generations: usize,
    num_iterations: usize,
    max_completion_length: usize,
    temperature: f64,
    beta: Weight,
    clip: PpoClipConfig,
}

impl Group {
    fn read(settings: &mut Settings) -> Result<Self, String> {
        let epsilon = settings.checked("epsilon", Weight::new)?;
        let mut clip = PpoClipConfig::new(epsilon);
        if settings.has("epsilon_high") {
            clip.epsilon_high = settings.checked("epsilon_high", Weight::new)?;
        }
        settings.fixed(&[
            ("disable_dropout", json!(false)),
            ("top_p", json!(1.0)),
            ("top_k", json!(0)),
            ("repetition_penalty", json!(1.0)),
            ("use_vllm", json!(false)),
            ("mask_truncated_completions", json!(false)),
            ("sync_ref_model", json!(false)),
            ("normalize_advantages", json!(false)),
            ("steps_per_generation", json!(settings.accumulation)),
            ("generation_batch_size", json!(settings.accumulation * settings.micro_batch)),
        ])?;
        settings.ignored(&["ref_model_mixup_alpha", "ref_model_sync_steps"]);
        Ok(Self {
            num_generations: settings.count("num_generations")?,
            num_iterations: settings.count("num_iterations")?,
            max_completion_length: settings.count("max_completion_length")?,
            temperature: settings.number("temperature")?,
            beta: settings.checked("beta", Weight::new)?,
            clip,
        })
    }
}

/// Completions of some prompts, and what was found of them when they were drawn.
struct Generation {
    prompts: Vec<usize>,
    sequences: Vec<Sequence>,
    completions: Vec<Vec<u32>>,
    old: Vec<Vec<f64>>,
    reference: Option<Vec<Vec<f64>>>,
    advantages: Vec<f64>,
    metrics: BTreeMap<String, f64>,
}

/// How rewards by group and KLs by group become advantages.
type Advantages<'a> = dyn Fn(&[Vec<f64>], &[Vec<f64>]) -> GroupAdvantages + 'a;

/// What draws log-probabilities and advantages.
struct Judge<'a> {
    reference: Option<&'a Decoder>,
    group: &'a Group,
    cut: Cut,
    advantages: &'a Advantages<'a>,
}

/// What the files' own rounding comes to where a sampled token is the padding token: its embedding is
/// 0, and the norm of next to nothing multiplies rounding by 1/√ε = 316. The same runs in PyTorch in
/// f64 are up to 1.3e-4 from the file in a completion's log-probability, 1.2e-4 in a gradient norm and
/// 3.7e-4 in a sum of parameters, and in f32 on another machine up to 7.7e-4 in such a sum.
const ROUNDING: Rounding = Rounding { logp: 1e-4, norm: 1e-4, parameters: 9e-4 };

/// What is allowed beyond the bar of other runs.
struct Rounding {
    logp: f64,
    norm: f64,
    parameters: f64,
}

/// Allows for [`ROUNDING`].
fn rounded(mut computed: Computed, run: &Run<'_>, settings: &Settings) -> Computed {
    computed.allow("grad_norms_before_clip", &[ROUNDING.norm]);
    for step in 0..settings.n_steps {
        computed.allow(&format!("logs.{step}.grad_norm"), &[ROUNDING.norm]);
        for name in ["old_logps", "old_per_token_logps"] {
            computed.allow(&format!("micro_batches.{step}.inputs.{name}"), &[ROUNDING.logp]);
        }
    }
    let parameters = run.case.part("final_parameters").as_object().into_iter().flatten();
    for (name, _) in parameters {
        computed.allow(&format!("final_parameters.{name}.sum"), &[ROUNDING.parameters]);
    }
    computed
}

/// The script's reward.
fn reward(completion: &[u32]) -> f64 {
    let even = completion.iter().filter(|t| t.is_multiple_of(2)).count();
    even as f64 / completion.len() as f64 - 0.01 * completion.len() as f64
}

impl Judge<'_> {
    fn generation(
        &self,
        prompts: &[Vec<u32>],
        policy: &Decoder,
        window: &Window<'_>,
    ) -> Result<Generation, String> {
        let (mut places, mut sequences, mut completions) = (Vec::new(), Vec::new(), Vec::new());
        for inputs in &window.inputs {
            for tokens in recorded(inputs, "prompt_ids", "prompt_mask")? {
                places.push(place(prompts, |p| *p == tokens)?);
            }
            completions.extend(recorded(inputs, "completion_ids", "completion_mask")?);
        }
        for (prompt, completion) in places.iter().zip(&completions) {
            sequences.push(Sequence::new(&prompts[*prompt], completion));
        }
        let rows: Vec<&Sequence> = sequences.iter().collect();
        let of = |model: &Decoder| logps(model, &rows, self.group.temperature, &self.cut);
        let (old, reference) = (of(&policy.valid()), self.reference.map(of));
        let members = self.members(&places)?;
        let rewards: Vec<f64> = completions.iter().map(|c| reward(c)).collect();
        let kl: Vec<f64> = match &reference {
            Some(reference) => old.iter().zip(reference).map(|(p, q)| k1_sum(p, q)).collect(),
            None => vec![0.0; rewards.len()],
        };
        let by_group =
            |x: &[f64]| members.iter().map(|m| m.iter().map(|i| x[*i]).collect()).collect::<Vec<Vec<f64>>>();
        let found = (self.advantages)(&by_group(&rewards), &by_group(&kl));
        let mut advantages = vec![0.0; rewards.len()];
        for (i, a) in members.concat().into_iter().zip(found.advantages.concat()) {
            advantages[i] = a;
        }
        let n_tokens = completions.concat().len() as f64;
        let mut metrics = reward_metrics(&rewards, found.frac_reward_zero_std());
        metrics.insert("kl".to_owned(), kl.iter().sum::<f64>() / n_tokens);
        metrics.insert("num_tokens".to_owned(), sequences.iter().map(|s| s.tokens.len() as f64).sum());
        Ok(Generation { prompts: places, sequences, completions, old, reference, advantages, metrics })
    }

    /// The rows of each group, in the order in which the groups appear: TRL shuffles rows.
    fn members(&self, prompts: &[usize]) -> Result<Vec<Vec<usize>>, String> {
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            match groups.iter_mut().find(|(of, _)| of == prompt) {
                Some((_, rows)) => rows.push(i),
                None => groups.push((*prompt, vec![i])),
            }
        }
        let n = self.group.num_generations;
        match groups.iter().find(|(_, rows)| rows.len() != n) {
            Some((_, rows)) => Err(format!("expected {n} completions of a prompt, found {}", rows.len())),
            None => Ok(groups.into_iter().map(|(_, rows)| rows).collect()),
        }
    }
}

fn k1_sum(policy: &[f64], reference: &[f64]) -> f64 {
    policy.iter().zip(reference).map(|(p, q)| k1(*p, *q)).sum()
}

fn reward_metrics(rewards: &[f64], frac_reward_zero_std: f64) -> BTreeMap<String, f64> {
    let moments = Moments::of(rewards.iter().copied());
    let std = moments.variance(Spread::Unbiased).sqrt();
    BTreeMap::from([
        ("reward".to_owned(), moments.mean),
        ("reward_std".to_owned(), std),
        ("rewards/reward_fn/mean".to_owned(), moments.mean),
        ("rewards/reward_fn/std".to_owned(), std),
        ("frac_reward_zero_std".to_owned(), frac_reward_zero_std),
    ])
}

impl Generation {
    fn rollouts(&self, loss_has_kl: bool) -> Vec<Rollout<'_>> {
        let reference = self.reference.as_ref().filter(|_| loss_has_kl);
        let rollout = |i: usize| Rollout {
            sequence: &self.sequences[i],
            old_logp: Some(&self.old[i]),
            reference_logp: reference.map(|r| r[i].as_slice()),
            weight: None,
            advantage: self.advantages[i],
        };
        (0..self.sequences.len()).map(rollout).collect()
    }

    /// Our tensors of the `i`-th of the window's micro-batches, each of `n` rows. Prompts are padded
    /// for the whole generation.
    fn inputs(&self, i: usize, n: usize, prompts: &[Vec<u32>], pad: u32) -> BTreeMap<&'static str, Vec<f64>> {
        let (mine, pad) = (i * n..(i + 1) * n, f64::from(pad));
        let prompt: Vec<Vec<f64>> = self.prompts.iter().map(|p| numbers(&prompts[*p])).collect();
        let completion: Vec<Vec<f64>> = self.completions.iter().map(|c| numbers(c)).collect();
        let part = |table: Vec<f64>| {
            let width = table.len() / self.sequences.len();
            table[mine.start * width..mine.end * width].to_vec()
        };
        let on = |rows: &[Vec<f64>]| rows.iter().map(|row| ones(row.len())).collect::<Vec<_>>();
        let sums = self.old.iter().map(|row| row.iter().sum()).collect();
        let mut inputs = BTreeMap::from([
            ("prompt_ids", part(padded(&prompt, pad, Side::Left))),
            ("prompt_mask", part(padded(&on(&prompt), 0.0, Side::Left))),
            ("completion_ids", part(padded(&completion, pad, Side::Right))),
            ("completion_mask", part(padded(&on(&completion), 0.0, Side::Right))),
            ("old_logps", part(sums)),
            ("old_per_token_logps", part(padded(&self.old, 0.0, Side::Right))),
            ("advantages", part(self.advantages.clone())),
            ("num_items_in_batch", vec![self.completions.concat().len() as f64]),
        ]);
        if let Some(reference) = &self.reference {
            inputs.insert("ref_per_token_logps", part(padded(reference, 0.0, Side::Right)));
        }
        inputs
    }
}

/// From rollouts to their window's gradient.
type Gradients<'a> = dyn Fn(&Decoder, &[Rollout<'_>]) -> Result<(Grads, GroupRecord), String> + 'a;

/// Trains with `gradients` of rollouts.
fn run_group(
    run: &Run<'_>,
    settings: &Settings,
    judge: &Judge<'_>,
    loss_has_kl: bool,
    gradients: &Gradients<'_>,
) -> Result<Computed, String> {
    let prompts = run.rows(|row: &Value| run.tokens(row, "prompt"))?;
    let mut drawn: Option<Generation> = None;
    train(run, settings, run.policy()?, &mut |policy, window| {
        let is_new = window.step.is_multiple_of(judge.group.num_iterations);
        if is_new {
            drawn = Some(judge.generation(&prompts, policy, window)?);
        }
        let Some(generation) = &drawn else { return Err("expected a generation first".to_owned()) };
        let rollouts = generation.rollouts(loss_has_kl);
        let (grads, record) = gradients(policy, &rollouts)?;
        let (mut micro, mut of_each) = (Vec::new(), Vec::new());
        for (i, part) in rollouts.chunks(settings.micro_batch).enumerate() {
            // TRL logs the mean over the micro-batches of what each showed.
            let alone = if part.len() < rollouts.len() { gradients(policy, part)?.1 } else { record };
            let inputs = generation.inputs(i, settings.micro_batch, &prompts, judge.cut.pad);
            micro.push(Micro::new(alone.loss / settings.accumulation as f64, inputs));
            of_each.push(logged(&alone));
        }
        let mut metrics = averages(&of_each);
        if is_new {
            metrics.extend(generation.metrics.clone());
        }
        if let Some(kl) = record.kl {
            metrics.insert("kl".to_owned(), kl);
        }
        Ok(Shown { grads, loss: record.loss, metrics, micro })
    })
}

/// What TRL logs of a micro-batch.
fn logged(record: &GroupRecord) -> Vec<(&'static str, f64)> {
    vec![
        ("entropy", record.entropy.unwrap_or(f64::NAN)),
        ("clip_ratio/low_mean", record.clip_low_mean),
        ("clip_ratio/low_min", record.clip_low_min),
        ("clip_ratio/high_mean", record.clip_high_mean),
        ("clip_ratio/high_max", record.clip_high_max),
        ("clip_ratio/region_mean", record.clip_region_mean),
    ]
}

pub(super) fn grpo(run: &Run<'_>, mut settings: Settings) -> Result<Computed, String> {
    let group = Group::read(&mut settings)?;
    let recipe = match settings.take("loss_type")?.as_str() {
        Some("grpo") => trl::grpo_sequence_mean(),
        Some("dapo") => trl::grpo(),
        other => return Err(format!("loss_type: expected grpo or dapo, found {other:?}")),
    };
    settings.fixed(&[
        ("cast_lm_head_to_fp32", json!(false)),
        ("importance_sampling_level", json!("token")),
        ("multi_objective_aggregation", json!("sum_then_normalize")),
        ("scale_rewards", json!("group")),
        ("top_entropy_quantile", json!(1.0)),
        ("entropy_coef", json!(0.0)),
        ("use_adaptive_entropy", json!(false)),
        ("use_bias_correction_kl", json!(true)),
    ])?;
    settings.ignored(&["entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"]);
    settings.done()?;
    let GrpoRecipe { advantage, loss, normaliser, .. } = recipe;
    let step = GrpoStep {
        loss: GrpoConfig { clip: group.clip, beta: group.beta, ..loss }.into(),
        normaliser,
        max_completion_length: group.max_completion_length,
        temperature: group.temperature,
    };
    let cut = run.cut(&settings);
    let reference = run.reference()?;
    let has_kl = group.beta.get() > 0.0;
    let judge = Judge {
        reference: Some(&reference).filter(|_| has_kl),
        group: &group,
        cut,
        advantages: &|rewards, _| group_advantages(advantage, rewards),
    };
    let computed = run_group(run, &settings, &judge, has_kl, &|policy, rollouts| {
        grpo_gradients(policy, rollouts, &step, &cut).map_err(text_of)
    })?;
    Ok(if run.case.name() == "grpo_dapo" { rounded(computed, run, &settings) } else { computed })
}

pub(super) fn rloo(run: &Run<'_>, mut settings: Settings) -> Result<Computed, String> {
    let group = Group::read(&mut settings)?;
    settings.done()?;
    let recipe = trl::rloo();
    let advantage = RlooAdvantageConfig { beta: group.beta, ..recipe.advantage };
    let step = RlooStep { clip: group.clip, temperature: group.temperature };
    let cut = run.cut(&settings);
    let reference = run.reference()?;
    let judge = Judge {
        reference: Some(&reference),
        group: &group,
        cut,
        advantages: &|rewards, kl| rloo_advantages(advantage, rewards, kl),
    };
    let computed = run_group(run, &settings, &judge, false, &|policy, rollouts| {
        Ok(rloo_gradients(policy, rollouts, &step, &cut))
    })?;
    Ok(rounded(computed, run, &settings))
}
