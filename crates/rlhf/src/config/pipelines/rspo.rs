//! The sections of `pipelines/rspo.toml`.

use std::num::NonZeroUsize;

use rlhf_core::host::pairwise::Scoring;
use rlhf_core::host::schedule::LrSchedule;
use rlhf_core::number::{Bound, Positive, Prob, Weight};
use rlhf_policy::trim::Trim;
use rlhf_selfplay::gradients::ForwardSamples;
use rlhf_selfplay::method::{Method, Rows};
use serde::{Deserialize, Serialize};

use super::variants::check_names;
use super::{AdamSection, Common, PolicySection, SamplingSection, TaskName, TaskSection, TrainingSection};
use crate::error::Error;

section!(
    /// `pipelines/rspo.toml`.
    RspoPipeline {
        /// `rspo`.
        pipeline: String,
        /// Of every random stream.
        seed: u64,
        /// Where tensors live.
        device: String,
        /// Of the CPU devices.
        threads: NonZeroUsize,
        /// Which methods run, each with every seed; the first one's policy is saved.
        variants: Vec<Variant>,
        /// Prompts, references, comparisons.
        task: TaskSection,
        /// The language model.
        policy: PolicySection,
        /// Optimiser numbers of every phase.
        adam: AdamSection,
        /// Supervised fine-tuning.
        sft: TrainingSection,
        /// Both preference oracles.
        preference: PreferenceSection,
        /// The loop.
        selfplay: SelfplaySection,
        /// Rollouts.
        sampling: SamplingSection,
        /// What is measured, and when.
        evaluation: SelfplayEvaluation,
        /// When state is saved.
        checkpoint: SelfplayCheckpoint,
    }
);

/// One method of the sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name in the report and in `steps.jsonl`.
    pub name: String,
    /// What a step minimises.
    pub method: Method,
    /// The forward KL on answers drawn from the start policy, beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_samples: Option<ForwardSamples>,
}

/// What a preference oracle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceKind {
    /// The embedded task's own rule: the length-biased one trains, the true one judges.
    Rule,
    /// Bradley–Terry on a bag of words.
    Bag,
    /// Bradley–Terry on a decoder trunk with a scalar head.
    BradleyTerry,
    /// A cross-encoder of both answers on a decoder trunk.
    Pairwise,
    /// General preference embeddings of a decoder trunk.
    Gpm,
}

section!(
    /// `[preference]`.
    PreferenceSection {
        /// The oracle that trains the policy.
        proxy: PreferenceKind,
        /// The held-out one.
        judge: PreferenceKind,
        /// Whether a trunk starts as the SFT policy's.
        from_sft: bool,
        /// Passes over the data.
        num_train_epochs: NonZeroUsize,
        /// Pairs an optimiser step.
        batch_size: NonZeroUsize,
        /// Peak learning rate.
        learning_rate: Positive,
        /// Its course.
        lr_scheduler_type: LrSchedule,
        /// Share of the steps that warm up.
        warmup_ratio: Prob,
        /// λ.
        weight_decay: Weight,
        /// Clipping.
        max_grad_norm: Bound,
        /// Share of a text's tokens that a training step leaves out.
        token_dropout: Prob,
        /// Ridge strength of a bag.
        l2: Positive,
        /// Columns of a GPM embedding, 2k.
        gpm_width: NonZeroUsize,
        /// τ of GPM.
        gpm_tau: Positive,
    }
);

