//! Losses on rows of logits and on rewards.

use rlhf_core::logp::{entropy, entropy_scalar, selected_logp, token_logp, token_logp_scalar};
use rlhf_core::loss::bradley_terry::{BradleyTerryConfig, bradley_terry, bradley_terry_scalar};
use rlhf_core::loss::cross_entropy::{
    CrossEntropyConfig, cross_entropy, cross_entropy_scalar, cross_entropy_smoothed,
    cross_entropy_smoothed_scalar,
};
use rlhf_core::loss::dft::{dft, dft_scalar};
use rlhf_core::loss::regression::{regression, regression_scalar};
use rlhf_core::loss::superhf::{forward_kl, forward_kl_scalar};
use rlhf_core::number::{Prob, Weight};
use rlhf_core::real::Dual;

use burn::tensor::{Device, Tensor, TensorData};

use super::law::{Batch, Form, Kind, Law, Probe, Row, Tensors, law, one};
use super::{close, host};

fn smoothing() -> CrossEntropyConfig {
    CrossEntropyConfig { label_smoothing: Prob::new(0.1).expect("a probability") }
}

fn centred() -> BradleyTerryConfig {
    BradleyTerryConfig { center_rewards_coefficient: Weight::new(0.01).expect("a weight") }
}

pub(super) fn laws() -> Vec<Law> {
    let logits = Form::logits;
    vec![
        law!(
            "token_logp",
            logits(),
            |t| one(token_logp(t.leaf.clone(), t.tokens.clone())),
            row | r | { vec![token_logp_scalar(r.x, r.token)] }
        ),
        law!("entropy", Form::rows(7), |t| one(entropy(t.leaf.clone())), row | r | vec![entropy_scalar(r.x)]),
        law!(
            "cross_entropy",
            logits(),
            |t| one(cross_entropy(t.leaf.clone(), t.tokens.clone())),
            row | r | { vec![cross_entropy_scalar(r.x, r.token)] }
        ),
        law!(
            "cross_entropy_smoothed",
            logits(),
            |t| one(cross_entropy_smoothed(smoothing(), t.leaf.clone(), t.tokens.clone())),
            row | r | vec![cross_entropy_smoothed_scalar(smoothing(), r.x, r.token)]
        ),
        law!(
            "dft",
            logits(),
            |t| one(dft(t.leaf.clone(), t.tokens.clone())),
            row | r | { vec![dft_scalar(r.x, r.token)] }
        ),
        law!(
            "forward_kl",
            Form::rows(7).with(7, Kind::Any),
            |t| one(forward_kl(t.leaf.clone(), t.o(0))),
            row | r | vec![forward_kl_scalar(r.x, r.o[0])]
        ),
        law!(
            "bradley_terry",
            Form::rows(2).with(1, Kind::Any),
            |t| one(bradley_terry(centred(), t.pair(), Some(t.col(0, 0))).loss),
            row | r | vec![bradley_terry_scalar(centred(), [r.x[0], r.x[1]], r.o[0][0])]
        ),
        law!(
            "regression",
            Form::rows(1).with(1, Kind::Any),
            |t| one(regression(t.x(0), t.col(0, 0))),
            row | r | { vec![regression_scalar(r.x[0], r.o[0][0])] }
        ),
    ]
}

fn leaf(x: &[f32]) -> Tensor<1> {
    let device = Device::flex().autodiff();
    Tensor::<1>::from_data(TensorData::new(x.to_vec(), [x.len()]), &device).require_grad()
}

#[test]
fn the_gap_of_a_pair_carries_no_gradient() {
    let (chosen, rejected) = (leaf(&[2.0, 0.0]), leaf(&[1.0, 1.0]));
    let out = bradley_terry(BradleyTerryConfig::default(), [chosen.clone(), rejected], None);
    let grads = (out.loss.sum() + out.gap.clone().sum()).backward();
    let g = host(chosen.grad(&grads).expect("reached by the loss"));
    // −σ(−1) and −σ(1): the gap's +1 is not in them.
    close("gap", g[0], -1.0 / (1.0 + 1f64.exp()), 1e-6);
    close("gap", g[1], -1.0 / (1.0 + (-1f64).exp()), 1e-6);
    assert_eq!(host(out.gap).iter().map(|g| *g as i32).collect::<Vec<_>>(), [1, -1]);
}

#[test]
fn a_bradley_terry_pair_keeps_both_tails_in_f32() {
    let (chosen, rejected) = (leaf(&[0.0, 60.0, 0.0, 400.0]), leaf(&[0.0, 0.0, 60.0, 0.0]));
    let out = bradley_terry(BradleyTerryConfig::default(), [chosen.clone(), rejected], None);
    let grads = out.loss.clone().sum().backward();
    let (loss, slope) = (host(out.loss), host(chosen.grad(&grads).expect("reached")));
    close("equal", loss[0], std::f64::consts::LN_2, 1e-6);
    close("equal", slope[0], -0.5, 1e-6);
    // log(1 + e⁻⁶⁰) = e⁻⁶⁰ to 26 digits; its slope is the same number, negative.
    close("right", loss[1] / (-60f64).exp(), 1.0, 1e-5);
    close("right", slope[1] / -(-60f64).exp(), 1.0, 1e-5);
    close("wrong", loss[2], 60.0, 1e-6);
    close("wrong", slope[2], -1.0, 1e-6);
    assert!(loss[3] >= 0.0 && loss[3] < 1e-30);
}

#[test]
fn the_kl_is_zero_with_zero_gradient_where_the_policies_agree() {
    let batch = Batch::draw(&Form::rows(7), 11, 3.0);
    let t = batch.tensors();
    let kl = forward_kl(t.leaf.clone(), t.leaf.clone());
    let grads = kl.clone().sum().backward();
    let slopes = host(t.leaf.grad(&grads).expect("reached"));
    assert!(host(kl).iter().all(|x| x.abs() <= 0.0));
    assert!(slopes.iter().all(|x| x.abs() < 5e-7), "{slopes:?}");
}

#[test]
fn several_tokens_a_row_are_each_the_single_one() {
    let t = Batch::draw(&Form::logits(), 13, 3.0).tensors();
    let single = host(token_logp(t.leaf.clone(), t.tokens.clone()));
    let pair = Tensor::stack::<2>(vec![t.tokens.clone(), t.tokens], 1);
    let both = host(selected_logp(t.leaf, pair));
    for (i, x) in single.iter().enumerate() {
        assert_eq!([both[2 * i].to_bits(), both[2 * i + 1].to_bits()], [x.to_bits(); 2]);
    }
}

#[test]
#[should_panic(expected = "bradley_terry: rejected: expected shape [2], found [1]")]
fn one_rejected_for_two_chosen() {
    bradley_terry(BradleyTerryConfig::default(), [leaf(&[0.0; 2]), leaf(&[0.0])], None);
}

#[test]
#[should_panic(expected = "at_temperature: temperature: expected a positive finite number, found 0")]
fn no_temperature() {
    rlhf_core::logp::at_temperature(Tensor::zeros([1, 2], &Device::flex()), 0.0);
}
