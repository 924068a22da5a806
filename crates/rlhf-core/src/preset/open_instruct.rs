//! open-instruct's defaults, as of mid 2026.

use super::{GrpoRecipe, Normaliser};
use crate::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single};
use crate::host::whiten::{Guard, Spread};
use crate::loss::cispo::CispoConfig;
use crate::loss::grpo::GrpoConfig;
use crate::loss::kl_penalty::KlConfig;
use crate::loss::ppo_clip::PpoClipConfig;
use crate::number::{Bound, Weight};

/// The defaults of `GRPOExperimentConfig`: r − μ (`advantage_normalization_type = "centered"`), clip
/// 0.2 below and 0.272 above, k3 (`kl_estimator = 2`, the log-ratio held at ±40) at 0.05, and `loss_denominator = "token"`, the
/// tokens of the batch. Its truncated importance weight for the rollout engine (cap 2) is
/// [`off_policy`](crate::host::off_policy)'s and not in the recipe.
pub fn grpo() -> GrpoRecipe {
    GrpoRecipe {
        advantage: GroupAdvantageConfig {
            baseline: Baseline::GroupMean,
            scale: GroupScale::None,
            single: Single::Zero,
        },
        reward_kl: None,
        loss: GrpoConfig {
            clip: PpoClipConfig {
                epsilon_low: Weight::literal(0.2),
                epsilon_high: Weight::literal(0.272),
                delta: Bound::NONE,
            },
            beta: Weight::literal(0.05),
            kl: KlConfig { input_clamp: Bound::literal(40.0), ..KlConfig::paper() },
        },
        normaliser: Normaliser::StepTokens,
    }
}

/// `advantage_normalization_type = "standard"`: (r − μ)/(σ + 10⁻⁸) with NumPy's biased σ.
pub fn grpo_standard() -> GrpoRecipe {
    let guard = Guard::StdPlus(Weight::literal(1e-8));
    let scale = GroupScale::Group { spread: Spread::Biased, guard };
    let recipe = grpo();
    GrpoRecipe { advantage: GroupAdvantageConfig { scale, ..recipe.advantage }, ..recipe }
}

/// `loss_fn = "cispo"`: the weight is held below 1 + `clip_higher`, and not from below.
pub fn cispo() -> CispoConfig {
    CispoConfig::UpperBound { max: Bound::literal(1.272) }
}
