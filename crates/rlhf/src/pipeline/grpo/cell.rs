//! One cell of the sweep: the loop of one variant with one seed.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::module::Module;
use rand::seq::SliceRandom;
use rlhf_core::rng::stream;
use rlhf_nested::schedule::LayerSchedule;
use rlhf_nested::step::RolloutCorrection;
use rlhf_policy::completion::{Cut, TokenMetrics};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::group::{self, GrpoStep, grpo_gradients};
use rlhf_policy::optim::AdamW;

use super::Setting;
use super::measure::{Evaluation, Sums, evaluate};
use super::rollouts::{Batch, Round, failed};
use crate::config::{GrpoPipeline, GrpoVariant};
use crate::error::Error;
use crate::pipeline::fit::{resumed, work};
use crate::pipeline::ground::Start;
use crate::pipeline::models;
use crate::pipeline::session::Session;
use crate::pipeline::sweep::{Cell, is_due, log_evaluation, numbers};

/// A cell with what it is made of.
pub(super) struct Loop<'a> {
    pub(super) config: &'a GrpoPipeline,
    pub(super) cell: &'a Cell,
    pub(super) variant: &'a GrpoVariant,
    pub(super) schedule: Box<dyn LayerSchedule>,
    /// Of its random streams.
    pub(super) seed: u64,
}

/// Runs a cell, or what is left of it. What is saved is the policy between two rollout batches: a batch that was
/// begun is done again, from the same random numbers.
///
/// # Errors
/// A verifier that fails, a number that is not finite, the disk, an interrupt.
pub(super) fn run(
    config: &GrpoPipeline,
    cell: &Cell,
    setting: &Setting,
    start: &Start,
    session: &mut Session,
) -> Result<(), Error> {
    let phase = cell.phase();
    if session.finished(&phase).is_some() {
        return Ok(());
    }
    let (n_batches, every) =
        (config.grpo.n_batches.get() as u64, config.checkpoint.save_batches.get() as u64);
    let (seed, variant) = (config.seed.wrapping_add(cell.seed), &config.variants[cell.variant]);
    let schedule = variant.schedule.build(setting.n_blocks(), seed).map_err(failed)?;
    let it = Loop { config, cell, variant, schedule, seed };
    let optim = config.adam.with(config.grpo.weight_decay, config.grpo.max_grad_norm);
    let (mut done, mut policy, mut optim) = resumed(session, &phase, start.policy.clone(), optim)?;
    session.progress.begin(&format!("{}, seed {}", cell.name, cell.seed), "batch", n_batches);
    session.progress.skip(done);
    if done == 0 {
        it.begin(setting, session)?;
    }
    while done < n_batches {
        policy = it.batch(setting, session, policy, &mut optim, done)?;
        done += 1;
        it.measure(setting, session, &policy, done)?;
        session.progress.advance(1);
        let stop = session.asked_to_stop();
        if stop || (done.is_multiple_of(every) && done < n_batches) {
            session.save(&phase, done, &work(&policy, &optim)?)?;
        }
        if stop {
            return Err(session.stopped());
        }
    }
    let left = if cell.is_main() { models::bytes_of(&policy)? } else { Vec::new() };
    session.finish_phase(&phase, Some(left))
}

