//! `superhf_official.json`: a minibatch's loss as the authors compute it: summed KL, unshifted KL
//! positions.

use burn::tensor::Device;
use rlhf_core::loss::cross_entropy::cross_entropy;
use rlhf_core::loss::superhf::{
    KlPositions, KlReduction, SuperhfConfig, SuperhfExample, forward_kl, forward_kl_scalar, superhf_scalar,
};
use rlhf_core::number::Weight;

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{
    add, gradient, host, indices, leaf, plain, predicted, softmax, token_logp_gradient, vector,
};

struct Minibatch {
    logits: Array,
    base: Array,
    labels: Vec<i64>,
    /// Length of a row of labels.
    t: usize,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["inverse_loss_penalty", "kl_coefficient"])?;
    if case.name() != "superhf" {
        return Err(case.unknown());
    }
    let weight = |name: &str| Weight::new(case.number(name)?).map_err(|e| format!("params.{name}: {e}"));
    let config = SuperhfConfig {
        beta: weight("kl_coefficient")?,
        reduction: KlReduction::Sum,
        positions: KlPositions::Official,
        inverse_loss: weight("inverse_loss_penalty")?,
    };
    let labels = case.input("labels")?;
    let batch = Minibatch {
        logits: case.input("logits")?,
        base: case.input("base_logits")?,
        t: labels.shape.last().copied().unwrap_or(1),
        labels: labels.whole(),
    };
    match case.dtype() {
        "f64" => Ok(twin(config, &batch)),
        "f32" => Ok(tensor(config, &batch, device)),
        _ => Err(case.unknown()),
    }
}

impl Minibatch {
    /// Labelled positions of each example, in the flattened `B · T`.
    fn labelled(&self) -> Vec<Vec<usize>> {
        let example = |b: usize| (b * self.t..(b + 1) * self.t).filter(|i| self.labels[*i] >= 0).collect();
        (0..self.labels.len() / self.t).map(example).collect()
    }
}

fn twin(config: SuperhfConfig, batch: &Minibatch) -> Computed {
    let (policy, prior) = (batch.logits.rows(), batch.base.rows());
    let targets: Vec<Option<usize>> = batch.labels.iter().map(|y| usize::try_from(*y).ok()).collect();
    let span = |b: usize| b * batch.t..(b + 1) * batch.t;
    let example = |b: usize| SuperhfExample {
        policy: &policy[span(b)],
        prior: &prior[span(b)],
        targets: &targets[span(b)],
    };
    let examples: Vec<SuperhfExample<'_>> = (0..targets.len() / batch.t).map(example).collect();
    let found = superhf_scalar(config, &examples);

    let v = policy[0].len();
    let mut grad = vec![0.0; policy.len() * v];
    let scored = predicted(&batch.labels, batch.t);
    // d(CE + C / CE) = (1 − C / CE²) dCE.
    let slope = 1.0 - config.inverse_loss.get() / found.cross_entropy.powi(2);
    for &(at, y) in &scored {
        let into = &mut grad[at * v..(at + 1) * v];
        add(into, -slope / scored.len() as f64, &token_logp_gradient(&policy[at], y));
    }
    for positions in batch.labelled() {
        let n = positions.len() as f64;
        let kl: f64 = positions.iter().map(|at| forward_kl_scalar(&policy[*at], &prior[*at])).sum();
        // The clamp at 0 lets no gradient through.
        let weight = if kl > 0.0 { config.beta.get() / n } else { 0.0 };
        for at in positions {
            let into = &mut grad[at * v..(at + 1) * v];
            add(into, weight, &softmax(&policy[at]));
            add(into, -weight, &softmax(&prior[at]));
        }
    }
    answers(found.loss, found.cross_entropy, found.kl_sum, grad)
}

fn tensor(config: SuperhfConfig, batch: &Minibatch, device: &Device) -> Computed {
    let logits = leaf(&batch.logits, device);
    let on = logits.device();
    let (at, y): (Vec<usize>, Vec<usize>) = predicted(&batch.labels, batch.t).into_iter().unzip();
    let nll = cross_entropy(logits.clone().select(0, indices(&at, &on)), indices(&y, &on)).mean();

    let labelled = batch.labelled();
    let every: Vec<usize> = labelled.concat();
    let share: Vec<f64> = labelled.iter().flat_map(|p| vec![1.0 / p.len() as f64; p.len()]).collect();
    let prior = plain(&batch.base, device).select(0, indices(&every, device));
    let policy = logits.clone().select(0, indices(&every, &on));
    // Each example's KL is above 0 in these files; the clamp is the twin's.
    let kl = (forward_kl(policy, prior) * vector(&share, &on)).sum();

    let mut loss = nll.clone();
    let inverse = config.inverse_loss.get();
    if inverse > 0.0 {
        loss = loss + nll.clone().recip().mul_scalar(inverse);
    }
    loss = loss + kl.clone().mul_scalar(config.beta.get());
    let grads = loss.backward();
    answers(host(loss)[0], host(nll)[0], host(kl)[0], gradient(&logits, &grads))
}

fn answers(loss: f64, nll: f64, sum_kl: f64, grad: Vec<f64>) -> Computed {
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.one("nll", nll);
    computed.one("sum_kl", sum_kl);
    computed.many("grads.logits", grad);
    computed
}
