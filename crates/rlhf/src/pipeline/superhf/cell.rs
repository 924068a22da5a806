//! One cell of the sweep: the SuperHF loop at one β, one N, one seed.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::module::Module;
use rlhf_core::number::Weight;
use rlhf_core::rng::stream;
use rlhf_policy::batch::{Batch, Sequence};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Rollout, generate};
use rlhf_policy::optim::AdamW;
use rlhf_policy::sft::token_losses;
use rlhf_policy::superhf::{MinibatchRecord, gradients, keep_best};
use rlhf_reward::shape::length_penalty;
use serde::{Deserialize, Serialize};

use super::Setting;
use super::evaluate::{Evaluation, evaluate, score};
use crate::config::SuperhfPipeline;
use crate::error::Error;
use crate::pipeline::fit::{resumed, work};
use crate::pipeline::ground::{Answer, Start, answer, generation, in_turn, sampled};
use crate::pipeline::models;
use crate::pipeline::session::Session;
use crate::pipeline::sweep::is_due;

/// Largest difference between a rollout's recorded log-probability and the trainer's, in nats, and
/// largest KL or |ratio − 1| before the first step: rounding of `f32`, nothing else.
const STEP_ZERO: f64 = 1e-3;

/// One variant of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// β.
    pub beta: f64,
    /// N.
    pub n: usize,
    /// Which repetition.
    pub seed: u64,
}

impl Cell {
    /// Every cell of the sweep, the main one (β and N of `[superhf]`, first seed) first.
    pub fn all(config: &SuperhfPipeline) -> Vec<Self> {
        let (beta, n) = (config.superhf.beta.get(), config.superhf.num_generations.get());
        let mut variants = vec![(beta, n)];
        variants.extend(config.sweep.beta.iter().map(|b| (b.get(), n)));
        variants.extend(config.sweep.num_generations.iter().map(|n| (beta, n.get())));
        let mut kept: Vec<(f64, usize)> = Vec::new();
        for (beta, n) in variants {
            if !kept.iter().any(|(b, m)| b.to_bits() == beta.to_bits() && *m == n) {
                kept.push((beta, n));
            }
        }
        let seeds = config.sweep.seeds.get() as u64;
        (0..seeds)
            .flat_map(|seed| kept.iter().map(move |(beta, n)| Self { beta: *beta, n: *n, seed }))
            .collect()
    }

    /// The cell's name in `steps.jsonl`.
    pub fn phase(&self) -> String {
        format!("superhf/beta={}/n={}/seed={}", self.beta, self.n, self.seed)
    }

    /// Where the cell's evaluations are kept.
    pub fn key(&self) -> String {
        format!("cell/{}", self.phase())
    }

    fn is_main(&self, config: &SuperhfPipeline) -> bool {
        self.seed == 0
            && self.n == config.superhf.num_generations.get()
            && self.beta.to_bits() == config.superhf.beta.get().to_bits()
    }
}

/// Runs a cell, or what is left of it.
///
/// # Errors
/// A step-0 check that fails, a number that is not finite, the disk, an interrupt after saving.
pub(super) fn run(
    config: &SuperhfPipeline,
    cell: &Cell,
    setting: &mut Setting,
    start: &Start,
    session: &mut Session,
) -> Result<(), Error> {
    let phase = cell.phase();
    let n_rounds = config.superhf.n_rounds.get() as u64;
    let done: Vec<Evaluation> = session.get(&cell.key())?.unwrap_or_default();
    if done.last().is_some_and(|e| e.round == n_rounds) && session.finished(&phase).is_some() {
        return Ok(());
    }
    let optim = config.adam.with(config.superhf.weight_decay, config.superhf.max_grad_norm);
    let (mut round, mut policy, mut optim) = resumed(session, &phase, start.policy.clone(), optim)?;
    session.progress.begin(
        &format!("SuperHF β={} N={} seed {}", cell.beta, cell.n, cell.seed),
        "round",
        n_rounds,
    );
    session.progress.skip(round);
    while round < n_rounds {
        policy = one_round(config, cell, setting, session, policy, &mut optim, round)?;
        round += 1;
        session.progress.advance(1);
        let stop = session.asked_to_stop();
        let due = round.is_multiple_of(config.checkpoint.save_rounds.get() as u64);
        if round < n_rounds && (stop || due) {
            session.save(&phase, round, &work(&policy, &optim)?)?;
        }
        if stop && round < n_rounds {
            return Err(session.stopped());
        }
    }
    let left = if cell.is_main(config) { models::bytes_of(&policy)? } else { Vec::new() };
    session.finish_phase(&phase, Some(left))
}

