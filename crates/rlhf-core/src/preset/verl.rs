//! verl's defaults, as of mid 2026.

use super::{GrpoRecipe, Normaliser};
use crate::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single};
use crate::host::whiten::{Guard, Spread};
use crate::loss::cispo::CispoConfig;
use crate::loss::grpo::GrpoConfig;
use crate::loss::kl_penalty::{KlConfig, KlEstimator, KlGradient};
use crate::loss::ppo_clip::PpoClipConfig;
use crate::number::{Bound, Weight};

/// `algorithm.adv_estimator = grpo` with `actor.use_kl_loss = true`, as its GRPO examples have it:
/// (r − μ)/(σ + 10⁻⁶), a single completion keeps its reward, ε = 0.2 with the dual clip at 3
/// (`clip_ratio_c`), `low_var_kl` (k3, clamped at ±20 and ±10) at 0.001, `loss_agg_mode =
/// token-mean`: the micro-batch's own tokens.
pub fn grpo() -> GrpoRecipe {
    let guard = Guard::StdPlus(Weight::literal(1e-6));
    let clip = PpoClipConfig { delta: Bound::literal(3.0), ..PpoClipConfig::new(Weight::literal(0.2)) };
    GrpoRecipe {
        advantage: GroupAdvantageConfig {
            baseline: Baseline::GroupMean,
            scale: GroupScale::Group { spread: Spread::Unbiased, guard },
            single: Single::Raw,
        },
        reward_kl: None,
        loss: GrpoConfig { clip, beta: Weight::literal(0.001), kl: low_var_kl(KlGradient::Pathwise) },
        normaliser: Normaliser::BatchTokens,
    }
}

/// `low_var_kl`, or `low_var_kl+` with the straight-through gradient.
pub fn low_var_kl(gradient: KlGradient) -> KlConfig {
    KlConfig {
        input_clamp: Bound::literal(20.0),
        output_clamp: Bound::literal(10.0),
        ..KlConfig::new(KlEstimator::K3, gradient)
    }
}

/// `policy_loss.loss_mode = cispo`: the weight is held on both sides.
pub fn cispo() -> CispoConfig {
    let epsilon = Weight::literal(0.2);
    CispoConfig::TwoSided { epsilon_low: epsilon, epsilon_high: epsilon }
}
