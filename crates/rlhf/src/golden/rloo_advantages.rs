//! `rloo_advantages.json`: each completion against its siblings, with the KL in the reward.

use burn::tensor::Device;
use rlhf_core::host::interval::Interval;
use rlhf_core::host::kl::k1;
use rlhf_core::host::objectives::summed;
use rlhf_core::host::reinforce::{RlooAdvantageConfig, rloo_advantages};
use rlhf_core::host::whiten::{Centre, Spread, Whiten};
use rlhf_core::mask::sequence_sum_scalar;
use rlhf_core::number::Weight;

use super::case::{Array, Case};
use super::compare::Computed;
use super::grpo_advantages::{plus_epsilon, with_objectives};

pub(super) fn check(case: &Case<'_>, _device: &Device) -> Result<Computed, String> {
    case.knows_only(&[
        "rewards",
        "reward_weights",
        "beta",
        "normalize_advantages",
        "reward_clip_range",
        "num_generations",
    ])?;
    if !case.name().starts_with("rloo/") || !matches!(case.dtype(), "f64" | "f32") {
        return Err(case.unknown());
    }
    let normalize = case.switch("normalize_advantages")?;
    let how = Whiten { spread: Spread::Unbiased, guard: plus_epsilon()?, centre: Centre::Zero };
    let config = RlooAdvantageConfig {
        beta: Weight::new(case.number("beta")?).map_err(|e| e.to_string())?,
        reward_clip_range: clip_range(case)?,
        normalize_advantages: normalize.then_some(how),
    };
    let rewards = with_objectives(case, summed)?;
    let kl = kl(case)?;
    let kl: Vec<&[f64]> = kl.chunks(case.count("num_generations")? as usize).collect();
    let mut computed = Computed::default();
    computed.many("advantages", rloo_advantages(config, &rewards, &kl).advantages.concat());
    Ok(computed)
}

fn clip_range(case: &Case<'_>) -> Result<Option<Interval>, String> {
    let Some(range) = case.param("reward_clip_range") else { return Ok(None) };
    match Array::read(range)?.values[..] {
        [low, high] => Interval::new(low, high).map(Some).map_err(|e| e.to_string()),
        _ => Err(format!("params.reward_clip_range: expected two numbers, found {range}")),
    }
}

/// Σ_t (log π_old − log π_ref) of every completion.
fn kl(case: &Case<'_>) -> Result<Vec<f64>, String> {
    let (old, reference) = (case.input("old_logps")?.rows(), case.input("ref_logps")?.rows());
    let mask = case.input("completion_mask")?.rows();
    let row = |((old, reference), mask): ((&Vec<f64>, &Vec<f64>), &Vec<f64>)| {
        let kl: Vec<f64> = old.iter().zip(reference).map(|(p, q)| k1(*p, *q)).collect();
        let mask: Vec<bool> = mask.iter().map(|on| *on > 0.0).collect();
        sequence_sum_scalar(&kl, &mask)
    };
    Ok(old.iter().zip(&reference).zip(&mask).map(row).collect())
}
