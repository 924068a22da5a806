//! `kto.json`: KTO and the unpaired APO-zero, mean over the batch, with the KL baseline and TRL's
//! metrics.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::kto::{
    KtoConfig, Label, apo_zero_unpaired, apo_zero_unpaired_scalar, kl_baseline, kto, kto_scalar,
};
use rlhf_core::mask::{sequence_sum, sequence_sum_scalar};
use rlhf_core::number::{Beta, Weight};
use rlhf_core::real::{self, Dual, Real};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{gradient, host, mask, plain};

/// A batch, its masks without the first position: token t is predicted from position t − 1.
struct Batch {
    logps: Array,
    reference: Array,
    mask: Array,
    labels: Vec<Label>,
    config: KtoConfig,
    /// z; none for the loss that compares with nothing.
    baseline: Option<f64>,
}

/// What both precisions give.
struct Answer {
    losses: Vec<f64>,
    loss: f64,
    gradient: Vec<f64>,
    rewards: Vec<f64>,
    sums: Vec<f64>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&[
        "loss_type",
        "label",
        "beta",
        "desirable_weight",
        "undesirable_weight",
        "kl_policy_shift_per_token",
    ])?;
    let batch = read(case)?;
    let answer = match case.dtype() {
        "f64" => twin(&batch),
        "f32" => tensor(&batch, device),
        _ => return Err(case.unknown()),
    };
    Ok(quantities(&batch, &answer))
}

fn read(case: &Case<'_>) -> Result<Batch, String> {
    let weight = |name: &str| Weight::new(case.number(name)?).map_err(|e| e.to_string());
    let baseline = match (case.name().split('/').next(), case.text("loss_type")?) {
        (Some("kto"), "kto") => Some(baseline(case)?),
        (Some("apo_zero_unpaired"), "apo_zero_unpaired") => None,
        _ => return Err(case.unknown()),
    };
    let label = Array::read(case.param("label").ok_or("params.label: expected labels, found nothing")?)?;
    let of = |x: &f64| if *x > 0.0 { Label::Desirable } else { Label::Undesirable };
    Ok(Batch {
        logps: case.input("logps")?,
        reference: case.input("ref_logps")?,
        mask: scored(&case.input("completion_mask")?),
        labels: label.values.iter().map(of).collect(),
        config: KtoConfig {
            desirable_weight: weight("desirable_weight")?,
            undesirable_weight: weight("undesirable_weight")?,
            ..KtoConfig::new(Beta::new(case.number("beta")?).map_err(|e| e.to_string())?)
        },
        baseline,
    })
}

/// z of the mismatched pairs. The file's policy is its reference and a shift a token, added in `f32`
/// whatever the case's precision.
fn baseline(case: &Case<'_>) -> Result<f64, String> {
    let reference = case.input("kl_ref_logps")?;
    let shift = case.number("kl_policy_shift_per_token")? as f32;
    let ratio = |x: &f64| f64::from(*x as f32 + shift) - x;
    let rows = reference.rows();
    let masks = scored(&case.input("kl_completion_mask")?).rows();
    let sum = |(row, mask): (&Vec<f64>, &Vec<f64>)| {
        sequence_sum_scalar(&row.iter().map(ratio).collect::<Vec<_>>(), &flags(mask))
    };
    Ok(kl_baseline(&rows.iter().zip(&masks).map(sum).collect::<Vec<_>>()))
}

/// A mask without its first column.
fn scored(mask: &Array) -> Array {
    let rows = mask.rows();
    let width = rows.first().map_or(0, Vec::len) - 1;
    Array { shape: vec![rows.len(), width], values: rows.iter().flat_map(|r| r[1..].to_vec()).collect() }
}

fn flags(row: &[f64]) -> Vec<bool> {
    row.iter().map(|x| *x > 0.0).collect()
}

