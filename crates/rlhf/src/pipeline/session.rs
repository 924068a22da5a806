//! A run in progress: its folder, its devices, and the state that a checkpoint holds.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Start;
use crate::device;
use crate::error::Error;
use crate::run::{Progress, Run, Section, StepRecord, interrupt, interrupted};

/// The unfinished part of a phase: a module's parameters, its optimiser's moments, and how many
/// steps that optimiser made.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// Parameters, as safetensors bytes.
    pub model: Vec<u8>,
    /// Moments, as safetensors bytes.
    pub moments: Vec<u8>,
    /// Optimiser steps made.
    pub n_optimizer_steps: u64,
}

/// Where a run stands: what the JSON section of a checkpoint holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    /// Global step: one line of `steps.jsonl` each.
    step: u64,
    /// The phase in work; empty between phases.
    phase: String,
    /// Units of that phase that are done.
    done: u64,
    /// Optimiser steps behind `work/moments`.
    n_optimizer_steps: u64,
    /// Figures of finished phases, by key.
    results: BTreeMap<String, serde_json::Value>,
}

/// A run in progress.
#[derive(Debug)]
pub struct Session {
    run: Run,
    /// Bars or lines on standard error.
    pub progress: Progress,
    /// Without autodiff.
    pub plain: Device,
    /// With autodiff.
    pub device: Device,
    position: Position,
    work: Option<Work>,
    finished: BTreeMap<String, Vec<u8>>,
}

impl Session {
    /// Opens the run folder, the devices and the thread pool.
    ///
    /// # Errors
    /// A folder that cannot be begun or continued, a device this binary lacks.
    pub fn open(
        out: &Path,
        config: &str,
        start: Start,
        device: &str,
        threads: NonZeroUsize,
    ) -> Result<Self, Error> {
        let plain = device::named(device)?;
        device::threads(threads.get())?;
        interrupt::install()?;
        let progress = Progress::new();
        let (run, checkpoint) = match start {
            Start::Fresh => (Run::create(out, config)?, None),
            Start::Resume => {
                let resumed = Run::resume(out, config)?;
                for warning in &resumed.warnings {
                    progress.say(warning);
                }
                (resumed.run, resumed.checkpoint)
            }
        };
        let mut session = Self {
            run,
            progress,
            device: plain.clone().autodiff(),
            plain,
            position: Position::default(),
            work: None,
            finished: BTreeMap::new(),
        };
        if let Some(checkpoint) = checkpoint {
            session.restore(checkpoint.sections)?;
        }
        Ok(session)
    }

    fn restore(&mut self, sections: BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
        let (mut model, mut moments) = (None, None);
        for (name, bytes) in sections {
            match name.as_str() {
                "position" => {
                    self.position = serde_json::from_slice(&bytes)
                        .map_err(|e| Error::Failed(format!("checkpoint: position: {e}")))?;
                }
                "work/model" => model = Some(bytes),
                "work/moments" => moments = Some(bytes),
                other => {
                    let name = other.strip_prefix("finished/").unwrap_or(other).to_owned();
                    self.finished.insert(name, bytes);
                }
            }
        }
        let n_optimizer_steps = self.position.n_optimizer_steps;
        self.work = model.zip(moments).map(|(model, moments)| Work { model, moments, n_optimizer_steps });
        Ok(())
    }

    /// Keeps the last `n` checkpoints.
    pub fn keep(&mut self, n: NonZeroUsize) {
        self.run.keep(n);
    }

    /// Where the run's files lie.
    pub fn paths(&self) -> &crate::run::RunPaths {
        self.run.paths()
    }

    /// Steps logged so far.
    pub fn step(&self) -> u64 {
        self.position.step
    }

    /// What is left of `phase` from an earlier process: units done, and the unfinished state.
    pub fn unfinished(&mut self, phase: &str) -> Option<(u64, Work)> {
        if self.position.phase == phase { self.work.take().map(|w| (self.position.done, w)) } else { None }
    }

