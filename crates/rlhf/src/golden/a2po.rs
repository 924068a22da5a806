//! `a2po.json`: the regression loss of A*-PO, mean over sequences, and its estimate of V*.

use burn::tensor::Device;
use rlhf_core::loss::a_star_po::{AStarPoConfig, a_star_po, a_star_po_scalar, optimal_value};
use rlhf_core::number::Beta;
use rlhf_core::real::{self, Dual};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{gradient, host, vector};

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    match (case.name(), case.dtype()) {
        ("a2po/v_star", "f64") => values(case),
        ("a2po", "f64") => twin(case),
        ("a2po", "f32") => tensor(case, device),
        _ => Err(case.unknown()),
    }
}

fn beta(case: &Case<'_>, name: &str) -> Result<Beta, String> {
    Beta::new(case.number(name)?).map_err(|e| e.to_string())
}

/// V* of each prompt, from the rewards of its completions.
fn values(case: &Case<'_>) -> Result<Computed, String> {
    case.knows_only(&["beta1", "rewards"])?;
    let beta1 = beta(case, "beta1")?;
    let rewards = case.param("rewards").ok_or("params.rewards: expected numbers, found nothing")?;
    let rewards = Array::read(rewards).map_err(|e| format!("params.rewards: {e}"))?.rows();
    let mut computed = Computed::default();
    computed.many("v_star", rewards.iter().map(|r| optimal_value(beta1, r)).collect());
    Ok(computed)
}

/// The config and four numbers a sequence: log-probability, the reference's, reward, V*.
fn inputs(case: &Case<'_>) -> Result<(AStarPoConfig, [Vec<f64>; 4]), String> {
    case.knows_only(&["beta2"])?;
    let read = |name| Ok::<_, String>(case.input(name)?.values);
    let config = AStarPoConfig { beta2: beta(case, "beta2")? };
    Ok((config, [read("logps")?, read("ref_logps")?, read("rewards")?, read("v_star")?]))
}

fn twin(case: &Case<'_>) -> Result<Computed, String> {
    let (config, [logp, reference, reward, value]) = inputs(case)?;
    let (loss, into) = real::gradient(&logp, |x| {
        let of = |(i, x): (usize, &Dual)| a_star_po_scalar(config, *x, reference[i], reward[i], value[i]);
        x.iter().enumerate().map(of).sum::<Dual>() / x.len() as f64
    });
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("grads.logps", into);
    Ok(computed)
}

fn tensor(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    let (config, [logp, reference, reward, value]) = inputs(case)?;
    let logp = vector(&logp, &device.clone().autodiff()).require_grad();
    let [reference, reward, value] = [reference, reward, value].map(|x| vector(&x, &logp.device()));
    let loss = a_star_po(config, logp.clone(), reference, reward, value).loss.mean();
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", host(loss));
    computed.many("grads.logps", gradient(&logp, &grads));
    Ok(computed)
}
