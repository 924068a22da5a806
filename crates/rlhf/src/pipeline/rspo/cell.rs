//! One cell of the sweep: the self-play loop of one variant with one seed.

use std::collections::BTreeMap;
use std::time::Instant;

use burn::module::Module;
use rand::seq::SliceRandom;
use rlhf_core::rng::stream;
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Cut, TokenMetrics};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::AdamW;
use rlhf_selfplay::gradients::{forward_samples, gradients};
use rlhf_selfplay::judged::Example;

use super::Setting;
use super::measure::{Evaluation, evaluate};
use super::rollouts::{Material, material, rollout_batches};
use crate::config::{RspoPipeline, Variant};
use crate::error::Error;
use crate::pipeline::fit::{resumed, work};
use crate::pipeline::ground::Start;
use crate::pipeline::models;
use crate::pipeline::session::Session;
use crate::pipeline::sweep::{Cell, is_due, log_evaluation, numbers};

/// A cell with what it is made of.
pub(super) struct Loop<'a> {
    pub(super) config: &'a RspoPipeline,
    pub(super) cell: &'a Cell,
    pub(super) variant: &'a Variant,
    /// Of its random streams.
    pub(super) seed: u64,
}

/// Where an iteration stands: optimiser steps made, and in all.
struct Course {
    done: u64,
    total: u64,
}

/// Runs a cell, or what is left of it. What is saved is the policy between two iterations: an iteration
/// that was begun is done again, from the same random numbers.
///
/// # Errors
/// A preference or a number that is not finite, the disk, an interrupt.
pub(super) fn run(
    config: &RspoPipeline,
    cell: &Cell,
    setting: &mut Setting,
    start: &Start,
    session: &mut Session,
) -> Result<(), Error> {
    let phase = cell.phase();
    if session.finished(&phase).is_some() {
        return Ok(());
    }
    let n_iterations = config.selfplay.n_iterations.get() as u64;
    let seed = config.seed.wrapping_add(cell.seed);
    let it = Loop { config, cell, variant: &config.variants[cell.variant], seed };
    let optim = config.adam.with(config.selfplay.weight_decay, config.selfplay.max_grad_norm);
    let (mut done, mut policy, _) = resumed(session, &phase, start.policy.clone(), optim)?;
    session.progress.begin(&format!("{}, seed {}", cell.name, cell.seed), "iteration", n_iterations);
    session.progress.skip(done);
    if done == 0 {
        let begun = it.start(setting, session, &policy)?;
        session.put(&cell.key(), &vec![begun])?;
    }
    while done < n_iterations {
        // Each iteration has an optimiser of its own.
        policy = it.iteration(setting, session, policy, &mut AdamW::new(optim), done)?;
        done += 1;
        session.progress.advance(1);
        if done < n_iterations {
            session.save(&phase, done, &work(&policy, &AdamW::new(optim))?)?;
            if session.asked_to_stop() {
                return Err(session.stopped());
            }
        }
    }
    let left = if cell.is_main() { models::bytes_of(&policy)? } else { Vec::new() };
    session.finish_phase(&phase, Some(left))
}

