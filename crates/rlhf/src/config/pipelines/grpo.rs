//! The sections of `pipelines/grpo.toml`, which `pipelines/nested-reft.toml` is a form of.

use std::num::NonZeroUsize;

use rlhf_core::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale};
use rlhf_core::host::schedule::LrSchedule;
use rlhf_core::loss::cispo::CispoConfig;
use rlhf_core::loss::gmpo::GmpoConfig;
use rlhf_core::loss::kl_penalty::{KlConfig, KlEstimator, KlGradient};
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::loss::sapo::SapoConfig;
use rlhf_core::loss::vespo::VespoConfig;
use rlhf_core::number::{Bound, Positive, Prob, Weight};
use rlhf_core::preset::{Normaliser, trl};
use rlhf_nested::schedule::ScheduleConfig;
use rlhf_nested::step::RolloutCorrection;
use rlhf_nested::{behavior, error as nested};
use rlhf_policy::surrogate::{GroupLoss, Surrogate};
use serde::{Deserialize, Serialize};

use super::variants::check_names;
use super::{
    AdamSection, Common, PolicySection, SamplingSection, TaskSection, TrainingSection, VerifierSection,
};
use crate::error::Error;
use crate::pipeline::ground::sampled;

section!(
    /// `pipelines/grpo.toml`.
    GrpoPipeline {
        /// `grpo`.
        pipeline: String,
        /// Of every random stream.
        seed: u64,
        /// Where tensors live.
        device: String,
        /// Of the CPU devices.
        threads: NonZeroUsize,
        /// What draws the rollouts and what corrects for it, each with every seed; the first one's policy is
        /// saved.
        variants: Vec<GrpoVariant>,
        /// Prompts, answers, references.
        task: TaskSection,
        /// What a verifiable task asks beside.
        verifier: VerifierSection,
        /// The language model.
        policy: PolicySection,
        /// Optimiser numbers of every phase.
        adam: AdamSection,
        /// Supervised fine-tuning.
        sft: TrainingSection,
        /// The loop.
        grpo: GrpoSection,
        /// Rollouts.
        sampling: SamplingSection,
        /// What is measured, and when.
        evaluation: GrpoEvaluation,
        /// When state is saved.
        checkpoint: GrpoCheckpoint,
    }
);

/// One behaviour policy of the sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoVariant {
    /// Its name in the report and in `steps.jsonl`.
    pub name: String,
    /// Which blocks a rollout batch leaves out; none is plain GRPO.
    pub schedule: ScheduleConfig,
    /// What becomes of the ratio of the policy to what drew the tokens.
    pub correction: RolloutCorrection,
}

/// The loss, by TRL's names and those of the papers that TRL has under other keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// The mean of sequence means.
    Grpo,
    /// The micro-batch's own tokens.
    Bnpo,
    /// Sequences times the longest completion.
    DrGrpo,
    /// The step's tokens.
    Dapo,
    /// GSPO's ratio, the sum over a sequence's tokens.
    Luspo,
    /// The sequence's ratio.
    Gspo,
    /// The same with a gradient a token.
    GspoToken,
    /// Weights that are clipped in place of gradients.
    Cispo,
    /// A soft gate a token.
    Sapo,
    /// A soft gate a sequence.
    SapoSequence,
    /// A soft weight a sequence.
    Vespo,
    /// The geometric mean of clipped ratios; ε in nats.
    Gmpo,
}

/// What rewards of a group are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The group's deviation.
    Group,
    /// That of the whole batch.
    Batch,
    /// Nothing.
    None,
}

section!(
    /// `[grpo]`.
    GrpoSection {
        /// G.
        num_generations: NonZeroUsize,
        /// Prompts a rollout batch.
        prompts_per_batch: NonZeroUsize,
        /// Rollout batches.
        n_batches: NonZeroUsize,
        /// Optimiser steps that a pass over a rollout batch is cut into.
        steps_per_generation: NonZeroUsize,
        /// μ: passes over a rollout batch.
        num_iterations: NonZeroUsize,
        /// Completions a forward pass.
        micro_batch_size: NonZeroUsize,
        /// Surrogate and normaliser.
        loss_type: LossType,
        /// ε below 1, and above it unless `epsilon_high` says otherwise.
        epsilon: Weight,
        /// ε above 1; CISPO's largest weight.
        epsilon_high: Weight,
        /// δ, where A < 0.
        delta: Bound,
        /// β of the KL to the start policy.
        beta: Weight,
        /// How the KL is differentiated.
        kl_gradient: KlGradient,
        /// What a reward is compared with; leaving its own out is RLOO's way.
        baseline: Baseline,
        /// Divisor of advantages.
        scale_rewards: ScaleRewards,
        /// Whether completions without an end are left out of the loss.
        mask_truncated_completions: bool,
        /// SAPO's τ where A > 0.
        sapo_temperature_pos: Positive,
        /// SAPO's τ elsewhere.
        sapo_temperature_neg: Positive,
        /// VESPO's k where A ≥ 0.
        vespo_k_pos: Weight,
        /// VESPO's λ where A ≥ 0.
        vespo_lambda_pos: Positive,
        /// VESPO's k where A < 0.
        vespo_k_neg: Weight,
        /// VESPO's λ where A < 0.
        vespo_lambda_neg: Positive,
        /// Peak learning rate.
        learning_rate: Positive,
        /// Its course over all optimiser steps.
        lr_scheduler_type: LrSchedule,
        /// Optimiser steps that warm up.
        warmup_steps: usize,
        /// λ.
        weight_decay: Weight,
        /// Clipping.
        max_grad_norm: Bound,
    }
);