section!(
    /// `[selfplay]`.
    SelfplaySection {
        /// K.
        num_generations: NonZeroUsize,
        /// Prompts an iteration.
        prompts_per_iteration: NonZeroUsize,
        /// T.
        n_iterations: NonZeroUsize,
        /// Best and worst of the K answers, or all.
        rows: Rows,
        /// As the oracle says, or rebuilt from aggregated scores.
        win_rates: Scoring,
        /// Where a completion is cut.
        trim: Trim,
        /// Passes over an iteration's examples.
        num_train_epochs: NonZeroUsize,
        /// Examples an optimiser step.
        batch_size: NonZeroUsize,
        /// Examples a forward pass.
        micro_batch_size: NonZeroUsize,
        /// Peak learning rate.
        learning_rate: Positive,
        /// Its course within an iteration.
        lr_scheduler_type: LrSchedule,
        /// Share of an iteration's steps that warm up.
        warmup_ratio: Prob,
        /// λ.
        weight_decay: Weight,
        /// Clipping.
        max_grad_norm: Bound,
    }
);

section!(
    /// `[evaluation]` of a self-play pipeline.
    SelfplayEvaluation {
        /// Temperature of evaluation samples.
        temperature: Positive,
        /// Nucleus.
        top_p: Prob,
        /// Iterations between evaluations.
        eval_iterations: NonZeroUsize,
        /// Answers a prompt.
        num_generations: NonZeroUsize,
        /// Completions shown in the report.
        samples: usize,
        /// Repetitions with other seeds.
        seeds: NonZeroUsize,
    }
);

section!(
    /// `[checkpoint]` of a self-play pipeline; the loop saves after each iteration.
    SelfplayCheckpoint {
        /// Optimiser steps of SFT and preference training between checkpoints.
        save_steps: NonZeroUsize,
        /// Checkpoints kept.
        keep: NonZeroUsize,
    }
);

impl RspoPipeline {
    /// What it shares with other pipelines.
    pub fn common(&self) -> Common<'_> {
        Common {
            seed: self.seed,
            task: &self.task,
            policy: &self.policy,
            adam: &self.adam,
            sft: &self.sft,
            sampling: &self.sampling,
            verifier: None,
            save_steps: self.checkpoint.save_steps,
        }
    }

    /// Numbers that are valid alone and not together.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        let wrong =
            |key: &str, expected: String, found: String| Err(Error::config("config", key, expected, found));
        check_names(&self.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>())?;
        let k = self.selfplay.num_generations.get();
        for (i, variant) in self.variants.iter().enumerate() {
            // Answers against opponents or beside data are what they are, whatever the key says.
            let alone = matches!(variant.method, Method::Spin { .. } | Method::NashMd { .. });
            if !alone && let Err(e) = variant.method.check(self.selfplay.rows) {
                return wrong(
                    &format!("variants[{i}].method"),
                    format!("one that fits selfplay.rows: {e}"),
                    variant.method.name().to_owned(),
                );
            }
            if k < 2 && !alone {
                let expected =
                    format!("at least 2, since {} compares a policy's answers with each other", variant.name);
                return wrong("selfplay.num_generations", expected, k.to_string());
            }
        }
        let (asked, there) = (self.selfplay.prompts_per_iteration, self.task.n_prompts);
        if asked > there {
            let expected = format!("at most task.n_prompts = {there}");
            return wrong("selfplay.prompts_per_iteration", expected, asked.to_string());
        }
        let embedded = self.task.name == TaskName::Restaurants;
        for (key, kind) in [("proxy", self.preference.proxy), ("judge", self.preference.judge)] {
            if kind == PreferenceKind::Rule && !embedded {
                let expected = "a model, since only the task `restaurants` has a rule".to_owned();
                return wrong(&format!("preference.{key}"), expected, "rule".to_owned());
            }
        }
        if !self.preference.gpm_width.get().is_multiple_of(2) {
            let found = self.preference.gpm_width.to_string();
            return wrong("preference.gpm_width", "an even number".to_owned(), found);
        }
        if self.evaluation.num_generations.get() < 2 {
            let expected = "at least 2, since self-BLEU compares answers to one prompt".to_owned();
            return wrong(
                "evaluation.num_generations",
                expected,
                self.evaluation.num_generations.to_string(),
            );
        }
        self.common().check()
    }
}
