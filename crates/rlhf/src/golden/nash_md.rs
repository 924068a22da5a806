//! `nash_md.json`: TRL's Nash-MD loss, mean over completions, and the mixture it samples from.

use burn::tensor::Device;
use rlhf_core::host::stable::sigmoid;
use rlhf_core::loss::nash_md::{
    NashMdConfig, NashMdKl, geometric_mixture, geometric_mixture_scalar, nash_md, nash_md_scalar,
};
use rlhf_core::mask::sequence_sum_scalar;
use rlhf_core::number::{Beta, Prob};
use rlhf_core::real::{Dual, gradient as twin_gradient};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{gradient, host, leaf, mask, plain, vector};

/// Completions drawn from the policy, and how often each is preferred to the opponent's.
struct Batch {
    logps: Array,
    ref_logps: Array,
    /// All true: TRL's log-probabilities are 0 behind the mask before its loss, and its gradient, which
    /// sees no mask, is in those.
    mask: Array,
    probs: Vec<f64>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    match case.name() {
        "nash_md" => loss(case, device),
        "geometric_mixture" => mixture(case, device),
        _ => Err(case.unknown()),
    }
}

fn loss(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["beta"])?;
    let beta = Beta::new(case.number("beta")?).map_err(|e| e.to_string())?;
    let config = NashMdConfig { beta, kl: NashMdKl::Token };
    let scores = [case.input("model_scores")?.values, case.input("mixture_scores")?.values];
    let probs = scores[0].iter().zip(&scores[1]).map(|(model, mixture)| sigmoid(model - mixture)).collect();
    let logps = case.input("logps")?;
    let mask = Array { values: vec![1.0; logps.values.len()], shape: logps.shape.clone() };
    let batch = Batch { logps, ref_logps: case.input("ref_logps")?, mask, probs };
    let mut computed = match case.dtype() {
        "f64" => twin(config, &batch),
        "f32" => tensor(config, &batch, device),
        _ => return Err(case.unknown()),
    };
    computed.many("probability", batch.probs);
    Ok(computed)
}

fn twin(config: NashMdConfig, batch: &Batch) -> Computed {
    let n = batch.probs.len() as f64;
    let (policy, reference) = (batch.logps.rows(), batch.ref_logps.rows());
    let mask: Vec<Vec<bool>> =
        batch.mask.rows().iter().map(|row| row.iter().map(|on| *on > 0.0).collect()).collect();
    let mean = |x: &[Dual]| -> Dual {
        let rows = x.chunks(mask[0].len()).enumerate();
        rows.map(|(i, row)| nash_md_scalar(config, row, &reference[i], &mask[i], batch.probs[i]))
            .sum::<Dual>()
            / n
    };
    let (loss, grad) = twin_gradient(&batch.logps.values, mean);
    let sum = |of: &[Vec<f64>], i: usize| sequence_sum_scalar(&of[i], &mask[i]);
    let rows = || 0..batch.probs.len();
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("score", rows().map(|i| (batch.probs[i] - 0.5) * sum(&policy, i)).collect());
    computed.many("kl_div_log", rows().map(|i| sum(&policy, i) - sum(&reference, i)).collect());
    computed.many("grads.logps", grad);
    computed
}

fn tensor(config: NashMdConfig, batch: &Batch, device: &Device) -> Computed {
    let leaf = leaf(&batch.logps, device);
    let on = leaf.device();
    let reference = plain(&batch.ref_logps, &on);
    let probs = vector(&batch.probs, &on);
    let out = nash_md(config, leaf.clone(), reference, &mask(&batch.mask, &on), probs);
    let loss = out.loss.mean();
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", host(loss));
    computed.many("score", host(out.score));
    computed.many("kl_div_log", host(out.kl));
    computed.many("grads.logps", gradient(&leaf, &grads));
    computed
}

fn mixture(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["mixture_coef"])?;
    let coef = Prob::new(case.number("mixture_coef")?).map_err(|e| e.to_string())?;
    let (policy, reference) = (case.input("policy_logits")?, case.input("ref_logits")?);
    let logits = match case.dtype() {
        "f64" => {
            let rows = policy.rows().into_iter().zip(reference.rows());
            rows.flat_map(|(p, q)| geometric_mixture_scalar(coef, &p, &q)).collect()
        }
        "f32" => host(geometric_mixture(coef, plain(&policy, device), plain(&reference, device))),
        _ => return Err(case.unknown()),
    };
    let mut computed = Computed::default();
    computed.many("logits", logits);
    Ok(computed)
}