section!(
    /// `[evaluation]` of a GRPO pipeline; the whole policy answers.
    GrpoEvaluation {
        /// Temperature of evaluation samples.
        temperature: Positive,
        /// Nucleus.
        top_p: Prob,
        /// Samples a prompt, beside the greedy answer.
        num_generations: NonZeroUsize,
        /// Rollout batches between evaluations.
        eval_batches: NonZeroUsize,
        /// Prompts of a rollout batch that the whole policy answers too, where blocks are left out.
        target_prompts: usize,
        /// Repetitions of the measurement of generation's speed; 0 for none.
        speed_runs: usize,
        /// Completions shown in the report.
        samples: usize,
        /// Repetitions with other seeds.
        seeds: NonZeroUsize,
    }
);

section!(
    /// `[checkpoint]` of a GRPO pipeline.
    GrpoCheckpoint {
        /// Optimiser steps of SFT between checkpoints.
        save_steps: NonZeroUsize,
        /// Rollout batches between checkpoints.
        save_batches: NonZeroUsize,
        /// Checkpoints kept.
        keep: NonZeroUsize,
    }
);

impl GrpoSection {
    /// The loss of a token.
    pub fn loss(&self) -> GroupLoss {
        let clip =
            PpoClipConfig { epsilon_low: self.epsilon, epsilon_high: self.epsilon_high, delta: self.delta };
        let sapo = SapoConfig {
            temperature_pos: self.sapo_temperature_pos,
            temperature_neg: self.sapo_temperature_neg,
        };
        let surrogate = match self.loss_type {
            LossType::Grpo | LossType::Bnpo | LossType::DrGrpo | LossType::Dapo => Surrogate::Clip(clip),
            LossType::Gspo | LossType::Luspo => Surrogate::Gspo(clip),
            LossType::GspoToken => Surrogate::GspoToken(clip),
            LossType::Cispo => {
                // A weight is a number of at least 0, which every bound may be.
                let max = Bound::new(self.epsilon_high.get()).unwrap_or(Bound::NONE);
                Surrogate::Cispo(CispoConfig::UpperBound { max })
            }
            LossType::Sapo => Surrogate::Sapo(sapo),
            LossType::SapoSequence => Surrogate::SapoSequence(sapo),
            LossType::Vespo => Surrogate::Vespo(VespoConfig {
                k_pos: self.vespo_k_pos,
                lambda_pos: self.vespo_lambda_pos,
                k_neg: self.vespo_k_neg,
                lambda_neg: self.vespo_lambda_neg,
            }),
            LossType::Gmpo => {
                Surrogate::Gmpo(GmpoConfig { epsilon_low: self.epsilon, epsilon_high: self.epsilon_high })
            }
        };
        GroupLoss { surrogate, beta: self.beta, kl: KlConfig::new(KlEstimator::K3, self.kl_gradient) }
    }

    /// What the sum over tokens is divided by: TRL's for its own names, the papers' for the others.
    pub fn normaliser(&self) -> Normaliser {
        match self.loss_type {
            LossType::Grpo
            | LossType::Gspo
            | LossType::GspoToken
            | LossType::Sapo
            | LossType::SapoSequence
            | LossType::Gmpo => Normaliser::SequenceMean,
            LossType::Bnpo => Normaliser::BatchTokens,
            LossType::DrGrpo => Normaliser::StepBudget,
            LossType::Dapo | LossType::Cispo | LossType::Vespo => Normaliser::StepTokens,
            LossType::Luspo => Normaliser::StepSequences,
        }
    }

