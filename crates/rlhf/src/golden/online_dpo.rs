//! `online_dpo.json`: two completions a prompt (rows i and i + n), ordered by their rewards, and the
//! loss of the pairs, mean over prompts.

use burn::tensor::Device;
use rlhf_core::loss::online_dpo::{
    OnlineDpoConfig, OnlineLossType, Pick, online_dpo, online_dpo_scalar, pick,
};
use rlhf_core::mask::{sequence_sum, sequence_sum_scalar};
use rlhf_core::number::{Beta, Weight};
use rlhf_core::real::{self, Real};

use super::case::{Array, Case};
use super::compare::Computed;
use super::rows;

/// Log-probabilities of tokens, `[2n, T]`.
struct Inputs {
    policy: Array,
    reference: Array,
    mask: Array,
}

pub(super) fn check(case: &Case<'_>, device: &Device) -> Result<Computed, String> {
    case.knows_only(&["loss_type", "beta", "missing_eos_penalty"])?;
    let loss_type = match (case.name(), case.text("loss_type")?) {
        ("online_dpo/sigmoid", "sigmoid") => OnlineLossType::Sigmoid,
        ("online_dpo/ipo", "ipo") => OnlineLossType::Ipo,
        _ => return Err(case.unknown()),
    };
    let beta = Beta::new(case.number("beta")?).map_err(|e| e.to_string())?;
    let config = OnlineDpoConfig { beta, loss_type };
    let penalty = Weight::new(case.number_or("missing_eos_penalty", 0.0)?).map_err(|e| e.to_string())?;
    let (rewards, ended) = (case.input("rewards")?.values, case.input("contain_eos")?.whole());
    let n = rewards.len() / 2;
    let one = |i: usize| pick([rewards[i], rewards[n + i]], [ended[i] == 1, ended[n + i] == 1], penalty);
    let picks: Vec<Pick> = (0..n).map(one).collect();
    // Row of completion k of prompt i.
    let row = |i: usize, k: usize| k * n + i;
    let chosen: Vec<usize> = picks.iter().enumerate().map(|(i, p)| row(i, p.chosen)).collect();
    let rejected: Vec<usize> = picks.iter().enumerate().map(|(i, p)| row(i, p.rejected)).collect();
    let inputs = Inputs {
        policy: case.input("logps")?,
        reference: case.input("ref_logps")?,
        mask: case.input("completion_mask")?,
    };
    let mut computed = match case.dtype() {
        "f64" => twin(config, &inputs, &chosen, &rejected),
        "f32" => tensor(config, &inputs, &chosen, &rejected, device),
        _ => return Err(case.unknown()),
    };
    let numbers = |rows: &[usize]| rows.iter().map(|i| *i as f64).collect();
    computed.many("chosen_indices", numbers(&chosen));
    computed.many("rejected_indices", numbers(&rejected));
    Ok(computed)
}

fn twin(config: OnlineDpoConfig, inputs: &Inputs, chosen: &[usize], rejected: &[usize]) -> Computed {
    let masks: Vec<Vec<bool>> =
        inputs.mask.rows().iter().map(|row| row.iter().map(|on| *on > 0.5).collect()).collect();
    let (n, t) = (chosen.len(), masks[0].len());
    let reference = sums(&inputs.reference.values, &masks, t);
    let losses = |policy: &[real::Dual]| -> Vec<real::Dual> {
        let policy = sums(policy, &masks, t);
        let one = |(c, r): (&usize, &usize)| {
            online_dpo_scalar(config, [policy[*c], policy[*r]], [reference[*c], reference[*r]])
        };
        chosen.iter().zip(rejected).map(one).collect()
    };
    let (loss, gradient) =
        real::gradient(&inputs.policy.values, |x| losses(x).into_iter().sum::<real::Dual>() / n as f64);
    let still: Vec<real::Dual> = inputs.policy.values.iter().copied().map(real::Dual::from).collect();
    let mut computed = Computed::default();
    computed.one("loss", loss);
    computed.many("losses", losses(&still).into_iter().map(|x| x.value).collect());
    computed.many("grads.logps", gradient);
    computed
}

/// The log-probability of each row.
fn sums<R: Real>(x: &[R], masks: &[Vec<bool>], t: usize) -> Vec<R> {
    x.chunks(t).zip(masks).map(|(row, mask)| sequence_sum_scalar(row, mask)).collect()
}

fn tensor(
    config: OnlineDpoConfig,
    inputs: &Inputs,
    chosen: &[usize],
    rejected: &[usize],
    device: &Device,
) -> Computed {
    let leaf = rows::leaf(&inputs.policy, device);
    let on = leaf.device();
    let mask = rows::mask(&inputs.mask, &on);
    let policy = sequence_sum(leaf.clone(), &mask);
    let reference = sequence_sum(rows::plain(&inputs.reference, &on), &mask);
    let sides = [rows::indices(chosen, &on), rows::indices(rejected, &on)];
    let pair = |x: &burn::tensor::Tensor<1>| sides.clone().map(|rows| x.clone().select(0, rows));
    let losses = online_dpo(config, pair(&policy), pair(&reference)).loss;
    let loss = losses.clone().mean();
    let grads = loss.backward();
    let mut computed = Computed::default();
    computed.many("loss", rows::host(loss));
    computed.many("losses", rows::host(losses));
    computed.many("grads.logps", rows::gradient(&leaf, &grads));
    computed
}