/// Sample, trim, score, keep, fine-tune, measure.
fn one_round(
    config: &SuperhfPipeline,
    cell: &Cell,
    setting: &mut Setting,
    session: &mut Session,
    policy: Decoder,
    optim: &mut AdamW,
    round: u64,
) -> Result<Decoder, Error> {
    let seed = config.seed.wrapping_add(cell.seed);
    let mut record = BTreeMap::new();
    let mut times = BTreeMap::new();
    // rollouts
    let started = Instant::now();
    let n = setting.ground.train_prompts.len();
    let chosen = in_turn(n, config.superhf.prompts_per_round.get(), seed, "superhf/prompts", round);
    let ids: Vec<Vec<u32>> = chosen.iter().map(|p| setting.ground.train_prompts[*p].clone()).collect();
    let how = generation(&config.common(), &setting.ground, session, sampled(&config.sampling), cell.n);
    let random = |p: usize, s: usize| stream(seed, "rollout", round, (chosen[p] as u64) << 32 | s as u64);
    let rollouts = generate(&policy.valid(), &ids, &how, &random, &session.plain)
        .map_err(|e| Error::Failed(format!("step {}: rollout: {e}", session.step() + 1)))?;
    times.insert("rollout".to_owned(), started.elapsed().as_secs_f64());
    if round == 0 {
        step_zero(setting, &policy, &ids, &rollouts)?;
    }
    // rewards
    let started = Instant::now();
    let prompts: Vec<String> = chosen.iter().map(|p| setting.ground.data.train_prompts[*p].clone()).collect();
    let answers: Vec<Answer> =
        rollouts.iter().map(|r| answer(config.superhf.trim, &setting.ground, r)).collect();
    let scores = rewards(config, setting, &prompts, &ids, &answers, session.step() + 1)?;
    let kept = select(config, cell.n, &answers, &scores);
    times.insert("score".to_owned(), started.elapsed().as_secs_f64());
    describe(&mut record, &rollouts, &answers, &scores, &kept);
    // loss, step
    let started = Instant::now();
    let s = &config.superhf;
    let (kind, warmup, total) = (s.lr_scheduler_type, s.warmup_rounds as u64, s.n_rounds.get() as u64);
    let lr = kind.lr(s.learning_rate.get(), round, warmup, total);
    let policy = update(config, cell, setting, policy, optim, lr, &ids, &answers, &kept, &mut record)?;
    record.insert("learning_rate".to_owned(), lr);
    times.insert("update".to_owned(), started.elapsed().as_secs_f64());
    // evaluation
    let done = round + 1;
    if is_due(done, config.evaluation.eval_rounds, total) {
        let started = Instant::now();
        let shown = evaluate(config, setting, session, &policy.valid(), seed, done)?;
        for (key, value) in &shown.figures.values {
            record.insert(format!("eval/{key}"), *value);
        }
        times.insert("evaluation".to_owned(), started.elapsed().as_secs_f64());
        let mut all: Vec<Evaluation> = session.get(&cell.key())?.unwrap_or_default();
        all.retain(|e| e.round < done);
        all.push(shown);
        session.put(&cell.key(), &all)?;
    }
    session.log(&cell.phase(), record, times)?;
    Ok(policy)
}