    /// What a finished phase left behind.
    pub fn finished(&self, name: &str) -> Option<&[u8]> {
        self.finished.get(name).map(Vec::as_slice)
    }

    /// A figure kept by [`Session::put`].
    ///
    /// # Errors
    /// A checkpoint whose figure is of another form.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.position
            .results
            .get(key)
            .map(|v| serde_json::from_value(v.clone()))
            .transpose()
            .map_err(|e| Error::Failed(format!("checkpoint: results: {key}: {e}")))
    }

    /// Keeps a figure for the report; it is saved with the next checkpoint.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<(), Error> {
        let value = serde_json::to_value(value).map_err(|e| Error::Failed(format!("{key}: {e}")))?;
        self.position.results.insert(key.to_owned(), value);
        Ok(())
    }

    /// Logs the next global step under a phase's name.
    ///
    /// # Errors
    /// A number that is not finite, with nothing written; the disk.
    pub fn log(
        &mut self,
        phase: &str,
        values: BTreeMap<String, f64>,
        times: BTreeMap<String, f64>,
    ) -> Result<(), Error> {
        self.position.step += 1;
        self.run.log(&StepRecord { step: self.position.step, phase: phase.to_owned(), values, times })
    }

    /// Saves the state after `done` units of `phase`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for weights that no run can go on from: a step's loss is finite still when
    /// its update is what broke them, and the checkpoints before it must stay. The disk.
    pub fn save(&mut self, phase: &str, done: u64, work: &Work) -> Result<(), Error> {
        for (name, tensor) in rlhf_policy::hf::deserialize(&work.model)? {
            if let Some(value) = tensor.data.iter().find(|x| !x.is_finite()) {
                let term = format!("{phase}: weight {name}");
                return Err(Error::NotFinite { step: self.position.step, term, value: f64::from(*value) });
            }
        }
        phase.clone_into(&mut self.position.phase);
        self.position.done = done;
        self.position.n_optimizer_steps = work.n_optimizer_steps;
        self.write(Some(work))
    }

    /// Ends a phase: keeps what it leaves behind, if anything, and saves.
    ///
    /// # Errors
    /// The disk, or [`Error::Interrupted`] after saving when a signal came.
    pub fn finish_phase(&mut self, name: &str, left: Option<Vec<u8>>) -> Result<(), Error> {
        if let Some(bytes) = left {
            self.finished.insert(name.to_owned(), bytes);
        }
        self.position.phase.clear();
        self.position.done = 0;
        self.position.n_optimizer_steps = 0;
        self.write(None)?;
        self.stop_if_asked()
    }

    fn write(&mut self, work: Option<&Work>) -> Result<(), Error> {
        let position = serde_json::to_vec(&self.position)
            .map_err(|e| Error::Failed(format!("checkpoint: position: {e}")))?;
        let names: Vec<String> = self.finished.keys().map(|n| format!("finished/{n}")).collect();
        let mut sections = vec![Section { name: "position", bytes: &position }];
        sections
            .extend(names.iter().zip(self.finished.values()).map(|(name, bytes)| Section { name, bytes }));
        if let Some(work) = work {
            sections.push(Section { name: "work/model", bytes: &work.model });
            sections.push(Section { name: "work/moments", bytes: &work.moments });
        }
        self.run.checkpoint(self.position.step, &sections)
    }

    /// Whether a signal asked for an end; the caller saves, then returns [`Session::stopped`].
    pub fn asked_to_stop(&self) -> bool {
        interrupted()
    }

    /// The error of a run that a signal ended after its state was saved.
    pub fn stopped(&self) -> Error {
        self.run.stopped_at(self.position.step)
    }

    fn stop_if_asked(&self) -> Result<(), Error> {
        if interrupted() { Err(self.stopped()) } else { Ok(()) }
    }

    /// Waits until the logs are on the disk.
    ///
    /// # Errors
    /// The disk.
    pub fn close(mut self) -> Result<(), Error> {
        self.progress.finish();
        self.run.finish()
    }
}
