//! The typed configs. What a key means, its unit and the source of its number stand in
//! `pipelines/*.toml`; here stands what values it may have.

use std::num::NonZeroUsize;

use rlhf_core::host::schedule::LrSchedule;
use rlhf_core::loss::superhf::{KlPositions, KlReduction, SuperhfConfig};
use rlhf_core::number::{Bound, Positive, Prob, Weight};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::optim::AdamWConfig;
use rlhf_policy::trim::Trim;
use serde::{Deserialize, Serialize};

use crate::data::OnBadRecord;
use crate::error::Error;
use crate::task::descriptions::{Split, Venue};

/// What `rlhf run` can run.
#[derive(Debug, Clone)]
pub enum Pipeline {
    /// Sample, score, keep the best, fine-tune.
    Superhf(Box<SuperhfPipeline>),
    /// Reinforcement on verifiable rewards: sample groups, verify, update; rollouts of the whole policy or of a
    /// part of its blocks.
    Grpo(Box<GrpoPipeline>),
    /// Self-play: sample, compare, learn from win rates.
    Rspo(Box<RspoPipeline>),
    /// A reward model with held-out accuracy.
    Reward(Box<RewardPipeline>),
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

// Below the macro, which it uses.
mod grpo;
mod reward;
mod rspo;
mod variants;

pub use grpo::*;
pub use reward::*;
pub use rspo::*;

section!(
    /// `pipelines/superhf.toml`.
    SuperhfPipeline {
        /// `superhf`.
        pipeline: String,
        /// Of every random stream.
        seed: u64,
        /// Where tensors live.
        device: String,
        /// Of the CPU devices.
        threads: NonZeroUsize,
        /// Prompts, references, comparisons.
        task: TaskSection,
        /// The language model.
        policy: PolicySection,
        /// Optimiser numbers of every phase.
        adam: AdamSection,
        /// Supervised fine-tuning.
        sft: TrainingSection,
        /// Both reward models.
        reward: RewardSection,
        /// The loop.
        superhf: SuperhfSection,
        /// Rollouts.
        sampling: SamplingSection,
        /// What is measured, and when.
        evaluation: EvaluationSection,
        /// Which variants run.
        sweep: SweepSection,
        /// When state is saved.
        checkpoint: CheckpointSection,
    }
);

/// The sections that every pipeline over a language model has.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// Of every random stream.
    pub seed: u64,
    /// Prompts, references, comparisons.
    pub task: &'a TaskSection,
    /// What verifiable tasks ask; none in a pipeline that learns from comparisons.
    pub verifier: Option<&'a VerifierSection>,
    /// The language model.
    pub policy: &'a PolicySection,
    /// Optimiser numbers of every phase.
    pub adam: &'a AdamSection,
    /// Supervised fine-tuning.
    pub sft: &'a TrainingSection,
    /// Rollouts.
    pub sampling: &'a SamplingSection,
    /// Optimiser steps between checkpoints.
    pub save_steps: NonZeroUsize,
}

impl Common<'_> {
    /// Numbers that are valid alone and not together.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.sampling.top_p.get() <= 0.0 {
            return Err(Error::config("config", "sampling.top_p", "a number above 0, 1 for off", "0"));
        }
        if self.sft.layer_drop >= Prob::ONE {
            let expected = "a number below 1: the blocks between the first and the last learn too";
            return Err(Error::config("config", "sft.layer_drop", expected, "1"));
        }
        if !self.policy.path.is_empty() {
            return Ok(());
        }
        let (new, all) =
            (self.sampling.max_completion_length.get(), self.policy.max_position_embeddings.get());
        if new >= all {
            let expected = format!("less than policy.max_position_embeddings = {all}");
            return Err(Error::config("config", "sampling.max_completion_length", expected, new.to_string()));
        }
        // 256 bytes and two special tokens.
        let v = self.policy.vocab_size.get();
        if v < 258 {
            return Err(Error::config("config", "policy.vocab_size", "at least 258", v.to_string()));
        }
        self.policy.decoder(v, 0, 1).map(drop)
    }
}

