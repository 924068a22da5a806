//! `sft.json`: the loss of a supervised batch, plain, smoothed and dynamic, with TRL's metrics.

use burn::tensor::Device;
use rlhf_core::host::stable::log_softmax;
use rlhf_core::logp::{entropy, entropy_scalar, token_logp_scalar};
use rlhf_core::loss::cross_entropy::{
    CrossEntropyConfig, cross_entropy, cross_entropy_scalar, cross_entropy_smoothed,
    cross_entropy_smoothed_scalar,
};
use rlhf_core::loss::dft::{dft, dft_scalar};
use rlhf_core::number::Prob;

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{add, gradient, host, indices, leaf, predicted, softmax, token_logp_gradient};

/// Which loss.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Smoothed(CrossEntropyConfig),
    Dynamic,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["loss_type", "num_items_in_batch", "label_smoothing_factor", "labels"])?;
    let eps = Prob::new(case.number("label_smoothing_factor")?).map_err(|e| e.to_string())?;
    let kind = match (case.name(), case.text("loss_type")?, eps.get() > 0.0) {
        ("sft/nll", "nll", false) => Kind::Plain,
        ("sft/nll", "nll", true) => Kind::Smoothed(CrossEntropyConfig { label_smoothing: eps }),
        ("sft/dft", "dft", false) => Kind::Dynamic,
        _ => return Err(case.unknown()),
    };
    let logits = case.input("logits")?;
    let labels = case.input("labels")?;
    let scored = match case.text("labels")? {
        "partial" => predicted(&labels.whole(), labels.shape.last().copied().unwrap_or(1)),
        "all_ignored" => Vec::new(),
        other => return Err(format!("params.labels: expected partial or all_ignored, found {other}")),
    };
    // TRL divides by the label tokens of the accumulation window, or else of this batch.
    let n_items = case.number_or("num_items_in_batch", scored.len().max(1) as f64)?;
    let mut computed = match case.dtype() {
        "f64" => twin(kind, &logits, &scored, n_items),
        "f32" => tensor(kind, &logits, &scored, n_items, device),
        _ => return Err(case.unknown()),
    };
    if let Kind::Smoothed(config) = kind {
        // `LabelSmoother` sums the smoothed part in f32, whatever the logits are.
        let unit = f64::from(f32::EPSILON) * config.label_smoothing.get() / n_items;
        let v = logits.shape.last().copied().unwrap_or(1) as f64;
        let rows = logits.rows();
        let uniform = |(at, _): &(usize, usize)| -log_softmax(&rows[*at]).iter().sum::<f64>() / v;
        computed.allow("loss", &[unit * scored.iter().map(uniform).sum::<f64>()]);
        computed.allow("grads.logits", &[unit]);
    }
    let n_tokens = case.input("attention_mask")?.values.iter().sum();
    computed.one("metrics.num_tokens", n_tokens);
    let rows = logits.rows();
    let right = scored.iter().filter(|(at, y)| argmax(&rows[*at]) == *y).count();
    computed.one("metrics.mean_token_accuracy", right as f64 / scored.len().max(1) as f64);
    Ok(computed)
}

fn twin(kind: Kind, logits: &Array, scored: &[(usize, usize)], n_items: f64) -> Computed {
    let rows = logits.rows();
    let v = rows[0].len();
    let (mut loss, mut h, mut grad) = (0.0, 0.0, vec![0.0; rows.len() * v]);
    for &(at, y) in scored {
        let z = &rows[at];
        let into = &mut grad[at * v..(at + 1) * v];
        h += entropy_scalar(z) / scored.len() as f64;
        loss += match kind {
            Kind::Plain => cross_entropy_scalar(z, y),
            Kind::Smoothed(config) => cross_entropy_smoothed_scalar(config, z, y),
            Kind::Dynamic => dft_scalar(z, y),
        } / n_items;
        match kind {
            Kind::Plain => add(into, -1.0 / n_items, &token_logp_gradient(z, y)),
            Kind::Smoothed(config) => {
                // p − (1 − ε) e_y − ε/V = −(1 − ε)(e_y − p) + ε (p − 1/V).
                let eps = config.label_smoothing.get();
                let off: Vec<f64> = softmax(z).into_iter().map(|p| p - 1.0 / v as f64).collect();
                add(into, -(1.0 - eps) / n_items, &token_logp_gradient(z, y));
                add(into, eps / n_items, &off);
            }
            Kind::Dynamic => {
                let weight = token_logp_scalar(z, y).exp();
                add(into, -weight / n_items, &token_logp_gradient(z, y));
            }
        }
    }
    answers(loss, h, grad)
}

fn tensor(kind: Kind, logits: &Array, scored: &[(usize, usize)], n_items: f64, device: &Device) -> Computed {
    let leaf = leaf(logits, device);
    if scored.is_empty() {
        return answers(0.0, 0.0, vec![0.0; logits.values.len()]);
    }
    let on = leaf.device();
    let (at, y): (Vec<usize>, Vec<usize>) = scored.iter().copied().unzip();
    let z = leaf.clone().select(0, indices(&at, &on));
    let targets = indices(&y, &on);
    let h = host(entropy(z.clone()).mean())[0];
    let losses = match kind {
        Kind::Plain => cross_entropy(z, targets),
        Kind::Smoothed(config) => cross_entropy_smoothed(config, z, targets),
        Kind::Dynamic => dft(z, targets),
    };
    let loss = losses.sum().div_scalar(n_items);
    let grads = loss.backward();
    answers(host(loss)[0], h, gradient(&leaf, &grads))
}

fn answers(loss: f64, entropy: f64, grad: Vec<f64>) -> Computed {
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.one("metrics.entropy", entropy);
    computed.many("grads.logits", grad);
    computed
}

fn argmax(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}