/// Proxy scores, shaped by length where that is asked for; empty answers score −∞ and are never
/// kept.
fn rewards(
    config: &SuperhfPipeline,
    setting: &mut Setting,
    prompts: &[String],
    ids: &[Vec<u32>],
    answers: &[Answer],
    step: u64,
) -> Result<Vec<f64>, Error> {
    let Some(proxy) = &mut setting.proxy else {
        return Err(Error::Failed("proxy reward: expected a trained one, found none".to_owned()));
    };
    let scores = score(proxy, prompts, ids, answers).map_err(|e| match e {
        Error::Failed(what) => Error::Failed(format!("step {step}: {what}")),
        other => other,
    })?;
    let shaped = scores.iter().zip(answers).map(|(s, a)| {
        let n = a.text.trim().chars().count();
        if n == 0 { f64::NEG_INFINITY } else { length_penalty(*s, n, config.superhf.length_penalty) }
    });
    Ok(shaped.collect())
}

/// Places of the kept answers, prompt by prompt, best first.
fn select(config: &SuperhfPipeline, n: usize, answers: &[Answer], scores: &[f64]) -> Vec<usize> {
    let keep = config.superhf.keep.get();
    let groups = answers.chunks(n).zip(scores.chunks(n)).enumerate();
    groups
        .flat_map(|(g, (answers, scores))| {
            let texts: Vec<&str> = answers.iter().map(|a| a.text.as_str()).collect();
            keep_best(&texts, scores, keep).into_iter().map(move |i| g * n + i)
        })
        .collect()
}

fn describe(
    record: &mut BTreeMap<String, f64>,
    rollouts: &[Rollout],
    answers: &[Answer],
    scores: &[f64],
    kept: &[usize],
) {
    let n = answers.len() as f64;
    let finite: Vec<f64> = scores.iter().copied().filter(|s| s.is_finite()).collect();
    let mean = |x: &[f64]| if x.is_empty() { 0.0 } else { x.iter().sum::<f64>() / x.len() as f64 };
    let best: Vec<f64> = kept.iter().map(|i| scores[*i]).collect();
    let mut put = |key: &str, value: f64| record.insert(key.to_owned(), value);
    put("reward", mean(&finite));
    put("reward/kept", mean(&best));
    put("completions/mean_length", rollouts.iter().map(|r| r.tokens.len() as f64).sum::<f64>() / n);
    put("completions/ended", answers.iter().filter(|a| a.ended).count() as f64 / n);
    put("completions/empty", (answers.len() - finite.len()) as f64);
    put("completions/kept", kept.len() as f64);
    put("num_tokens", rollouts.iter().map(|r| r.tokens.len() as f64).sum());
}

/// One optimiser step for each minibatch of kept answers.
#[expect(clippy::too_many_arguments, reason = "one call, and each argument is a stage of the loop above")]
fn update(
    config: &SuperhfPipeline,
    cell: &Cell,
    setting: &Setting,
    mut policy: Decoder,
    optim: &mut AdamW,
    lr: f64,
    prompts: &[Vec<u32>],
    answers: &[Answer],
    kept: &[usize],
    record: &mut BTreeMap<String, f64>,
) -> Result<Decoder, Error> {
    let texts: Vec<Sequence> = kept
        .iter()
        .map(|i| {
            let a = &answers[*i];
            let mut ids = a.ids.clone();
            if config.superhf.append_eos && a.ended {
                ids.push(setting.ground.tokenizer.eos());
            }
            Sequence::new(&prompts[a.prompt], &ids)
        })
        .collect();
    let beta = Weight::new(cell.beta).map_err(|e| Error::Failed(e.to_string()))?;
    let loss = config.superhf.loss(beta);
    let mut all: Vec<MinibatchRecord> = Vec::new();
    let mut norms = 0.0;
    for minibatch in texts.chunks(config.superhf.batch_size.get()) {
        let rows: Vec<&Sequence> = minibatch.iter().collect();
        let (grads, shown) =
            gradients(&policy, &setting.ground.prior, &rows, &loss, setting.ground.tokenizer.pad());
        let (next, norm) = optim.step(lr, policy, grads);
        policy = next;
        norms += norm;
        all.push(shown);
    }
    let n = all.len().max(1) as f64;
    let mean = |f: fn(&MinibatchRecord) -> f64| all.iter().map(f).sum::<f64>() / n;
    record.insert("loss".to_owned(), mean(|r| r.loss));
    record.insert("nll".to_owned(), mean(|r| r.nll));
    record.insert("kl".to_owned(), mean(|r| r.kl));
    record.insert("grad_norm".to_owned(), norms / n);
    Ok(policy)
}

