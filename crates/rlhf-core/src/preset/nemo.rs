//! NeMo-RL's defaults (`examples/configs/grpo_math_1B.yaml`), as of mid 2026.

use super::{GrpoRecipe, Normaliser};
use crate::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single};
use crate::host::whiten::Guard;
use crate::loss::cispo::CispoConfig;
use crate::loss::grpo::GrpoConfig;
use crate::loss::kl_penalty::{KlConfig, KlEstimator, KlGradient};
use crate::loss::ppo_clip::PpoClipConfig;
use crate::number::{Bound, Weight};

/// The leave-one-out mean and deviation, 10⁻⁶ added to a deviation that is not 0, ε = 0.2 on both
/// sides, k3 at 0.01 clamped at ±20 and ±10 with the score term in its gradient, and
/// `token_level_loss = true` over the tokens of the optimiser step.
pub fn grpo() -> GrpoRecipe {
    GrpoRecipe {
        advantage: GroupAdvantageConfig {
            baseline: Baseline::LeaveOneOut,
            scale: GroupScale::LeaveOneOut { guard: Guard::StdPlus(Weight::literal(1e-6)) },
            single: Single::Zero,
        },
        reward_kl: None,
        loss: GrpoConfig {
            clip: PpoClipConfig::new(Weight::literal(0.2)),
            beta: Weight::literal(0.01),
            kl: KlConfig {
                input_clamp: Bound::literal(20.0),
                output_clamp: Bound::literal(10.0),
                ..KlConfig::new(KlEstimator::K3, KlGradient::WithScore)
            },
        },
        normaliser: Normaliser::StepTokens,
    }
}

/// Its CISPO test's numbers: the weight is held on both sides, at 0.8 and 1.2.
pub fn cispo() -> CispoConfig {
    let epsilon = Weight::literal(0.2);
    CispoConfig::TwoSided { epsilon_low: epsilon, epsilon_high: epsilon }
}
