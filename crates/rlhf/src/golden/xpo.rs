//! `xpo.json`: the exploratory loss from log-probabilities of tokens, mean over pairs. TRL has zeros
//! where a completion has ended, and sums over all positions.

use burn::tensor::{Bool, Device, Tensor};
use rlhf_core::loss::online_dpo::{OnlineDpoConfig, OnlineLossType, online_dpo_scalar};
use rlhf_core::loss::xpo::{Preferred, XpoConfig, xpo, xpo_scalar};
use rlhf_core::number::{Beta, Weight};
use rlhf_core::real;

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows;

/// Log-probabilities `[B, T]` of the policy's samples and of the reference's.
struct Inputs {
    policy: [Array; 2],
    reference: [Array; 2],
    /// Whether the policy's sample is the better one.
    preferred: Vec<bool>,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["loss_type", "beta", "alpha"])?;
    let loss_type = match (case.name(), case.text("loss_type")?) {
        ("xpo/sigmoid", "sigmoid") => OnlineLossType::Sigmoid,
        ("xpo/ipo", "ipo") => OnlineLossType::Ipo,
        _ => return Err(case.unknown()),
    };
    let config = XpoConfig {
        beta: Beta::new(case.number("beta")?).map_err(|e| e.to_string())?,
        alpha: Weight::new(case.number("alpha")?).map_err(|e| e.to_string())?,
        loss_type,
    };
    let inputs = Inputs {
        policy: [case.input("model_logps_model_data")?, case.input("model_logps_ref_data")?],
        reference: [case.input("ref_logps_model_data")?, case.input("ref_logps_ref_data")?],
        preferred: case.input("chosen_mask")?.whole().into_iter().map(|on| on == 1).collect(),
    };
    match case.dtype() {
        "f64" => Ok(twin(config, &inputs)),
        "f32" => Ok(tensor(config, &inputs, device)),
        _ => Err(case.unknown()),
    }
}

fn sums(x: &Array) -> Vec<f64> {
    x.rows().iter().map(|row| row.iter().sum()).collect()
}

fn twin(config: XpoConfig, inputs: &Inputs) -> Computed {
    let n = inputs.preferred.len();
    let reference = inputs.reference.each_ref().map(sums);
    let one = |own: &[real::Dual], other: &[real::Dual], i: usize| {
        let policy = [own.iter().copied().sum(), other.iter().copied().sum()];
        let preferred =
            if inputs.preferred[i] { Preferred::PolicySample } else { Preferred::ReferenceSample };
        xpo_scalar(config, policy, [reference[0][i], reference[1][i]], preferred)
    };
    let t = inputs.policy[0].values.len() / n;
    let all = [inputs.policy[0].values.clone(), inputs.policy[1].values.clone()].concat();
    let (loss, gradient) = real::gradient(&all, |x| {
        let (own, other) = x.split_at(n * t);
        let of = |x: &[real::Dual], i: usize| x[i * t..(i + 1) * t].to_vec();
        (0..n).map(|i| one(&of(own, i), &of(other, i), i)).sum::<real::Dual>() / n as f64
    });
    let policy = inputs.policy.each_ref().map(sums);
    let contrast = |i: usize| {
        let order = if inputs.preferred[i] { [0, 1] } else { [1, 0] };
        let online = OnlineDpoConfig { beta: config.beta, loss_type: config.loss_type };
        online_dpo_scalar(online, order.map(|k| policy[k][i]), order.map(|k| reference[k][i]))
    };
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("dpo_losses", (0..n).map(contrast).collect());
    computed.many("xpo_losses", policy[1].iter().map(|sum| config.alpha.get() * sum).collect());
    computed.many("grads.model_logps_model_data", gradient[..n * t].to_vec());
    computed.many("grads.model_logps_ref_data", gradient[n * t..].to_vec());
    computed
}

fn tensor(config: XpoConfig, inputs: &Inputs, device: &Device) -> Computed {
    let leaves = inputs.policy.each_ref().map(|x| rows::leaf(x, device));
    let on = leaves[0].device();
    let n = inputs.preferred.len();
    let sum = |x: &Tensor<2>| x.clone().sum_dim(1).reshape([n]);
    let reference = inputs.reference.each_ref().map(|x| sum(&rows::plain(x, &on)));
    let preferred: Vec<f64> = inputs.preferred.iter().map(|on| f64::from(u8::from(*on))).collect();
    let preferred: Tensor<1, Bool> = rows::vector(&preferred, &on).equal_elem(1.0);
    let out = xpo(config, leaves.each_ref().map(sum), reference, preferred);
    let loss = out.loss.mean();
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", rows::host(loss));
    computed.many("dpo_losses", rows::host(out.contrast));
    computed.many("xpo_losses", rows::host(out.bonus));
    computed.many("grads.model_logps_model_data", rows::gradient(&leaves[0], &grads));
    computed.many("grads.model_logps_ref_data", rows::gradient(&leaves[1], &grads));
    computed
}