/// Sum of each sequence's masked tokens.
fn sums<R: Real>(tokens: &[R], mask: &Array) -> Vec<R> {
    let rows = mask.rows();
    let width = rows.first().map_or(1, Vec::len);
    tokens.chunks(width).zip(&rows).map(|(row, mask)| sequence_sum_scalar(row, &flags(mask))).collect()
}

fn losses<R: Real>(batch: &Batch, tokens: &[R]) -> Vec<R> {
    let reference = sums(&batch.reference.values, &batch.mask);
    let one = |(i, policy): (usize, R)| match batch.baseline {
        Some(z) => kto_scalar(batch.config, policy, reference[i], batch.labels[i], z),
        None => apo_zero_unpaired_scalar(batch.config, policy, reference[i], batch.labels[i]),
    };
    sums(tokens, &batch.mask).into_iter().enumerate().map(one).collect()
}

fn twin(batch: &Batch) -> Answer {
    let n = batch.labels.len() as f64;
    let mean = |x: &[Dual]| losses(batch, x).into_iter().sum::<Dual>() / n;
    let (loss, gradient) = real::gradient(&batch.logps.values, mean);
    let sums_of = sums(&batch.logps.values, &batch.mask);
    let reference = sums(&batch.reference.values, &batch.mask);
    let beta = batch.config.beta.get();
    Answer {
        losses: losses(batch, &batch.logps.values),
        loss,
        gradient,
        rewards: sums_of.iter().zip(reference).map(|(p, r)| beta * (p - r)).collect(),
        sums: sums_of,
    }
}

fn tensor(batch: &Batch, device: &Device) -> Answer {
    let leaf = plain(&batch.logps, &device.clone().autodiff()).require_grad();
    let on = leaf.device();
    let mask = mask(&batch.mask, &on);
    let policy = sequence_sum(leaf.clone(), &mask);
    let reference = sequence_sum(plain(&batch.reference, &on), &mask);
    let labels = Array {
        values: batch.labels.iter().map(|l| f64::from(u8::from(*l == Label::Desirable))).collect(),
        shape: vec![1, batch.labels.len()],
    };
    let desirable = super::rows::mask(&labels, &on).reshape([batch.labels.len()]);
    let out = match batch.baseline {
        Some(z) => kto(batch.config, policy.clone(), reference, &desirable, z),
        None => apo_zero_unpaired(batch.config, policy.clone(), reference, &desirable),
    };
    let loss: Tensor<1> = out.loss.clone().mean();
    let grads = loss.backward();
    Answer {
        losses: host(out.loss),
        loss: host(loss)[0],
        gradient: gradient(&leaf, &grads),
        rewards: host(out.reward),
        sums: host(policy),
    }
}

fn quantities(batch: &Batch, answer: &Answer) -> Computed {
    let with = |label: Label, x: &[f64]| -> Vec<f64> {
        x.iter().zip(&batch.labels).filter(|(_, l)| **l == label).map(|(x, _)| *x).collect()
    };
    let mut computed = Computed::default();
    computed.one("loss", answer.loss);
    computed.one("kl", batch.baseline.unwrap_or(0.0));
    let first = with(Label::Desirable, &answer.losses);
    computed.many("losses_desirable_first", [first, with(Label::Undesirable, &answer.losses)].concat());
    computed.many("grads.logps", answer.gradient.clone());
    let mean = |x: Vec<f64>| x.iter().sum::<f64>() / x.len() as f64;
    let mut rewards = Vec::new();
    for (label, name) in [(Label::Desirable, "chosen"), (Label::Undesirable, "rejected")] {
        let reward = mean(with(label, &answer.rewards));
        computed.one(&format!("metrics.rewards/{name}"), reward);
        computed.one(&format!("metrics.logps/{name}"), mean(with(label, &answer.sums)));
        rewards.push(reward);
    }
    computed.one("metrics.rewards/margins", rewards[0] - rewards[1]);
    computed
}
