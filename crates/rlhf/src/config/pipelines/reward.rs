//! The sections of `pipelines/reward.toml`.

use std::collections::BTreeMap;
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
        /// Preference records or rated texts; empty for the embedded task.
        path: String,
        /// Which of the two.
        records: RewardRecords,
        /// Field → column, where a preference file has other names.
        columns: BTreeMap<String, String>,
        /// Where a group's name ends within its column; empty for the whole.
        group_until: String,
        /// Lowest rating.
        rating_min: f64,
        /// Highest rating.
        rating_max: f64,
        /// Rated texts make a pair where their means differ by more.
        min_rating_gap: Weight,
        /// Pairs for each rated text.
        pairs_per_text: NonZeroUsize,
        /// What a bad record does.
        on_bad_record: OnBadRecord,
        /// k.
        folds: NonZeroUsize,
        /// Tokens read, from a text's end.
        max_length: NonZeroUsize,
    }
);

/// What a reward pipeline's file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardRecords {
    /// Two answers, the better one known.
    Preferences,
    /// Texts with ratings, from which pairs are made.
    Ratings,
}

/// A model that learns from preference pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparedKind {
    /// Words and word pairs, Bradley–Terry.
    Bag,
    /// A decoder trunk with a scalar head, Bradley–Terry.
    Transformer,
    /// A decoder trunk that reads both answers.
    Pairwise,
    /// General preference embeddings of a decoder trunk.
    Gpm,
}

/// Several models by one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KindsByName {
    /// Bag and transformer.
    Both,
    /// Pairwise, transformer, GPM and bag.
    All,
}

/// Which models a reward pipeline fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected bag, transformer, pairwise, gpm, both, all or a list of the first four"
)]
pub enum RewardKinds {
    /// One.
    One(ComparedKind),
    /// Several.
    Named(KindsByName),
    /// These, in this order.
    Listed(Vec<ComparedKind>),
}

impl RewardKinds {
    /// The models in the order in which they are fitted; the first is saved.
    pub fn list(&self) -> Vec<ComparedKind> {
        use ComparedKind::{Bag, Gpm, Pairwise, Transformer};
        match self {
            Self::One(kind) => vec![*kind],
            Self::Named(KindsByName::Both) => vec![Bag, Transformer],
            Self::Named(KindsByName::All) => vec![Pairwise, Transformer, Gpm, Bag],
            Self::Listed(kinds) => kinds.clone(),
        }
    }
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
        /// Columns of a GPM embedding, 2k.
        gpm_width: NonZeroUsize,
        /// τ of GPM.
        gpm_tau: Positive,
    }
);

impl RewardPipeline {
    /// Numbers that are valid alone and not together.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        let wrong = |key: &str, expected: &str, found: String| {
            Err(Error::config("config", key, expected.to_owned(), found))
        };
        let kinds = self.model.kind.list();
        if kinds.is_empty() {
            return wrong("model.kind", "at least one kind", "an empty list".to_owned());
        }
        if let Some((_, again)) = kinds.iter().enumerate().find(|(i, kind)| kinds[..*i].contains(kind)) {
            return wrong("model.kind", "each kind once", format!("{again:?} twice"));
        }
        if !self.model.gpm_width.get().is_multiple_of(2) {
            return wrong("model.gpm_width", "an even number", self.model.gpm_width.to_string());
        }
        let rated = self.data.records == RewardRecords::Ratings;
        if rated && (self.data.path.is_empty() || !self.data.columns.is_empty()) {
            let found = if self.data.path.is_empty() { "no data.path" } else { "data.columns" };
            return wrong(
                "data.records",
                "preferences, or ratings with a path and without columns",
                found.to_owned(),
            );
        }
        if !self.data.group_until.is_empty() && !self.data.columns.contains_key("group") {
            return wrong("data.group_until", "data.columns with a group, or \"\"", "no group".to_owned());
        }
        Ok(())
    }
}

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
        /// Share of a text's tokens that a training step leaves out.
        token_dropout: Prob,
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
