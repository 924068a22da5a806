//! `dpo_trl024.json`: TRL 0.24's losses on pairs from the log-probabilities of completions.

use burn::tensor::{Device, Tensor};
use rlhf_core::loss::bco::{BcoPairConfig, RunningMoments};
use rlhf_core::loss::ipo::IpoConfig;
use rlhf_core::number::{Beta, Finite};
use rlhf_core::pair::{FDivergence, reference_free};
use rlhf_core::real::{self, Dual, Real};

use super::case::{Array, Case};
use super::compare::Computed;
use super::dpo::losses::{Loss, Numbers, Pairs};
use super::dpo::metrics;
use super::rows::{gradient, host, vector};

/// What a name may say beside the loss.
const VARIANTS: [&str; 7] =
    ["label_smoothing", "rpo_alpha", "reference_free", "mpo", "f", "alpha_divergence", "js_divergence"];

const PARAMS: [&str; 8] =
    ["loss_type", "loss_weights", "beta", "label_smoothing", "rpo_alpha", "reference_free", "fd", "fparams"];

/// A term of the sum.
#[derive(Debug, Clone, Copy)]
enum Term {
    Pairs(Loss),
    Nll,
}

struct Plan {
    /// Each with its weight.
    terms: Vec<(Term, f64)>,
    reference_free: bool,
}

struct Batch {
    policy: [Vec<f64>; 2],
    reference: [Vec<f64>; 2],
    nll: f64,
}

struct Found {
    losses: Vec<f64>,
    loss: f64,
    /// Chosen, rejected, and that of the NLL.
    grad: [Vec<f64>; 3],
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    let batch = Batch::read(case)?;
    let numbers = numbers(case)?;
    let (plan, total) = plan(case, &batch, &numbers)?;
    let found = match case.dtype() {
        "f64" => twin(&plan, &batch),
        "f32" => tensor(&plan, &batch, device),
        _ => return Err(case.unknown()),
    };
    let mut computed = Computed::default();
    computed.one("loss", found.loss);
    computed.many("losses", found.losses);
    for (name, grad) in ["chosen_logps", "rejected_logps", "nll_loss"].into_iter().zip(found.grad) {
        computed.many(&format!("grads.{name}"), grad);
    }
    // 0.24 adds the rewards of all losses up, each with the loss's weight.
    let rewards = [0, 1].map(|k| batch.rewards(numbers.beta.get() * total, k));
    metrics(&mut computed, [&rewards[0], &rewards[1]], case.dtype());
    Ok(computed)
}

impl Batch {
    fn read(case: &Case<'_>) -> Result<Self, String> {
        let of = |name: &str| case.input(name).map(|x| x.values);
        let policy = [of("chosen_logps")?, of("rejected_logps")?];
        let reference = [of("ref_chosen_logps")?, of("ref_rejected_logps")?];
        let lengths: Vec<usize> = policy.iter().chain(&reference).map(Vec::len).collect();
        if lengths[0] == 0 || lengths.iter().any(|n| *n != lengths[0]) {
            return Err(format!("inputs: expected log-probabilities of one length, found {lengths:?}"));
        }
        Ok(Self { policy, reference, nll: of("nll_loss")?.iter().sum() })
    }

    /// β times the log-ratios of chosen or rejected.
    fn rewards(&self, beta: f64, k: usize) -> Vec<f64> {
        self.policy[k].iter().zip(&self.reference[k]).map(|(p, r)| beta * (p - r)).collect()
    }
}

fn numbers(case: &Case<'_>) -> Result<Numbers, String> {
    let f_divergence = match case.param("fd").map(|v| v.as_str()) {
        None => FDivergence::ReverseKl,
        Some(Some("js_divergence")) => FDivergence::JsDivergence,
        Some(Some("alpha_divergence")) => {
            // 0.24 writes (1 − u⁻ᵃ) / a: ours at α = 1 − a. It caps the exponent where the exponential
            // is the largest number of the dtype, beyond which ours is infinite.
            let a = case.param("fparams").and_then(|v| v["alpha_divergence_coef"].as_f64());
            let a = a.ok_or("params.fparams: expected a number alpha_divergence_coef, found none")?;
            FDivergence::AlphaDivergence(Finite::new(1.0 - a).map_err(|e| e.to_string())?)
        }
        Some(other) => return Err(format!("params.fd: expected a known one, found {other:?}")),
    };
    Ok(Numbers {
        beta: Beta::new(case.number("beta")?).map_err(|e| format!("params.beta: {e}"))?,
        label_smoothing: case.number_or("label_smoothing", 0.0)?,
        f_divergence,
        discopop_tau: 0.05,
    })
}