impl SuperhfPipeline {
    /// What it shares with other pipelines.
    pub fn common(&self) -> Common<'_> {
        Common {
            seed: self.seed,
            task: &self.task,
            verifier: None,
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
    pub(super) fn check(&self) -> Result<(), Error> {
        let (keep, n) = (self.superhf.keep.get(), self.superhf.num_generations.get());
        if keep > n {
            let expected = format!("at most superhf.num_generations = {n}");
            return Err(Error::config("config", "superhf.keep", expected, keep.to_string()));
        }
        self.common().check()
    }
}

/// Where a task comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskName {
    /// Invented restaurants, made from the seed.
    Restaurants,
    /// Texts with human ratings.
    Ratings,
    /// The user's own files.
    Files,
    /// The user's own questions with numbers for answers.
    Answers,
    /// Sums and differences with verifiable results, made from the seed.
    Arithmetic,
    /// E2E's restaurants with a rule that checks what a text tells.
    Descriptions,
    /// Masked word problems whose equations are executed.
    WordProblems,
}

impl TaskName {
    /// Whether a rule checks the answers, so that a pipeline needs no comparisons.
    pub fn is_verifiable(self) -> bool {
        matches!(self, Self::Answers | Self::Arithmetic | Self::Descriptions | Self::WordProblems)
    }
}

section!(
    /// `[verifier]`: what the verifiable tasks ask beside `[task]`.
    VerifierSection {
        /// Most digits of an operand.
        n_digits: NonZeroUsize,
        /// Share of the examples with a slip.
        fault_share: Prob,
        /// Which descriptions evaluate.
        split: Split,
        /// Whether the descriptions' rule has its hole.
        venue: Venue,
    }
);

section!(
    /// `[task]`.
    TaskSection {
        /// Which task.
        name: TaskName,
        /// Its file.
        path: String,
        /// Prompt–completion records.
        sft_path: String,
        /// Preference records.
        preference_path: String,
        /// References.
        n_sft: NonZeroUsize,
        /// Comparisons for each reward model.
        n_preferences: NonZeroUsize,
        /// Prompts of the loop.
        n_prompts: NonZeroUsize,
        /// Prompts of the evaluation.
        n_eval_prompts: NonZeroUsize,
        /// Words of a prompt.
        prompt_words: NonZeroUsize,
        /// Lowest rating.
        rating_min: f64,
        /// Highest rating.
        rating_max: f64,
        /// What a bad record does.
        on_bad_record: OnBadRecord,
    }
);

section!(
    /// `[policy]`: a folder, or the shape of a scratch decoder.
    PolicySection {
        /// Hugging Face folder; empty for none.
        path: String,
        /// V.
        vocab_size: NonZeroUsize,
        /// Width.
        hidden_size: NonZeroUsize,
        /// Width of the feed-forward part.
        intermediate_size: NonZeroUsize,
        /// Blocks.
        num_hidden_layers: NonZeroUsize,
        /// Query heads.
        num_attention_heads: NonZeroUsize,
        /// Key–value heads.
        num_key_value_heads: NonZeroUsize,
        /// Most positions.
        max_position_embeddings: NonZeroUsize,
        /// Whether the output projection is the embedding.
        tie_word_embeddings: bool,
        /// Standard deviation of scratch weights.
        initializer_range: Positive,
    }
);

impl PolicySection {
    /// The scratch decoder's `config.json` for a vocabulary of `vocab_size` and its special tokens.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn decoder(&self, vocab_size: usize, eos: u32, pad: u32) -> Result<DecoderConfig, Error> {
        let json = serde_json::json!({
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range.get(),
            "eos_token_id": eos,
            "pad_token_id": pad,
        });
        scratch_config("policy", &json)
    }
}

/// A scratch decoder's config from the keys of `section`, which an error names.
fn scratch_config(section: &str, json: &serde_json::Value) -> Result<DecoderConfig, Error> {
    DecoderConfig::parse(&json.to_string()).map_err(|e| match e {
        rlhf_policy::error::Error::Config { field, expected, found } => {
            Error::config("config", format!("{section}.{field}"), expected, found)
        }
        other => other.into(),
    })
}

section!(
    /// `[adam]`.
    AdamSection {
        /// Decay of the first moment.
        beta1: Prob,
        /// Decay of the second moment.
        beta2: Prob,
        /// Added to the root of the second moment.
        epsilon: Positive,
    }
);

impl AdamSection {
    /// AdamW with a phase's own decay and clipping.
    pub fn with(&self, weight_decay: Weight, max_grad_norm: Bound) -> AdamWConfig {
        AdamWConfig {
            adam_beta1: self.beta1.get(),
            adam_beta2: self.beta2.get(),
            adam_epsilon: self.epsilon.get(),
            weight_decay: weight_decay.get(),
            max_grad_norm: max_grad_norm.get(),
        }
    }
}

