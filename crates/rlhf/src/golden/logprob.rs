//! `logprob_entropy.json`: token log-probabilities and entropies of rows, with gradients of
//! `Σ w log p + Σ w₂ H`.

use burn::tensor::Device;
use rlhf_core::logp::{
    at_temperature, entropy, entropy_scalar, selected_logp, token_logp, token_logp_scalar,
};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{add, entropy_gradient, gradient, host, indices, leaf, plain, token_logp_gradient, vector};

/// What a case asks for.
struct Task {
    logits: Array,
    /// Rows that count; the others give 0.
    rows: Vec<usize>,
    tokens: Vec<usize>,
    /// Weight of each row's log-probability and entropy in the loss; empty where not asked.
    logp_weight: Vec<f64>,
    entropy_weight: Vec<f64>,
    temperature: f64,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["temperature", "row_mask", "note"])?;
    if case.name() == "selective_log_softmax_topk" {
        return top_k(case, device);
    }
    let (with_logp, with_entropy) = match case.name() {
        "selective_log_softmax" => (true, false),
        "entropy_from_logits" => (false, true),
        "selective_log_softmax_and_entropy" => (true, true),
        _ => return Err(case.unknown()),
    };
    let masked = case.param("row_mask").is_some() && case.switch("row_mask")?;
    let mut logits = case.input("logits")?;
    let n_rows = logits.rows().len();
    let mask = if masked { case.input("row_mask")?.whole() } else { vec![1; n_rows] };
    if case.dtype() == "bf16" {
        logits.values.iter_mut().for_each(|x| *x = f64::from(to_bf16(*x as f32)));
    }
    let when = |on: bool, name: &str| -> Result<Vec<f64>, String> {
        if on { Ok(case.input(name)?.values) } else { Ok(Vec::new()) }
    };
    let task = Task {
        logits,
        rows: (0..n_rows).filter(|r| mask[*r] != 0).collect(),
        tokens: case.input("index")?.whole().iter().map(|i| *i as usize).collect(),
        logp_weight: when(with_logp, "w")?,
        entropy_weight: when(with_entropy, "w2")?,
        temperature: case.number_or("temperature", 1.0)?,
    };
    match case.dtype() {
        "f64" => Ok(twin(&task)),
        "f32" => Ok(tensor(&task, device)),
        "bf16" => {
            let mut computed = tensor(&task, device).map(|x| f64::from(to_bf16(x as f32)));
            computed.allow("log_probs", &normaliser_rounding(&task.logits));
            Ok(computed)
        }
        _ => Err(case.unknown()),
    }
}

fn twin(task: &Task) -> Computed {
    let rows = task.logits.rows();
    let v = rows[0].len();
    let (mut logp, mut h) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
    let mut grad = vec![0.0; rows.len() * v];
    for &r in &task.rows {
        let z: Vec<f64> = rows[r].iter().map(|z| z / task.temperature).collect();
        logp[r] = token_logp_scalar(&z, task.tokens[r]);
        h[r] = entropy_scalar(&z);
        let into = &mut grad[r * v..(r + 1) * v];
        if let Some(w) = task.logp_weight.get(r) {
            add(into, w / task.temperature, &token_logp_gradient(&z, task.tokens[r]));
        }
        if let Some(w) = task.entropy_weight.get(r) {
            add(into, w / task.temperature, &entropy_gradient(&z));
        }
    }
    answers(logp, h, grad)
}

fn tensor(task: &Task, device: &Device) -> Computed {
    let logits = leaf(&task.logits, device);
    let on = logits.device();
    let z = at_temperature(logits.clone().select(0, indices(&task.rows, &on)), task.temperature);
    let tokens: Vec<usize> = task.rows.iter().map(|r| task.tokens[*r]).collect();
    let logp = token_logp(z.clone(), indices(&tokens, &on));
    let h = entropy(z);
    let weight = |all: &[f64]| {
        let picked: Vec<f64> = task.rows.iter().map(|r| all.get(*r).copied().unwrap_or(0.0)).collect();
        vector(&picked, &on)
    };
    let loss =
        (logp.clone() * weight(&task.logp_weight)).sum() + (h.clone() * weight(&task.entropy_weight)).sum();
    let grads = loss.backward();
    let spread = |values: Vec<f64>| {
        let mut all = vec![0.0; task.tokens.len()];
        task.rows.iter().zip(values).for_each(|(r, x)| all[*r] = x);
        all
    };
    answers(spread(host(logp)), spread(host(h)), gradient(&logits, &grads))
}

fn answers(logp: Vec<f64>, entropy: Vec<f64>, grad: Vec<f64>) -> Computed {
    let mut computed = Computed::default();
    computed.many("log_probs", logp);
    computed.many("entropy", entropy);
    computed.many("grads.logits", grad);
    computed
}

/// Several tokens a row; values only.
fn top_k(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    let logits = case.input("logits")?;
    let tokens = case.input("index_k")?;
    let rows = logits.rows();
    let k = tokens.shape.last().copied().unwrap_or(1);
    let chosen: Vec<usize> = tokens.whole().iter().map(|i| *i as usize).collect();
    let logp = match case.dtype() {
        "f64" => {
            let one = |(j, token): (usize, &usize)| token_logp_scalar(&rows[j / k], *token);
            chosen.iter().enumerate().map(one).collect()
        }
        "f32" => {
            let tokens = indices(&chosen, device).reshape([rows.len(), k]);
            host(selected_logp(plain(&logits, device), tokens))
        }
        _ => return Err(case.unknown()),
    };
    let mut computed = Computed::default();
    computed.many("log_probs", logp);
    Ok(computed)
}

/// PyTorch keeps a row's `log Σ exp z` in bf16, which is off by half a unit of its last place: up to
/// 2⁻⁸ of its size, and that is the largest logit's.
fn normaliser_rounding(logits: &Array) -> Vec<f64> {
    let size = |row: &Vec<f64>| row.iter().fold(0.0, |m: f64, z| m.max(z.abs()));
    logits.rows().iter().map(|row| 2f64.powi(-8) * size(row)).collect()
}

/// To the nearest bfloat16, ties to even.
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let odd = (bits >> 16) & 1;
    f32::from_bits(bits.wrapping_add(0x7fff + odd) & 0xffff_0000)
}
