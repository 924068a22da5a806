//! The sections of `pipelines/reward.toml`.

use std::num::NonZeroUsize;

use rlhf_core::host::schedule::LrSchedule;
use rlhf_core::number::{Bound, Positive, Prob, Weight};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use super::{AdamSection, scratch_config};
use crate::data::OnBadRecord;
use crate::error::Error;

section!(
    /// `pipelines/reward.toml`.
    RewardPipeline {
        /// `reward`.
        pipeline: String,
        /// Of every random stream.
        seed: u64,
        /// Where tensors live.
        device: String,
        /// Of the CPU devices.
        threads: NonZeroUsize,
        /// The comparisons.
        data: RewardData,
        /// The model.
        model: RewardModelSection,
        /// Optimiser numbers.
        adam: AdamSection,
        /// Training.
        training: RewardTraining,
        /// When state is saved.
        checkpoint: RewardCheckpoint,
    }
);

section!(
    /// `[data]` of a reward pipeline.
    RewardData {
        /// Preference records; empty for the embedded task.
        path: String,
        /// What a bad record does.
        on_bad_record: OnBadRecord,
        /// k.
        folds: NonZeroUsize,
        /// Tokens read, from a text's end.
        max_length: NonZeroUsize,
    }
);

/// Which models a reward pipeline fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKinds {
    /// Words and word pairs.
    Bag,
    /// A decoder trunk with a scalar head.
    Transformer,
    /// Both, for comparison.
    Both,
}

section!(
    /// `[model]` of a reward pipeline.
    RewardModelSection {
        /// Which models.
        kind: RewardKinds,
        /// V of the tokenizer.
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
        /// Standard deviation of scratch weights.
        initializer_range: Positive,
    }
);

impl RewardModelSection {
    /// The scratch trunk's `config.json` for a tokenizer's vocabulary and its special tokens, with
    /// room for `max_length` tokens.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn decoder(&self, tokenizer: &Tokenizer, max_length: NonZeroUsize) -> Result<DecoderConfig, Error> {
        let json = serde_json::json!({
            "model_type": "llama",
            "vocab_size": tokenizer.vocab_size(),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": max_length,
            "initializer_range": self.initializer_range.get(),
            "eos_token_id": tokenizer.eos(),
            "pad_token_id": tokenizer.pad(),
        });
        scratch_config("model", &json)
    }
}

section!(
    /// `[training]` of a reward pipeline.
    RewardTraining {
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
        /// Pull of `chosen + rejected` to zero.
        center_rewards_coefficient: Weight,
        /// Ridge strength of a bag.
        l2: Positive,
    }
);

section!(
    /// `[checkpoint]` of a reward pipeline.
    RewardCheckpoint {
        /// Optimiser steps between checkpoints.
        save_steps: NonZeroUsize,
        /// Checkpoints kept.
        keep: NonZeroUsize,
    }
);
