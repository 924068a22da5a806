//! `reward.json`: the Bradley–Terry loss of a batch, mean over pairs, with TRL's metrics.

use burn::tensor::Device;
use rlhf_core::host::stable::sigmoid;
use rlhf_core::loss::bradley_terry::{BradleyTerryConfig, bradley_terry, bradley_terry_scalar};
use rlhf_core::number::Weight;

use super::case::Case;
use super::compare::Computed;
use super::rows::{gradient, host, vector};

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["rewards", "margin", "center_rewards_coefficient"])?;
    if !matches!(case.name(), "reward/normal" | "reward/extreme") {
        return Err(case.unknown());
    }
    let rewards = case.input(case.text("rewards")?)?.values;
    let n = rewards.len() / 2;
    let margin = if case.switch("margin")? { Some(case.input("margin")?.values) } else { None };
    let c = Weight::new(case.number_or("center_rewards_coefficient", 0.0)?).map_err(|e| e.to_string())?;
    let config = BradleyTerryConfig { center_rewards_coefficient: c };
    let mut computed = match case.dtype() {
        "f64" => twin(config, &rewards, margin.as_deref()),
        "f32" => tensor(config, &rewards, margin.as_deref(), device),
        _ => return Err(case.unknown()),
    };
    let dtype = case.dtype();
    let gaps: Vec<f64> = (0..n).map(|i| rewards[i] - rewards[n + i]).collect();
    computed.one("metrics.min_reward", rewards.iter().copied().fold(f64::INFINITY, f64::min));
    computed.one("metrics.max_reward", rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    computed.mean("metrics.mean_reward", &rewards, dtype);
    computed.mean("metrics.margin", &gaps, dtype);
    let right = gaps.iter().filter(|g| **g > 0.0).count();
    computed.one("metrics.accuracy", right as f64 / n as f64);
    Ok(computed)
}

fn twin(config: BradleyTerryConfig, rewards: &[f64], margin: Option<&[f64]>) -> Computed {
    let n = rewards.len() / 2;
    let c = config.center_rewards_coefficient.get();
    let (mut loss, mut grad) = (0.0, vec![0.0; 2 * n]);
    for i in 0..n {
        let pair = [rewards[i], rewards[n + i]];
        let m = margin.map_or(0.0, |m| m[i]);
        loss += bradley_terry_scalar(config, pair, m) / n as f64;
        // dℓ/dr⁺ = −σ(−(r⁺ − r⁻ − m)) + 2c (r⁺ + r⁻); the first part has the other sign for r⁻.
        let pull = sigmoid(-(pair[0] - pair[1] - m));
        let centre = 2.0 * c * (pair[0] + pair[1]);
        grad[i] = (centre - pull) / n as f64;
        grad[n + i] = (centre + pull) / n as f64;
    }
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("grads.rewards", grad);
    computed
}

fn tensor(config: BradleyTerryConfig, rewards: &[f64], margin: Option<&[f64]>, device: &Device) -> Computed {
    let n = rewards.len() / 2;
    let leaf = vector(rewards, &device.clone().autodiff()).require_grad();
    let on = leaf.device();
    let pair = [leaf.clone().narrow(0, 0, n), leaf.clone().narrow(0, n, n)];
    let loss = bradley_terry(config, pair, margin.map(|m| vector(m, &on))).loss.mean();
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", host(loss));
    computed.many("grads.rewards", gradient(&leaf, &grads));
    computed
}
