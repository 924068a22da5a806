//! TRL 1.16's defaults.
//!
//! Its preference losses by their `loss_type`: `sigmoid` is [`dpo`](crate::loss::dpo), `ipo` is
//! `ipo_per_token` (divided by the lengths), `sppo_hard` has no ½ ([`sppo_hard`](crate::loss::sppo_hard)),
//! `bco_pair` has no shift, `sft` is the token mean over the batch.

use serde::{Deserialize, Serialize};

use super::{GrpoRecipe, Normaliser};
use crate::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single};
use crate::host::reinforce::RlooAdvantageConfig;
use crate::host::whiten::{Guard, Spread};
use crate::loss::cispo::CispoConfig;
use crate::loss::grpo::GrpoConfig;
use crate::loss::kl_penalty::{KlConfig, KlEstimator, KlGradient};
use crate::loss::ppo_clip::PpoClipConfig;
use crate::number::{Bound, Weight};

/// `GRPOConfig()`: (r − μ)/(σ + 10⁻⁴) with the unbiased σ, ε = 0.2 on both sides, β = 0, and the
/// normaliser of `loss_type = "dapo"`, the default. The KL, once β is set, is k3 times the live ratio
/// (`use_bias_correction_kl`, on by default since 1.16; off, it is `KlConfig::paper()`).
pub fn grpo() -> GrpoRecipe {
    let guard = Guard::StdPlus(Weight::literal(1e-4));
    GrpoRecipe {
        advantage: GroupAdvantageConfig {
            baseline: Baseline::GroupMean,
            scale: GroupScale::Group { spread: Spread::Unbiased, guard },
            single: Single::Zero,
        },
        reward_kl: None,
        loss: GrpoConfig {
            clip: PpoClipConfig::new(Weight::literal(0.2)),
            beta: Weight::ZERO,
            kl: KlConfig::new(KlEstimator::K3, KlGradient::LiveRatio),
        },
        normaliser: Normaliser::StepTokens,
    }
}

/// `loss_type = "grpo"`: the mean of sequence means.
pub fn grpo_sequence_mean() -> GrpoRecipe {
    GrpoRecipe { normaliser: Normaliser::SequenceMean, ..grpo() }
}

/// `loss_type = "bnpo"`: the micro-batch's own tokens.
pub fn bnpo() -> GrpoRecipe {
    GrpoRecipe { normaliser: Normaliser::BatchTokens, ..grpo() }
}

/// `loss_type = "dr_grpo"`: sequences times `max_completion_length`. The advantage is still divided
/// by σ unless `scale_rewards = "none"`, which the paper's is.
pub fn dr_grpo() -> GrpoRecipe {
    GrpoRecipe { normaliser: Normaliser::StepBudget, ..grpo() }
}

/// `loss_type = "cispo"` with `epsilon_high = 5.0`, the recipe that TRL's documentation names:
/// `epsilon_high` is the bound itself, and there is no lower one.
pub fn cispo() -> CispoConfig {
    CispoConfig::UpperBound { max: Bound::literal(5.0) }
}

/// What RLOO is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlooRecipe {
    /// From rewards and KLs to advantages.
    pub advantage: RlooAdvantageConfig,
    /// The range that a sequence's ratio may move in ([`rloo`](crate::loss::rloo)).
    pub clip: PpoClipConfig,
}

/// `RLOOConfig()`: k1 in the reward at β = 0.05, no clipping of rewards, no normalisation, ε = 0.2.
pub fn rloo() -> RlooRecipe {
    RlooRecipe {
        advantage: RlooAdvantageConfig {
            beta: Weight::literal(0.05),
            reward_clip_range: None,
            normalize_advantages: None,
        },
        clip: PpoClipConfig::new(Weight::literal(0.2)),
    }
}
