//! A phase of optimiser steps over a fixed data set, saved as it goes.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Instant;

use burn::module::Module;
use rand::seq::SliceRandom;
use rlhf_core::host::schedule::LrSchedule;
use rlhf_core::rng::stream;
use rlhf_policy::hf;
use rlhf_policy::optim::{AdamW, AdamWConfig, AdamWState, Grads};
use rlhf_policy::weights::{HostTensor, parameters, replaced};

use super::session::{Session, Work};
use crate::error::Error;

/// How a phase goes through its data.
#[derive(Debug, Clone)]
pub struct FitPlan {
    /// The phase's name in `steps.jsonl` and in checkpoints.
    pub phase: String,
    /// Seed of the order of rows.
    pub seed: u64,
    /// Rows of the data set.
    pub n_rows: usize,
    /// Passes.
    pub n_epochs: usize,
    /// Rows a step.
    pub batch_size: NonZeroUsize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course.
    pub schedule: LrSchedule,
    /// Share of the steps that warm up.
    pub warmup_ratio: f64,
    /// Numbers of AdamW.
    pub optim: AdamWConfig,
    /// Steps between checkpoints.
    pub save_steps: NonZeroUsize,
}

impl FitPlan {
    /// Optimiser steps in all.
    pub fn n_steps(&self) -> u64 {
        (self.n_epochs * self.n_rows.div_ceil(self.batch_size.get())) as u64
    }

    fn n_warmup(&self) -> u64 {
        (self.warmup_ratio * self.n_steps() as f64).ceil() as u64
    }

    /// Rows of one step: each epoch has its own order, drawn from (seed, phase, epoch).
    fn rows(&self, step: u64) -> Vec<usize> {
        let per_epoch = self.n_rows.div_ceil(self.batch_size.get()) as u64;
        let mut order: Vec<usize> = (0..self.n_rows).collect();
        order.shuffle(&mut stream(self.seed, &format!("{}/order", self.phase), step / per_epoch, 0));
        let from = (step % per_epoch) as usize * self.batch_size.get();
        order[from..self.n_rows.min(from + self.batch_size.get())].to_vec()
    }
}

/// What one gradient showed: the gradient and the figures to log, `loss` among them.
#[derive(Debug)]
pub struct Shown {
    /// Of the step's rows.
    pub grads: Grads,
    /// Figures by TRL's names.
    pub values: BTreeMap<String, f64>,
}

/// Trains `module` through `plan`; `gradients` gets the module, the step from 0 and its rows.
/// Continues where an earlier process stopped.
///
/// # Errors
/// A loss or gradient that is not finite, the disk, or [`Error::Interrupted`] after saving.
pub fn fit<M: Module>(
    session: &mut Session,
    plan: &FitPlan,
    module: M,
    gradients: &mut dyn FnMut(&M, u64, &[usize]) -> Shown,
) -> Result<M, Error> {
    let n_steps = plan.n_steps();
    let (mut done, mut module, mut optim) = resumed(session, &plan.phase, module, plan.optim)?;
    session.progress.begin(&plan.phase, "step", n_steps);
    session.progress.skip(done);
    while done < n_steps {
        let started = Instant::now();
        let Shown { grads, mut values } = gradients(&module, done, &plan.rows(done));
        let lr = plan.schedule.lr(plan.learning_rate, done, plan.n_warmup(), n_steps);
        let (next, norm) = optim.step(lr, module, grads);
        module = next;
        done += 1;
        values.insert("grad_norm".to_owned(), norm);
        values.insert("learning_rate".to_owned(), lr);
        let times = BTreeMap::from([("step".to_owned(), started.elapsed().as_secs_f64())]);
        session.log(&plan.phase, values, times)?;
        session.progress.advance(1);
        let stop = session.asked_to_stop();
        if stop || (done % plan.save_steps.get() as u64 == 0 && done < n_steps) {
            session.save(&plan.phase, done, &work(&module, &optim)?)?;
        }
        if stop {
            return Err(session.stopped());
        }
    }
    Ok(module)
}

/// `module` and its optimiser as an earlier process left them in `phase`, or as they begin.
///
/// # Errors
/// A checkpoint that does not fit the module.
pub fn resumed<M: Module>(
    session: &mut Session,
    phase: &str,
    module: M,
    config: AdamWConfig,
) -> Result<(u64, M, AdamW), Error> {
    let Some((done, work)) = session.unfinished(phase) else { return Ok((0, module, AdamW::new(config))) };
    let module = replaced(module, &hf::deserialize(&work.model)?)?;
    let mut moments: BTreeMap<String, (Vec<f32>, Vec<f32>)> = BTreeMap::new();
    for (name, tensor) in hf::deserialize(&work.moments)? {
        if let Some(name) = name.strip_prefix("first/") {
            moments.entry(name.to_owned()).or_default().0 = tensor.data;
        } else if let Some(name) = name.strip_prefix("second/") {
            moments.entry(name.to_owned()).or_default().1 = tensor.data;
        }
    }
    let state = AdamWState { n_steps: work.n_optimizer_steps, moments };
    Ok((done, module, AdamW::restored(config, &state, &session.plain)))
}

/// What a checkpoint holds of a module and its optimiser.
///
/// # Errors
/// Parameters that cannot be serialised.
pub fn work<M: Module>(module: &M, optim: &AdamW) -> Result<Work, Error> {
    let state = optim.state();
    let mut moments = BTreeMap::new();
    for (name, (first, second)) in state.moments {
        moments.insert(format!("first/{name}"), HostTensor { shape: vec![first.len()], data: first });
        moments.insert(format!("second/{name}"), HostTensor { shape: vec![second.len()], data: second });
    }
    Ok(Work {
        model: hf::serialize(&parameters(module))?,
        moments: hf::serialize(&moments)?,
        n_optimizer_steps: state.n_steps,
    })
}