section!(
    /// `[sft]`.
    TrainingSection {
        /// Passes over the data; 0 for none.
        num_train_epochs: usize,
        /// Rows an optimiser step.
        batch_size: NonZeroUsize,
        /// Rows a forward pass.
        micro_batch_size: NonZeroUsize,
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
        /// Probability that a step leaves a block out; the first and the last always stay.
        layer_drop: Prob,
    }
);

/// What a reward model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// Linear in words and word pairs.
    Bag,
    /// A decoder trunk with a scalar head.
    Transformer,
}

section!(
    /// `[reward]`.
    RewardSection {
        /// The reward that trains the policy.
        proxy: RewardKind,
        /// The held-out one.
        judge: RewardKind,
        /// Whether a transformer's trunk starts as the SFT policy's.
        from_sft: bool,
        /// Passes over the data.
        num_train_epochs: NonZeroUsize,
        /// Pairs or texts an optimiser step.
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
        /// Pull of `chosen + rejected` to zero.
        center_rewards_coefficient: Weight,
        /// Share of a text's tokens that a training step leaves out.
        token_dropout: Prob,
        /// Ridge strength of a bag.
        l2: Positive,
    }
);

section!(
    /// `[superhf]`.
    SuperhfSection {
        /// N.
        num_generations: NonZeroUsize,
        /// A.
        prompts_per_round: NonZeroUsize,
        /// K.
        keep: NonZeroUsize,
        /// B.
        batch_size: NonZeroUsize,
        /// Rounds.
        n_rounds: NonZeroUsize,
        /// β.
        beta: Weight,
        /// Mean or sum over the minibatch.
        kl_reduction: KlReduction,
        /// Which positions the KL covers.
        kl_positions: KlPositions,
        /// Where a completion is cut.
        trim: Trim,
        /// Whether stopping is trained.
        append_eos: bool,
        /// λ of the length shaping.
        length_penalty: Weight,
        /// C.
        inverse_loss_penalty: Weight,
        /// Peak learning rate.
        learning_rate: Positive,
        /// Its course, one step a round.
        lr_scheduler_type: LrSchedule,
        /// Rounds that warm up.
        warmup_rounds: usize,
        /// λ.
        weight_decay: Weight,
        /// Clipping.
        max_grad_norm: Bound,
    }
);

impl SuperhfSection {
    /// The loss of a minibatch at coefficient `beta`.
    pub fn loss(&self, beta: Weight) -> SuperhfConfig {
        SuperhfConfig {
            beta,
            reduction: self.kl_reduction,
            positions: self.kl_positions,
            inverse_loss: self.inverse_loss_penalty,
        }
    }
}

section!(
    /// `[sampling]`.
    SamplingSection {
        /// Temperature of rollouts.
        temperature: Positive,
        /// Nucleus.
        top_p: Prob,
        /// 0 for off.
        top_k: usize,
        /// Most tokens of a completion.
        max_completion_length: NonZeroUsize,
        /// Rows decoded together.
        max_rows: NonZeroUsize,
    }
);

section!(
    /// `[evaluation]`.
    EvaluationSection {
        /// Temperature of evaluation samples.
        temperature: Positive,
        /// Nucleus.
        top_p: Prob,
        /// Rounds between evaluations.
        eval_rounds: NonZeroUsize,
        /// Random pairs of completions for self-similarity.
        similarity_pairs: NonZeroUsize,
        /// N of the baseline at inference.
        best_of_n: Vec<NonZeroUsize>,
        /// Completions shown in the report.
        samples: usize,
    }
);

section!(
    /// `[sweep]`.
    SweepSection {
        /// β at the N of `[superhf]`.
        beta: Vec<Weight>,
        /// N at the β of `[superhf]`.
        num_generations: Vec<NonZeroUsize>,
        /// Repetitions with other seeds.
        seeds: NonZeroUsize,
    }
);

section!(
    /// `[checkpoint]`.
    CheckpointSection {
        /// Optimiser steps between checkpoints.
        save_steps: NonZeroUsize,
        /// SuperHF rounds between checkpoints.
        save_rounds: NonZeroUsize,
        /// Checkpoints kept.
        keep: NonZeroUsize,
    }
);
