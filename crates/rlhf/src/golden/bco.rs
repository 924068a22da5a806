//! `bco.json`: unpaired BCO over two steps, mean over the batch; the shift is the running mean with
//! this step's rewards, the prompts' density ratios are optional.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::bco::{
    BcoConfig, DensityRatioConfig, RunningMoments, bco, bco_scalar, density_ratio, density_ratio_scalar,
};
use rlhf_core::loss::kto::Label;
use rlhf_core::number::{Beta, Positive, Weight};
use rlhf_core::real::{self, Dual, Real};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::{gradient, host, mask, vector};

/// How far the log-probabilities move from one step to the next: what `steps` says.
const MOVES: &str = "step k adds 0.5*k to chosen, -0.25*k to rejected logps";

/// Chosen completions, then rejected ones.
struct Batch {
    policy: Vec<f64>,
    reference: Vec<f64>,
    n_chosen: usize,
    config: BcoConfig,
    /// Range of the density ratio, and the probability of each rejected completion's prompt.
    matching: Option<(DensityRatioConfig, Vec<f64>)>,
}

/// What both precisions give.
struct Answer {
    loss: f64,
    losses: Vec<f64>,
    gradient: Vec<f64>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&[
        "beta",
        "match_underlying_distribution",
        "prob_desirable",
        "min_density_ratio",
        "max_density_ratio",
        "steps",
    ])?;
    if case.name() != "bco" || case.text("steps")? != MOVES {
        return Err(case.unknown());
    }
    let mut moments = RunningMoments::default();
    let mut computed = Computed::default();
    for k in 0..2 {
        let batch = read(case, f64::from(k))?;
        let beta = batch.config.beta.get();
        let rewards: Vec<f64> =
            batch.policy.iter().zip(&batch.reference).map(|(p, r)| beta * (p - r)).collect();
        moments.update(&rewards);
        let answer = match case.dtype() {
            "f64" => twin(&batch, moments.mean),
            "f32" => tensor(&batch, moments.mean, device),
            _ => return Err(case.unknown()),
        };
        let (chosen, rejected) = answer.gradient.split_at(batch.n_chosen);
        let mut put = |what: &str, values: Vec<f64>| computed.many(&format!("steps.{k}.{what}"), values);
        put("loss", vec![answer.loss]);
        put("losses", answer.losses);
        put("grad_chosen", chosen.to_vec());
        put("grad_rejected", rejected.to_vec());
        put("delta", vec![moments.mean]);
        put("running_mean", vec![moments.mean]);
        put("running_std", vec![moments.std()]);
        put("running_count", vec![moments.count as f64]);
    }
    Ok(computed)
}

fn read(case: &Case<'_>, k: f64) -> Result<Batch, String> {
    let chosen = case.input("chosen_logps")?.values;
    let rejected = case.input("rejected_logps")?.values;
    let moved = |x: &[f64], by: f64| x.iter().map(|x| x + by * k).collect::<Vec<_>>();
    let matching = if case.switch("match_underlying_distribution")? {
        let low = Weight::new(case.number("min_density_ratio")?).map_err(|e| e.to_string())?;
        let high = Positive::new(case.number("max_density_ratio")?).map_err(|e| e.to_string())?;
        let prob =
            case.param("prob_desirable").ok_or("params.prob_desirable: expected numbers, found nothing")?;
        let range = DensityRatioConfig { min_density_ratio: low, max_density_ratio: high };
        Some((range, Array::read(prob)?.values))
    } else {
        None
    };
    Ok(Batch {
        n_chosen: chosen.len(),
        policy: [moved(&chosen, 0.5), moved(&rejected, -0.25)].concat(),
        reference: [case.input("ref_chosen_logps")?.values, case.input("ref_rejected_logps")?.values]
            .concat(),
        config: BcoConfig { beta: Beta::new(case.number("beta")?).map_err(|e| e.to_string())? },
        matching,
    })
}

impl Batch {
    fn label(&self, i: usize) -> Label {
        if i < self.n_chosen { Label::Desirable } else { Label::Undesirable }
    }

    /// The probability of each completion's prompt; that of a chosen one counts for nothing.
    fn probs(&self, rejected: &[f64]) -> Vec<f64> {
        [vec![0.5; self.n_chosen], rejected.to_vec()].concat()
    }
}

fn losses<R: Real>(batch: &Batch, policy: &[R], shift: f64) -> Vec<R> {
    let one = |(i, x): (usize, &R)| {
        let loss = bco_scalar(batch.config, *x, batch.reference[i], batch.label(i), shift);
        match &batch.matching {
            Some((range, prob)) => loss * density_ratio_scalar(*range, batch.probs(prob)[i], batch.label(i)),
            None => loss,
        }
    };
    policy.iter().enumerate().map(one).collect()
}

fn twin(batch: &Batch, shift: f64) -> Answer {
    let n = batch.policy.len() as f64;
    let mean = |x: &[Dual]| losses(batch, x, shift).into_iter().sum::<Dual>() / n;
    let (loss, gradient) = real::gradient(&batch.policy, mean);
    Answer { loss, losses: losses(batch, &batch.policy, shift), gradient }
}

fn tensor(batch: &Batch, shift: f64, device: &Device) -> Answer {
    let n = batch.policy.len();
    let leaf = vector(&batch.policy, &device.clone().autodiff()).require_grad();
    let on = leaf.device();
    let labels = (0..n).map(|i| f64::from(u8::from(batch.label(i) == Label::Desirable))).collect();
    let desirable = mask(&Array { values: labels, shape: vec![1, n] }, &on).reshape([n]);
    let loss = bco(batch.config, leaf.clone(), vector(&batch.reference, &on), &desirable, shift).loss;
    let losses = match &batch.matching {
        Some((range, prob)) => loss * density_ratio(*range, vector(&batch.probs(prob), &on), &desirable),
        None => loss,
    };
    let mean: Tensor<1> = losses.clone().mean();
    let grads = mean.backward();
    Answer { loss: host(mean)[0], losses: host(losses), gradient: gradient(&leaf, &grads) }
}
