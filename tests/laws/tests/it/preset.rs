//! A preset on tensors gives what it gives on the host.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use rlhf_core::loss::grpo::{GrpoTokens, grpo};
use rlhf_core::mask::normalise;
use rlhf_core::preset::{
    Completion, GrpoRecipe, StepCounts, grpo_step_scalar, nemo, open_instruct, openrlhf, trl, verl,
};
use rlhf_core::real::gradient;

use super::{close, host};

const REWARDS: [&[f64]; 2] = [&[1.0, 2.5], &[0.0, 3.0]];
const LOGP: [[f64; 3]; 4] = [[-0.8, -0.9, -0.3], [-1.0, -2.0, 0.0], [-0.9, 0.0, 0.0], [-0.4, -0.6, -1.2]];
const OLD: [[f64; 3]; 4] = [[-1.0, -0.5, -0.4], [-2.0, -1.7, 0.0], [-0.7, 0.0, 0.0], [-0.5, -0.6, -0.9]];
const REFERENCE: [[f64; 3]; 4] =
    [[-1.2, -0.4, -0.4], [-1.5, -1.9, 0.0], [-0.6, 0.0, 0.0], [-0.1, -0.9, -1.0]];
const LENGTHS: [usize; 4] = [3, 2, 1, 3];
const STEP: StepCounts = StepCounts { n_tokens: 9, n_sequences: 4, max_completion_length: 5 };

fn matrix(rows: &[[f64; 3]; 4], device: &Device) -> Tensor<2> {
    let values: Vec<f32> = rows.concat().iter().map(|x| *x as f32).collect();
    Tensor::from_data(TensorData::new(values, [4, 3]), device)
}

/// Loss and gradient as a user puts them together: advantages on the host, the rest on the device.
fn on_the_device(recipe: GrpoRecipe) -> (f64, Vec<f64>) {
    let device = Device::flex().autodiff();
    let mut advantage = [[0.0; 3]; 4];
    let mut on = Vec::new();
    for (i, a) in recipe.advantages(&REWARDS).concat().into_iter().enumerate() {
        let n = LENGTHS[i];
        let to_go = recipe.kl_to_go(&OLD[i][..n], &REFERENCE[i][..n]);
        (0..n).for_each(|t| advantage[i][t] = a - to_go[t]);
        on.extend((0..3).map(|t| i64::from(t < n)));
    }
    let mask: Tensor<2, Bool> =
        Tensor::<2, burn::tensor::Int>::from_data(TensorData::new(on, [4, 3]), &device).equal_elem(1);
    let logp = matrix(&LOGP, &device).require_grad();
    let tokens = GrpoTokens {
        logp: logp.clone(),
        old_logp: matrix(&OLD, &device),
        reference_logp: recipe.needs_reference().then(|| matrix(&REFERENCE, &device)),
        advantage: matrix(&advantage, &device),
    };
    let loss = grpo(recipe.loss, tokens, &mask).loss;
    let loss = normalise(recipe.normaliser.of_step(STEP).expect("counts above 0"), loss, &mask);
    let grads = loss.backward();
    (host(loss)[0], host(logp.grad(&grads).expect("reached")))
}

#[test]
fn a_preset_is_the_same_on_the_host_and_on_the_device() {
    for (name, recipe) in [
        ("trl", trl::grpo()),
        ("trl grpo", trl::grpo_sequence_mean()),
        ("trl bnpo", trl::bnpo()),
        ("trl dr_grpo", trl::dr_grpo()),
        ("verl", verl::grpo()),
        ("openrlhf", openrlhf::grpo()),
        ("openrlhf rloo", openrlhf::rloo()),
        ("open-instruct", open_instruct::grpo()),
        ("open-instruct standard", open_instruct::grpo_standard()),
        ("nemo", nemo::grpo()),
    ] {
        let (value, slopes) = gradient(&LOGP.concat(), |x| {
            let completion = |i: usize| Completion {
                reward: REWARDS[i / 2][i % 2],
                logp: &x[3 * i..3 * i + LENGTHS[i]],
                old_logp: &OLD[i][..LENGTHS[i]],
                reference_logp: &REFERENCE[i][..LENGTHS[i]],
            };
            let groups = [vec![completion(0), completion(1)], vec![completion(2), completion(3)]];
            grpo_step_scalar(recipe, &groups, STEP).expect("counts above 0")
        });
        let (loss, grads) = on_the_device(recipe);
        close(name, loss, value, 1e-6);
        slopes.iter().zip(&grads).for_each(|(expected, found)| close(name, *found, *expected, 1e-6));
    }
}
