//! `grpo_advantages.json`: advantages of groups from the raw rewards of several functions.

use burn::tensor::Device;
use rlhf_core::host::advantage::{Baseline, GroupAdvantageConfig, GroupScale, Single, grouped, is_zero_std};
use rlhf_core::host::objectives::{Aggregation, Objective, objective_advantages};
use rlhf_core::host::whiten::{Centre, Guard, Spread, Whiten};
use rlhf_core::number::Weight;

use super::case::{Array, Case};
use super::compare::Computed;

/// What TRL adds to every deviation.
const EPSILON: f64 = 1e-4;

pub(super) fn check(case: &Case<'_>, _device: &Device) -> Result<Computed, String> {
    case.knows_only(&[
        "multi_objective_aggregation",
        "scale_rewards",
        "rewards",
        "reward_weights",
        "num_generations",
    ])?;
    if !case.name().starts_with("grpo/") || !matches!(case.dtype(), "f64" | "f32") {
        return Err(case.unknown());
    }
    let guard = plus_epsilon()?;
    let spread = Spread::Unbiased;
    let scale = match case.text("scale_rewards")? {
        "group" => GroupScale::Group { spread, guard },
        "batch" => GroupScale::Batch { spread, guard },
        "none" => GroupScale::None,
        other => return Err(format!("params.scale_rewards: expected group, batch or none, found {other}")),
    };
    let aggregation = match case.text("multi_objective_aggregation")? {
        "sum_then_normalize" => Aggregation::SumThenNormalize,
        "normalize_then_sum" => Aggregation::NormalizeThenSum(Whiten { spread, guard, centre: Centre::Zero }),
        _ => return Err(case.unknown()),
    };
    let config = GroupAdvantageConfig { baseline: Baseline::GroupMean, scale, single: Single::Zero };
    let found = with_objectives(case, |o| objective_advantages(aggregation, config, o))?;
    let std = found.std.concat();
    let mut computed = Computed::default();
    computed.many("advantages", found.advantages.concat());
    computed.many("is_std_zero", std.iter().map(|s| f64::from(u8::from(is_zero_std(*s)))).collect());
    computed.many("std_rewards", std);
    Ok(computed)
}

pub(super) fn plus_epsilon() -> Result<Guard, String> {
    Ok(Guard::StdPlus(Weight::new(EPSILON).map_err(|e| e.to_string())?))
}

/// `f` of the case's reward functions: columns of `rewards`, in groups of `num_generations`.
pub(super) fn with_objectives<T>(case: &Case<'_>, f: impl Fn(&[Objective<'_>]) -> T) -> Result<T, String> {
    let rows = case.input(case.text("rewards")?)?.rows();
    let weights = case.param("reward_weights").ok_or_else(|| case.unknown())?;
    let weights = Array::read(weights).map_err(|e| format!("params.reward_weights: {e}"))?.values;
    if rows.iter().any(|row| row.len() != weights.len()) {
        return Err(format!("params.reward_weights: expected one a column, found {}", weights.len()));
    }
    let n_generations = case.count("num_generations")? as usize;
    let columns: Vec<Vec<f64>> =
        (0..weights.len()).map(|k| rows.iter().map(|row| row[k]).collect()).collect();
    let groups = columns.iter().map(|column| grouped(column, n_generations).map_err(|e| e.to_string()));
    let groups = groups.collect::<Result<Vec<_>, _>>()?;
    let objective = |(weight, rewards)| Objective { weight, rewards };
    let objectives: Vec<Objective<'_>> =
        weights.into_iter().zip(groups.iter().map(Vec::as_slice)).map(objective).collect();
    Ok(f(&objectives))
}