    /// From rewards to advantages, as TRL unless told otherwise: the group's mean, and the unbiased deviation plus
    /// 10⁻⁴.
    pub fn advantage(&self) -> GroupAdvantageConfig {
        let trl = trl::grpo().advantage;
        let scale = match (self.scale_rewards, trl.scale) {
            (ScaleRewards::Batch, GroupScale::Group { spread, guard }) => GroupScale::Batch { spread, guard },
            (ScaleRewards::None, _) => GroupScale::None,
            (_, scale) => scale,
        };
        GroupAdvantageConfig { baseline: self.baseline, scale, ..trl }
    }

    /// Optimiser steps a rollout batch.
    pub fn updates(&self) -> usize {
        self.num_iterations.get() * self.steps_per_generation.get()
    }
}

/// What rlhf-nested refuses, at a key of the config.
fn at(key: String, e: nested::Error) -> Error {
    match e {
        nested::Error::Schedule { field, expected, found } => {
            Error::config("config", format!("{key}.{field}"), expected, found)
        }
        nested::Error::Behavior { what, expected, found } => {
            Error::config("config", key, format!("{what}: {expected}"), found)
        }
        other => Error::config("config", key, "one that fits the model", other.to_string()),
    }
}

impl GrpoPipeline {
    /// What it shares with other pipelines.
    pub fn common(&self) -> Common<'_> {
        Common {
            seed: self.seed,
            task: &self.task,
            verifier: Some(&self.verifier),
            policy: &self.policy,
            adam: &self.adam,
            sft: &self.sft,
            sampling: &self.sampling,
            save_steps: self.checkpoint.save_steps,
        }
    }

    /// Numbers that are valid alone and not together.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        let wrong =
            |key: &str, expected: String, found: String| Error::config("config", key, expected, found);
        check_names(&self.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>())?;
        let s = &self.grpo;
        let (g, rows) = (s.num_generations.get(), s.num_generations.get() * s.prompts_per_batch.get());
        if g < 2 {
            let expected = "at least 2, since a completion is compared with its siblings".to_owned();
            return Err(wrong("grpo.num_generations", expected, g.to_string()));
        }
        if !rows.is_multiple_of(s.steps_per_generation.get()) {
            let expected = format!("a divisor of {rows}, the completions of a rollout batch");
            return Err(wrong("grpo.steps_per_generation", expected, s.steps_per_generation.to_string()));
        }
        if s.loss_type == LossType::Cispo && s.epsilon_high.get() < 1.0 {
            let expected = "at least 1 for cispo, whose largest weight it is: 5, say".to_owned();
            return Err(wrong("grpo.epsilon_high", expected, s.epsilon_high.get().to_string()));
        }
        if self.policy.path.is_empty() {
            self.check_variants(self.policy.num_hidden_layers.get())?;
        }
        self.common().check()
    }

    /// Whether each variant's schedule fits a model of so many blocks, and its correction the sampling.
    ///
    /// # Errors
    /// [`Error::Config`] that names the variant.
    pub fn check_variants(&self, n_layers: usize) -> Result<(), Error> {
        let sampling = sampled(&self.sampling);
        for (i, variant) in self.variants.iter().enumerate() {
            let of = |key: &str| format!("variants[{i}].{key}");
            variant.schedule.build(n_layers, self.seed).map_err(|e| at(of("schedule"), e))?;
            behavior::check(&sampling, variant.correction).map_err(|e| at(of("correction"), e))?;
        }
        if self.sft.layer_drop > Prob::ZERO && n_layers < 3 {
            let expected = "0 for a model of fewer than 3 blocks, whose first and last always stay";
            let found = format!("{} of {n_layers} blocks", self.sft.layer_drop.get());
            return Err(Error::config("config", "sft.layer_drop", expected, found));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rlhf_core::host::advantage::group_advantages;

    use crate::config::{Overrides, Pipeline, load};

    /// Rewards 1, 0, 0: of the others' means 0, ½, ½ by RLOO; 1/3 of the group by GRPO without a divisor.
    #[test]
    fn a_reward_may_be_left_out_of_its_own_baseline() {
        for (baseline, expected) in
            [("leave_one_out", [1.0, -0.5, -0.5]), ("group_mean", [2.0 / 3.0, -1.0 / 3.0, -1.0 / 3.0])]
        {
            let set = [format!("grpo.baseline={baseline}"), "grpo.scale_rewards=none".to_owned()];
            let loaded = load("grpo", &Overrides { set: set.to_vec(), ..Overrides::default() });
            let Pipeline::Grpo(config) = loaded.expect("valid").pipeline else { panic!("not grpo") };
            let all = group_advantages(config.grpo.advantage(), &[[1.0, 0.0, 0.0]]).advantages;
            let near = all[0].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15);
            assert!(near, "{baseline}: {all:?}");
        }
    }
}
