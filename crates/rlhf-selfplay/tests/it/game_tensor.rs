//! The tensor loss on a softmax table has the gradient of its twin.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use rlhf_core::loss::rspo::{References, rspo_response};
use rlhf_selfplay::game::{Responses, Rspo, Update};

use super::games::*;

#[expect(deprecated, reason = "the deterministic reference device, deprecated upstream, still in Burn 0.22")]
fn devices() -> [Device; 2] {
    [Device::flex(), Device::ndarray()]
}

#[test]
fn the_tensor_loss_has_the_gradient_of_the_table() {
    for pull in PULLS {
        let mut config = pull.loss(3.0, 0.4);
        config.terms.extend(Pull::Rev.loss(3.0, 0.05).terms);
        let rspo = Rspo { config, responses: Responses::Expected, update: Update::Minimum };
        // Away from π_t too, where the square is not at its target.
        for logits in [[0.0, 0.0, 0.0], [0.4, -0.9, 0.2]] {
            for device in devices() {
                check(&rspo, &logits, &device.autodiff());
            }
        }
    }
}

#[track_caller]
fn check(rspo: &Rspo, logits: &[f64], device: &Device) {
    let (game, before, original) = (c3(), policy(&SOMEWHERE), policy(&SKEWED));
    let tensor = |x: &[f64]| {
        let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        Tensor::<1>::from_data(TensorData::from(x.as_slice()), device)
    };
    let theta = tensor(logits).require_grad();
    let logp = log_softmax(theta.clone(), 0);
    let references = References { previous: tensor(before.logp()), original: tensor(original.logp()) };
    let rates = tensor(&game.win_rates(&before));
    let weights: Vec<f64> = SOMEWHERE.iter().map(|p| 2.0 * p).collect();
    let loss = (rspo_response(&rspo.config, logp, references, rates) * tensor(&weights)).sum();
    let found = theta.grad(&loss.backward()).expect("a gradient");
    let found: Vec<f64> = found.into_data().convert::<f64>().try_into_vec().expect("f64");
    near(&found, &rspo.table(&game, &before, &original, 0).gradient(logits), 2e-6);
}