impl Loop<'_> {
    /// Where the sums over batches since the last evaluation are kept.
    fn sums(&self) -> String {
        format!("sums/{}", self.cell.phase())
    }

    /// The start policy's evaluation, which the variants of a seed share.
    fn begin(&self, setting: &Setting, session: &mut Session) -> Result<(), Error> {
        let key = format!("start/{}", self.cell.seed);
        if session.get::<Evaluation>(&key)?.is_none() {
            let started = Instant::now();
            let begun = evaluate(self, setting, session, &setting.ground.prior, 0)?;
            log_evaluation(
                session,
                &format!("grpo/start/seed={}/eval", self.cell.seed),
                &begun.figures.values,
                ("batch", begun.batch),
                started,
            )?;
            session.put(&key, &begun)?;
        }
        session.put(&self.cell.key(), &Vec::<Evaluation>::new())?;
        session.put(&self.sums(), &Sums::default())
    }

    /// Leave blocks out, sample, verify, update.
    fn batch(
        &self,
        setting: &Setting,
        session: &mut Session,
        mut policy: Decoder,
        optim: &mut AdamW,
        t: u64,
    ) -> Result<Decoder, Error> {
        let round = Round { it: self, setting, session, policy: &policy.valid(), t };
        let (new, mut times) = round.batch()?;
        let mut sums: Sums = session.get(&self.sums())?.unwrap_or_default();
        sums.add(&new.figures);
        session.put(&self.sums(), &sums)?;
        let g = &self.config.grpo;
        let mut update = t * g.updates() as u64;
        for pass in 0..g.num_iterations.get() as u64 {
            for rows in self.windows(new.len(), t, pass) {
                let started = Instant::now();
                let (next, mut values) = self.update(setting, policy, optim, &new, &rows, update)?;
                policy = next;
                update += 1;
                values.extend(new.figures.iter().map(|(k, v)| (k.clone(), *v)));
                values.insert("batch".to_owned(), (t + 1) as f64);
                times.insert("update".to_owned(), started.elapsed().as_secs_f64());
                session.log(&self.cell.phase(), values, std::mem::take(&mut times))?;
            }
        }
        Ok(policy)
    }

    /// The completions of each optimiser step of a pass; in an order of its own where there are several steps.
    fn windows(&self, n: usize, t: u64, pass: u64) -> Vec<Vec<usize>> {
        let steps = self.config.grpo.steps_per_generation.get();
        let mut order: Vec<usize> = (0..n).collect();
        if steps > 1 {
            order.shuffle(&mut stream(self.seed, "grpo/order", t, pass));
        }
        order.chunks(n.div_ceil(steps)).map(<[usize]>::to_vec).collect()
    }

    /// One optimiser step; none where every completion of the window is masked.
    fn update(
        &self,
        setting: &Setting,
        policy: Decoder,
        optim: &mut AdamW,
        new: &Batch,
        rows: &[usize],
        step: u64,
    ) -> Result<(Decoder, BTreeMap<String, f64>), Error> {
        let g = &self.config.grpo;
        let n_updates = g.updates() as u64;
        let lr = g.lr_scheduler_type.lr(
            g.learning_rate.get(),
            step,
            g.warmup_steps as u64,
            n_updates * g.n_batches.get() as u64,
        );
        // Before the batch's first step the policy is the one that scored it.
        let on_policy = n_updates == 1 && self.variant.correction != RolloutCorrection::BaseClip;
        let window: Vec<group::Rollout<'_>> = rows.iter().map(|i| new.rollout(*i, on_policy)).collect();
        if window.iter().all(|r| r.sequence.n_targets() == 0) {
            let values = [("learning_rate", lr), ("skipped_updates", 1.0)];
            return Ok((policy, values.map(|(k, v)| (k.to_owned(), v)).into()));
        }
        let how = GrpoStep {
            loss: g.loss(),
            normaliser: g.normaliser(),
            max_completion_length: self.config.sampling.max_completion_length.get(),
            temperature: self.config.sampling.temperature.get(),
        };
        let (grads, record) = grpo_gradients(&policy, &window, &how, &self.cut(setting))
            .map_err(|e| Error::Failed(format!("grpo: {e}")))?;
        let mut values = numbers(&record)?;
        let (policy, norm) = optim.step(lr, policy, grads);
        values.insert("grad_norm".to_owned(), norm);
        values.insert("learning_rate".to_owned(), lr);
        Ok((policy, values))
    }

    /// How windows are cut and padded.
    pub(super) fn cut(&self, setting: &Setting) -> Cut {
        Cut {
            micro_batch: self.config.grpo.micro_batch_size.get(),
            pad: setting.ground.tokenizer.pad(),
            metrics: TokenMetrics::On,
        }
    }

    /// Evaluates where that is due, and keeps what it showed beside the rollouts since the last time.
    fn measure(
        &self,
        setting: &Setting,
        session: &mut Session,
        policy: &Decoder,
        done: u64,
    ) -> Result<(), Error> {
        let last = self.config.grpo.n_batches.get() as u64;
        if !is_due(done, self.config.evaluation.eval_batches, last) {
            return Ok(());
        }
        let started = Instant::now();
        let mut shown = evaluate(self, setting, session, &policy.valid(), done)?;
        let sums: Sums = session.get(&self.sums())?.unwrap_or_default();
        shown.rollouts.values = sums.means();
        session.put(&self.sums(), &Sums::default())?;
        log_evaluation(
            session,
            &format!("{}/eval", self.cell.phase()),
            &shown.figures.values,
            ("batch", shown.batch),
            started,
        )?;
        let mut all: Vec<Evaluation> = session.get(&self.cell.key())?.unwrap_or_default();
        all.push(shown);
        session.put(&self.cell.key(), &all)
    }
}
