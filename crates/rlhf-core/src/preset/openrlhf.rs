//! OpenRLHF's defaults, as of mid 2026.

use super::{GrpoRecipe, Normaliser, RewardKl};
use crate::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single};
use crate::host::whiten::{Guard, Spread};
use crate::loss::grpo::GrpoConfig;
use crate::loss::kl_penalty::{KlConfig, KlEstimator};
use crate::loss::ppo_clip::PpoClipConfig;
use crate::number::{Bound, Weight};

/// `--advantage_estimator group_norm`: (r − μ)/(σ + 10⁻⁹), the KL (k1, held at ±10, `--init_kl_coef`
/// 0.01) in the reward, where a token's advantage also pays for the KL of those after it, ε = 0.2, no
/// dual clip, and the tokens of the optimiser step.
pub fn grpo() -> GrpoRecipe {
    let guard = Guard::StdPlus(Weight::literal(1e-9));
    GrpoRecipe {
        advantage: GroupAdvantageConfig {
            baseline: Baseline::GroupMean,
            scale: GroupScale::Group { spread: Spread::Unbiased, guard },
            single: Single::Zero,
        },
        reward_kl: Some(RewardKl {
            beta: Weight::literal(0.01),
            estimator: KlEstimator::K1,
            output_clamp: Bound::literal(10.0),
        }),
        loss: GrpoConfig {
            clip: PpoClipConfig::new(Weight::literal(0.2)),
            beta: Weight::ZERO,
            kl: KlConfig::paper(),
        },
        normaliser: Normaliser::StepTokens,
    }
}

/// `--advantage_estimator rloo`: the reward less the mean of the others', the rest as [`grpo`].
pub fn rloo() -> GrpoRecipe {
    let advantage = GroupAdvantageConfig {
        baseline: Baseline::LeaveOneOut,
        scale: GroupScale::None,
        single: Single::Zero,
    };
    GrpoRecipe { advantage, ..grpo() }
}