impl Loop<'_> {
    /// The start policy's figures, measured and logged once a seed.
    fn start(
        &self,
        setting: &mut Setting,
        session: &mut Session,
        policy: &Decoder,
    ) -> Result<Evaluation, Error> {
        let key = format!("start/seed={}", self.cell.seed);
        if let Some(known) = session.get::<Evaluation>(&key)? {
            return Ok(known);
        }
        let started = Instant::now();
        let shown = evaluate(self.config, setting, session, &policy.valid(), self.seed, 0)?;
        log_evaluation(
            session,
            &format!("rspo/start/seed={}/eval", self.cell.seed),
            &shown.figures.values,
            ("iteration", shown.iteration),
            started,
        )?;
        session.put(&key, &shown)?;
        Ok(shown)
    }

    /// Sample, compare, learn, measure.
    fn iteration(
        &self,
        setting: &mut Setting,
        session: &mut Session,
        mut policy: Decoder,
        optim: &mut AdamW,
        t: u64,
    ) -> Result<Decoder, Error> {
        let batches = rollout_batches(self, setting, t);
        let mut course = Course { done: 0, total: 0 };
        for (i, prompts) in batches.iter().enumerate() {
            let mut times = BTreeMap::new();
            let new = material(self, setting, session, &policy.valid(), prompts, t, &mut times)?;
            if i == 0 {
                course.total = self.n_steps(new.examples.len()) * batches.len() as u64;
            }
            policy = self.epochs(setting, session, policy, optim, &new, &mut course, times, t)?;
        }
        self.measure(setting, session, &policy, t + 1)?;
        Ok(policy)
    }

    /// Optimiser steps over so many examples.
    fn n_steps(&self, n_examples: usize) -> u64 {
        let s = &self.config.selfplay;
        (s.num_train_epochs.get() * n_examples.div_ceil(s.batch_size.get())) as u64
    }

    /// Passes over the examples in orders of their own.
    #[expect(clippy::too_many_arguments, reason = "one call, and each argument is a stage of the loop above")]
    fn epochs(
        &self,
        setting: &Setting,
        session: &mut Session,
        mut policy: Decoder,
        optim: &mut AdamW,
        new: &Material,
        course: &mut Course,
        mut times: BTreeMap<String, f64>,
        t: u64,
    ) -> Result<Decoder, Error> {
        let s = &self.config.selfplay;
        // Rounded down: an iteration may be a single step, which must not be one of warming up.
        let warmup = (s.warmup_ratio.get() * course.total as f64).floor() as u64;
        for _ in 0..s.num_train_epochs.get() {
            let mut order: Vec<usize> = (0..new.examples.len()).collect();
            order.shuffle(&mut stream(self.seed, "rspo/order", t, course.done));
            for rows in order.chunks(s.batch_size.get()) {
                let started = Instant::now();
                let lr = s.lr_scheduler_type.lr(s.learning_rate.get(), course.done, warmup, course.total);
                let window: Vec<&Example> = rows.iter().map(|i| &new.examples[*i]).collect();
                let (next, mut values) = self.step(setting, policy, optim, &window, new, lr)?;
                policy = next;
                course.done += 1;
                values.insert("learning_rate".to_owned(), lr);
                values.insert("iteration".to_owned(), (t + 1) as f64);
                values.extend(new.figures.iter().map(|(k, v)| (k.clone(), *v)));
                times.insert("update".to_owned(), started.elapsed().as_secs_f64());
                session.log(&self.cell.phase(), values, std::mem::take(&mut times))?;
            }
        }
        Ok(policy)
    }

    /// One optimiser step.
    fn step(
        &self,
        setting: &Setting,
        policy: Decoder,
        optim: &mut AdamW,
        window: &[&Example],
        new: &Material,
        lr: f64,
    ) -> Result<(Decoder, BTreeMap<String, f64>), Error> {
        let cut = self.cut(setting);
        let (mut grads, record) = gradients(&policy, window, &self.variant.method, &cut)?;
        let mut values = numbers(&record)?;
        if let Some(term) = self.variant.forward_samples {
            let of_prompts: Vec<&Sequence> =
                window.iter().filter_map(|e| new.prior_samples.get(&e.prompt)).collect();
            let (more, shown) = forward_samples(&policy, &of_prompts, term, &cut);
            grads = grads.plus(more);
            values.extend(numbers(&shown)?);
        }
        let (policy, norm) = optim.step(lr, policy, grads);
        values.insert("grad_norm".to_owned(), norm);
        Ok((policy, values))
    }

    /// How windows are cut and padded.
    pub(super) fn cut(&self, setting: &Setting) -> Cut {
        Cut {
            micro_batch: self.config.selfplay.micro_batch_size.get(),
            pad: setting.ground.tokenizer.pad(),
            metrics: TokenMetrics::Off,
        }
    }

    /// Evaluates where that is due, and keeps what it showed.
    fn measure(
        &self,
        setting: &mut Setting,
        session: &mut Session,
        policy: &Decoder,
        done: u64,
    ) -> Result<(), Error> {
        let last = self.config.selfplay.n_iterations.get() as u64;
        if !is_due(done, self.config.evaluation.eval_iterations, last) {
            return Ok(());
        }
        let started = Instant::now();
        let shown = evaluate(self.config, setting, session, &policy.valid(), self.seed, done)?;
        log_evaluation(
            session,
            &format!("{}/eval", self.cell.phase()),
            &shown.figures.values,
            ("iteration", shown.iteration),
            started,
        )?;
        let mut all: Vec<Evaluation> = session.get(&self.cell.key())?.unwrap_or_default();
        all.retain(|e| e.iteration < done);
        all.push(shown);
        session.put(&self.cell.key(), &all)
    }
}
