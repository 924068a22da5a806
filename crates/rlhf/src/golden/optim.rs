//! `optim.json`: AdamW trajectories and learning-rate schedules.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rlhf_core::host::adamw::{AdamWNumbers, AdamWScalar};
use rlhf_core::host::schedule::LrSchedule;
use rlhf_policy::optim::{AdamW, AdamWConfig, Grads};
use serde_json::{Map, Value};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows::host;

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    match (case.name(), case.dtype()) {
        ("adamw", dtype) => adamw(case, dtype, device),
        (name, "f64") => match name.strip_prefix("schedule/") {
            Some(schedule) => lr(case, schedule),
            None => Err(case.unknown()),
        },
        _ => Err(case.unknown()),
    }
}

/// Parameters that are the run's, not the schedule's.
const RUN: [&str; 3] = ["base_lr", "num_warmup_steps", "num_training_steps"];

/// The schedule is read by the name and numbers a config would give it.
fn lr(case: &Case<'_>, name: &str) -> Result<Computed, String> {
    let own = case.params().into_iter().filter(|(key, _)| !RUN.contains(key));
    let own: Map<String, Value> = own.map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let config = if own.is_empty() {
        Value::from(name)
    } else {
        Value::Object(Map::from_iter([(name.to_owned(), Value::Object(own))]))
    };
    let schedule: LrSchedule = serde_json::from_value(config).map_err(|e| format!("params: {e}"))?;
    let (base, warmup, total) = (case.number(RUN[0])?, case.count(RUN[1])?, case.count(RUN[2])?);
    let mut computed = Computed::default();
    computed.many("lr", (0..20).map(|step| schedule.lr(base, step, warmup, total)).collect());
    Ok(computed)
}

/// A trajectory's inputs: a matrix is group 0, a vector group 1.
struct Trajectory {
    theta: [Array; 2],
    grads: Vec<[Array; 2]>,
    lr: f64,
    decay: [f64; 2],
    numbers: AdamWNumbers,
    clips: bool,
}

/// `[matrix, vector]`.
fn groups(value: &Value) -> Result<[Array; 2], String> {
    let [matrix, vector] = [Array::read(&value[0])?, Array::read(&value[1])?];
    match (matrix.shape.len(), vector.shape.len()) {
        (2, 1) => Ok([matrix, vector]),
        _ => Err(format!("expected a matrix and a vector, found {:?} and {:?}", matrix.shape, vector.shape)),
    }
}

fn adamw(case: &Case<'_>, dtype: &str, device: &Device) -> Result<Computed, String> {
    let names = ["lr", "betas", "eps", "weight_decay_group0", "weight_decay_group1", "max_grad_norm"];
    case.knows_only(&names)?;
    let theta = groups(case.raw("params0")?).map_err(|e| format!("inputs.params0: {e}"))?;
    let grads = case.raw("grads")?.as_array().map(Vec::as_slice).unwrap_or_default();
    let grads: Vec<[Array; 2]> =
        grads.iter().map(groups).collect::<Result<_, _>>().map_err(|e| format!("inputs.grads: {e}"))?;
    let betas = case.param("betas").map(Array::read).transpose()?.map(|a| a.values);
    let Some(&[beta1, beta2]) = betas.as_deref() else {
        return Err("params.betas: expected two numbers, found others".to_owned());
    };
    let trajectory = Trajectory {
        theta,
        grads,
        lr: case.number("lr")?,
        decay: [case.number("weight_decay_group0")?, case.number("weight_decay_group1")?],
        numbers: AdamWNumbers {
            beta1,
            beta2,
            epsilon: case.number("eps")?,
            max_grad_norm: case.number_or("max_grad_norm", f64::INFINITY)?,
        },
        clips: case.param("max_grad_norm").is_some(),
    };
    match dtype {
        "f64" => Ok(twin(&trajectory)),
        "f32" => tensor(&trajectory, device),
        _ => Err(case.unknown()),
    }
}

fn twin(t: &Trajectory) -> Computed {
    let both = |x: &[Array; 2]| [x[0].values.clone(), x[1].values.clone()].concat();
    let mut theta = both(&t.theta);
    let n_decayed = t.theta[0].values.len();
    let decay: Vec<f64> = (0..theta.len()).map(|i| t.decay[usize::from(i >= n_decayed)]).collect();
    let mut optim = AdamWScalar::new(t.numbers, theta.len());
    let (mut after, mut norms) = (Vec::new(), Vec::new());
    for grads in &t.grads {
        norms.push(optim.step(t.lr, &mut theta, &decay, &both(grads)));
        after.extend_from_slice(&theta);
    }
    answers(after, if t.clips { norms } else { Vec::new() })
}

/// A matrix, which the optimiser decays, and a vector, which it does not.
#[derive(Module, Debug)]
struct Groups {
    matrix: Param<Tensor<2>>,
    vector: Param<Tensor<1>>,
}

/// Through the optimiser that trains the models; each gradient comes from autodiff of `Σ θ g`.
fn tensor(t: &Trajectory, device: &Device) -> Result<Computed, String> {
    if t.decay[1] > 0.0 {
        return Err(format!("params.weight_decay_group1: expected 0, found {}", t.decay[1]));
    }
    let config = AdamWConfig {
        adam_beta1: t.numbers.beta1,
        adam_beta2: t.numbers.beta2,
        adam_epsilon: t.numbers.epsilon,
        weight_decay: t.decay[0],
        max_grad_norm: t.numbers.max_grad_norm,
    };
    let device = device.clone().autodiff();
    let data = |x: &Array| {
        let values: Vec<f32> = x.values.iter().map(|x| *x as f32).collect();
        TensorData::new(values, x.shape.clone())
    };
    let mut groups = Groups {
        matrix: Param::from_data(data(&t.theta[0]), &device),
        vector: Param::from_data(data(&t.theta[1]), &device),
    };
    let mut optim = AdamW::new(config);
    let (mut after, mut norms) = (Vec::new(), Vec::new());
    for grads in &t.grads {
        let first = Tensor::<2>::from_data(data(&grads[0]), &device);
        let second = Tensor::<1>::from_data(data(&grads[1]), &device);
        let loss = (groups.matrix.val() * first).sum() + (groups.vector.val() * second).sum();
        let collected = Grads::of(&groups, &loss.backward());
        let (stepped, norm) = optim.step(t.lr, groups, collected);
        groups = stepped;
        norms.push(norm);
        after.extend(host(groups.matrix.val().inner()));
        after.extend(host(groups.vector.val().inner()));
    }
    Ok(answers(after, if t.clips { norms } else { Vec::new() }))
}

fn answers(after: Vec<f64>, norms: Vec<f64>) -> Computed {
    let mut computed = Computed::default();
    computed.many("params_after_each_step", after);
    computed.many("grad_norms", norms);
    computed
}