/// Before the first step the policy is the prior, and the trainer sees the rollouts' own
/// log-probabilities. Anything else is a defect that would spoil the run in silence.
fn step_zero(
    setting: &Setting,
    policy: &Decoder,
    prompts: &[Vec<u32>],
    rollouts: &[Rollout],
) -> Result<(), Error> {
    let checked = &rollouts[..rollouts.len().min(32)];
    let rows: Vec<Sequence> = checked.iter().map(|r| Sequence::new(&prompts[r.prompt], &r.tokens)).collect();
    let rows: Vec<&Sequence> = rows.iter().collect();
    let logps = |model: &Decoder| -> Vec<f64> {
        let batch = Batch::new(&rows, setting.ground.tokenizer.pad(), 1, &model.device());
        token_losses(model, &batch).into_data().convert::<f64>().iter::<f64>().map(|x| -x).collect()
    };
    let recorded: Vec<f64> = checked.iter().flat_map(|r| r.policy_logp.iter().copied()).collect();
    agree(&logps(policy), &logps(&setting.ground.prior), &recorded)
}

/// The three comparisons of [`step_zero`] on log-probabilities of the same tokens.
fn agree(trained: &[f64], prior: &[f64], recorded: &[f64]) -> Result<(), Error> {
    if trained.len() != prior.len() || trained.len() != recorded.len() {
        let found = format!("{}, {} and {}", trained.len(), prior.len(), recorded.len());
        return Err(Error::Failed(format!("step 0: expected as many tokens three times, found {found}")));
    }
    let worst = |a: &[f64], b: &[f64], f: fn(f64) -> f64| {
        // `f64::max` passes over NaN; here one that came stays, since nothing is above it.
        a.iter().zip(b).map(|(x, y)| f(x - y)).fold(0.0, |m: f64, x| if x > m || x.is_nan() { x } else { m })
    };
    let checks = [
        ("|log π − log p₀|, the policy against the prior", worst(trained, prior, f64::abs)),
        ("|π / p₀ − 1|, the policy against the prior", worst(trained, prior, |d| (d.exp() - 1.0).abs())),
        ("|Δ log π|, the rollout against the trainer", worst(recorded, trained, f64::abs)),
    ];
    match checks.iter().find(|(_, x)| x.is_nan() || *x > STEP_ZERO) {
        Some((what, x)) => {
            Err(Error::Failed(format!("step 0: {what}: expected at most {STEP_ZERO}, found {x}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(trained: &[f64], prior: &[f64], recorded: &[f64]) -> String {
        agree(trained, prior, recorded).map_or_else(|e| e.to_string(), |()| "agree".to_owned())
    }

    #[test]
    fn step_zero_names_what_parts_and_by_how_much() {
        let logp = [-0.5, -2.0];
        assert_eq!(message(&logp, &logp, &logp), "agree");
        assert_eq!(message(&logp, &[-0.5, -2.0005], &[-0.5005, -2.0]), "agree");
        assert_eq!(
            message(&logp, &[-0.5, -2.25], &logp),
            "step 0: |log π − log p₀|, the policy against the prior: expected at most 0.001, found 0.25"
        );
        assert_eq!(
            message(&logp, &logp, &[-0.5, -1.75]),
            "step 0: |Δ log π|, the rollout against the trainer: expected at most 0.001, found 0.25"
        );
        assert!(message(&logp, &logp, &[f64::NAN, -2.0]).ends_with("found NaN"));
        assert!(message(&[f64::NAN, 0.0], &logp, &logp).ends_with("found NaN"));
        assert_eq!(
            message(&logp, &logp, &[-0.5]),
            "step 0: expected as many tokens three times, found 2, 2 and 1"
        );
    }
}