/// The terms, and the sum of the weights of the losses.
fn plan(case: &Case<'_>, batch: &Batch, numbers: &Numbers) -> Result<(Plan, f64), String> {
    case.knows_only(&PARAMS)?;
    let types: Vec<&str> = match case.param("loss_type") {
        Some(serde_json::Value::Array(list)) => list.iter().filter_map(|v| v.as_str()).collect(),
        _ => vec![case.text("loss_type")?],
    };
    if !case.name().split('/').all(|part| VARIANTS.contains(&part) || types == [part]) {
        return Err(case.unknown());
    }
    let terms = types.iter().map(|name| term(name, batch, numbers)).collect::<Result<Vec<_>, _>>()?;
    let weights = match case.param("loss_weights") {
        Some(weights) => Array::read(weights)?.values,
        None => vec![1.0; terms.len()],
    };
    if weights.len() != terms.len() {
        return Err(format!("params.loss_weights: expected {}, found {}", terms.len(), weights.len()));
    }
    let total = weights.iter().sum();
    let mut terms: Vec<(Term, f64)> = terms.into_iter().zip(weights).collect();
    if case.param("rpo_alpha").is_some() {
        terms.push((Term::Nll, case.number("rpo_alpha")?));
    }
    let reference_free = case.param("reference_free").is_some() && case.switch("reference_free")?;
    Ok((Plan { terms, reference_free }, total))
}

/// What differs from 1.16 by name.
fn term(name: &str, batch: &Batch, numbers: &Numbers) -> Result<Term, String> {
    let &Numbers { beta, label_smoothing, f_divergence, .. } = numbers;
    Ok(Term::Pairs(match name {
        "sft" => return Ok(Term::Nll),
        // 0.24 divides by the lengths before the loss, or not at all.
        "ipo" => Loss::Ipo(IpoConfig { beta, f_divergence }),
        "aot_pair" => Loss::named("aot_unpaired", numbers)?,
        "exo_pair" if label_smoothing <= 0.0 => {
            Loss::named(name, &Numbers { label_smoothing: 1e-3, ..*numbers })?
        }
        "bco_pair" => {
            // The running mean after its first batch, of which it is given the mean alone.
            let rewards = [0, 1].map(|k| batch.rewards(beta.get(), k)).concat();
            let mut moments = RunningMoments::default();
            moments.update(&[rewards.iter().sum::<f64>() / rewards.len() as f64]);
            Loss::Bco(BcoPairConfig { beta }, moments.mean)
        }
        _ => Loss::named(name, numbers)?,
    }))
}

fn twin(plan: &Plan, batch: &Batch) -> Found {
    let n = batch.policy[0].len();
    let at = [batch.policy.concat(), vec![batch.nll]].concat();
    let (loss, grad) = real::gradient(&at, |x| losses(plan, batch, x).into_iter().sum::<Dual>() / n as f64);
    let grad = [grad[..n].to_vec(), grad[n..2 * n].to_vec(), grad[2 * n..].to_vec()];
    Found { losses: losses(plan, batch, &at), loss, grad }
}

/// Each pair's loss; `x` is chosen, rejected and the NLL.
fn losses<R: Real>(plan: &Plan, batch: &Batch, x: &[R]) -> Vec<R> {
    let n = batch.policy[0].len();
    let none = vec![0.0; n];
    let reference = batch.reference.each_ref().map(|r| if plan.reference_free { &none } else { r });
    let pairs = Pairs {
        policy: [&x[..n], &x[n..2 * n]],
        reference: reference.map(Vec::as_slice),
        lengths: [&none, &none],
    };
    let mut sum = vec![R::from(0.0); n];
    for (term, weight) in &plan.terms {
        let losses = match *term {
            Term::Pairs(loss) => loss.scalar(pairs),
            Term::Nll => vec![x[2 * n]; n],
        };
        sum.iter_mut().zip(losses).for_each(|(sum, loss)| *sum = *sum + loss * *weight);
    }
    sum
}

fn tensor(plan: &Plan, batch: &Batch, device: &Device) -> Found {
    let n = batch.policy[0].len();
    let on = device.clone().autodiff();
    let policy = batch.policy.each_ref().map(|x| vector(x, &on).require_grad());
    let nll = vector(&[batch.nll], &on).require_grad();
    let reference = if plan.reference_free {
        reference_free(&policy)
    } else {
        batch.reference.each_ref().map(|x| vector(x, &on))
    };
    let ones = policy[0].ones_like();
    let of_term = |term: Term| match term {
        Term::Pairs(loss) => {
            loss.tensor(policy.clone(), reference.clone(), [ones.clone(), ones.clone()]).loss
        }
        Term::Nll => nll.clone().expand([n]),
    };
    let losses: Tensor<1> = plan
        .terms
        .iter()
        .map(|(term, weight)| of_term(*term).mul_scalar(*weight))
        .fold(ones.zeros_like(), |sum, losses| sum + losses);
    let loss = losses.clone().mean();
    let grads = loss.backward();
    let [chosen, rejected] = policy.each_ref().map(|x| gradient(x, &grads));
    Found { losses: host(losses), loss: host(loss)[0], grad: [chosen, rejected, gradient(&nll, &grads)] }
}
