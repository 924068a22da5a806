//! The fused log-probability is the plain one: values, and gradients into hidden rows and head.

use std::num::NonZeroUsize;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::fused::{FusedConfig, Head, fused_logp, fused_logp_scalar, fused_stats, fused_stats_scalar};
use rlhf_core::logp::{entropy, token_logp};
use rlhf_core::loss::stochastic_temperature::{stochastic_temperature, stochastic_temperature_scalar};
use rlhf_core::number::Positive;
use rlhf_core::real::{Dual, Real};
use rlhf_core::rng::stream;

use super::law::{Batch, Row, one};
use super::law::{Form, Kind, Law, Probe, Tensors, law};
use super::{close, host};

fn positive(x: f64) -> Positive {
    Positive::new(x).expect("positive")
}

/// Tiles of so many logits.
fn tiled(tile: usize) -> FusedConfig {
    FusedConfig { tile: NonZeroUsize::new(tile).expect("not zero"), ..FusedConfig::new(positive(0.8)) }
}

fn capped(tile: usize) -> FusedConfig {
    FusedConfig { logit_scale: Some(positive(0.5)), softcap: Some(positive(2.0)), ..tiled(tile) }
}

/// A fixed head of nine tokens and width seven: exact in `f32`.
fn weight(v: usize, j: usize) -> f64 {
    ((v * 7 + j * 5 + v * v * j) % 17) as f64 / 16.0 - 0.5
}

fn head() -> Head {
    let values: Vec<f32> = (0..9).flat_map(|v| (0..7).map(move |j| weight(v, j) as f32)).collect();
    Head { weight: Tensor::from_data(TensorData::new(values, [9, 7]), &Device::flex()), bias: None }
}

fn rows<R: Real>() -> Vec<Vec<R>> {
    (0..9).map(|v| (0..7).map(|j| R::from(weight(v, j))).collect()).collect()
}

pub(super) fn laws() -> Vec<Law> {
    vec![
        law!(
            "fused_logp",
            Form::logits(),
            |t| one(fused_logp(tiled(8), t.leaf.clone(), &head(), t.tokens.clone()).logp),
            row | r | vec![fused_logp_scalar(tiled(8), r.x, &rows(), None, r.token)]
        ),
        law!(
            "fused_logp/capped",
            Form::logits(),
            |t| one(fused_logp(capped(8), t.leaf.clone(), &head(), t.tokens.clone()).logp),
            row | r | vec![fused_logp_scalar(capped(8), r.x, &rows(), None, r.token)]
        ),
        law!(
            "fused_stats",
            Form::logits(),
            |t| {
                let out = fused_stats(tiled(8), t.leaf.clone(), &head(), t.tokens.clone());
                let all = [out.logp, out.entropy, out.log_sum_sq_prob, out.mean_logit, out.top1.float()];
                Tensor::stack::<2>(all.to_vec(), 1)
            },
            row | r | {
                let s = fused_stats_scalar(tiled(8), r.x, &rows(), None, r.token);
                let top1 = f64::from(u8::from(s.top1));
                vec![s.logp, s.entropy, s.log_sum_sq_prob, s.mean_logit, top1.into()]
            }
        ),
        law!(
            "stochastic_temperature",
            Form::logits().with(1, Kind::Prob),
            |t| one(stochastic_temperature(t.leaf.clone(), t.tokens.clone(), t.col(0, 0))),
            row | r | vec![stochastic_temperature_scalar(r.x, r.token, r.o[0][0])]
        ),
    ]
}

const M: usize = 37;
const V: usize = 23;
const H: usize = 5;

struct Inputs {
    hidden: Tensor<2>,
    head: Head,
    tokens: Tensor<1, Int>,
    /// Weights of log-probability and entropy in the loss.
    g: Tensor<1>,
    k: Tensor<1>,
}

/// Leaves, the same ones for the same seed.
fn inputs(seed: u64) -> Inputs {
    let device = Device::flex().autodiff();
    let mut rng = stream(seed, "fused", 0, 0);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect() };
    let hidden = Tensor::from_data(TensorData::new(draw(M * H), [M, H]), &device).require_grad();
    let weight = Tensor::from_data(TensorData::new(draw(V * H), [V, H]), &device).require_grad();
    let bias = Tensor::from_data(TensorData::new(draw(V), [V]), &device).require_grad();
    let vector = |x: Vec<f32>| Tensor::from_data(TensorData::new(x, [M]), &device);
    let (g, k) = (vector(draw(M)), vector(draw(M)));
    let tokens: Vec<i64> = (0..M).map(|i| (i * 11 % V) as i64).collect();
    let tokens = Tensor::from_data(TensorData::new(tokens, [M]), &device);
    Inputs { hidden, head: Head { weight, bias: Some(bias) }, tokens, g, k }
}

/// Values, and gradients into hidden rows, weight and bias.
type Found = [Vec<f64>; 5];

fn plain(config: FusedConfig, x: &Inputs) -> Found {
    let bias = x.head.bias.clone().expect("a bias");
    let y = x.hidden.clone().matmul(x.head.weight.clone().transpose()) + bias.clone().unsqueeze::<2>();
    let y = y.mul_scalar(config.logit_scale.map_or(1.0, Positive::get));
    let y = match config.softcap {
        Some(cap) => y.div_scalar(cap.get()).tanh().mul_scalar(cap.get()),
        None => y,
    };
    let z = y.div_scalar(config.temperature.get());
    let (logp, h) = (token_logp(z.clone(), x.tokens.clone()), entropy(z));
    let grads = (logp.clone() * x.g.clone() + h.clone() * x.k.clone()).sum().backward();
    let of = |t: &Tensor<2>| host(t.grad(&grads).expect("reached"));
    [host(logp), host(h), of(&x.hidden), of(&x.head.weight), host(bias.grad(&grads).expect("reached"))]
}

fn fused(config: FusedConfig, x: &Inputs) -> Found {
    let out = fused_stats(config, x.hidden.clone(), &x.head, x.tokens.clone());
    let loss = (out.logp.clone() * x.g.clone() + out.entropy.clone() * x.k.clone()).sum();
    let grads = out.head.backward(&loss);
    let of = |t: &Tensor<2>| host(t.grad(&grads).expect("reached"));
    let bias = x.head.bias.as_ref().and_then(|b| b.grad(&grads)).map(host).expect("reached");
    [host(out.logp), host(out.entropy), of(&x.hidden), of(&x.head.weight), bias]
}

fn agree(what: &str, found: &Found, expected: &Found) {
    for (part, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what} part {part}");
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            close(&format!("{what} part {part} number {i}"), *found, *expected, 1e-5);
        }
    }
}

#[test]
fn it_is_the_plain_one_whatever_the_tile() {
    // One logit, less than a row, rows and columns that do not divide 37 and 23, everything.
    for tile in [1, 7, 37, 5 * V, 10 * M, 1 << 22] {
        for (name, config) in [("plain", tiled(tile)), ("capped", capped(tile))] {
            let x = inputs(tile as u64);
            agree(&format!("{name} tile {tile}"), &fused(config, &x), &plain(config, &x));
        }
    }
}

#[test]
fn without_an_entropy_the_gradients_are_those_of_the_log_probability() {
    for config in [tiled(50), capped(50)] {
        let mut x = inputs(3);
        x.k = x.k.zeros_like();
        let expected = plain(config, &x);
        let out = fused_logp(config, x.hidden.clone(), &x.head, x.tokens.clone());
        let grads = out.head.backward(&(out.logp.clone() * x.g.clone()).sum());
        let of = |t: &Tensor<2>| host(t.grad(&grads).expect("reached"));
        let bias = x.head.bias.as_ref().and_then(|b| b.grad(&grads)).map(host).expect("reached");
        let found = [host(out.logp), expected[1].clone(), of(&x.hidden), of(&x.head.weight), bias];
        agree("logp alone", &found, &expected);
    }
}

#[test]
fn a_loss_of_the_entropy_alone_reaches_the_head() {
    let mut x = inputs(4);
    x.g = x.g.zeros_like();
    let expected = plain(tiled(50), &x);
    let out = fused_stats(tiled(50), x.hidden.clone(), &x.head, x.tokens.clone());
    let grads = out.head.backward(&(out.entropy * x.k.clone()).sum());
    let found = host(x.head.weight.grad(&grads).expect("reached"));
    for (found, expected) in found.iter().zip(&expected[3]) {
        close("entropy alone", *found, *expected, 1e-5);
    }
}

#[test]
fn gradients_of_a_tied_embedding_and_of_two_passes_add_up() {
    let run = |twice: bool| {
        let x = inputs(5);
        // The weight is also what the hidden rows were looked up in.
        let hidden = x.hidden.clone() + x.head.weight.clone().select(0, x.tokens.clone());
        let (head, tokens) = (&x.head, || x.tokens.clone());
        let out = fused_logp(tiled(50), hidden.clone(), head, tokens());
        let mut loss = (out.logp * x.g.clone()).sum();
        let mut passes = vec![out.head];
        if twice {
            let out = fused_logp(tiled(50), hidden, head, tokens());
            loss = loss + (out.logp * x.g.clone()).sum();
            passes.push(out.head);
        }
        let mut grads = loss.backward();
        passes.iter().for_each(|pass| pass.add_to(&mut grads));
        host(x.head.weight.grad(&grads).expect("reached"))
    };
    let (once, twice) = (run(false), run(true));
    let x = inputs(5);
    let hidden = x.hidden.clone() + x.head.weight.clone().select(0, x.tokens.clone());
    let z = hidden.matmul(x.head.weight.clone().transpose());
    let z = z + x.head.bias.clone().expect("a bias").unsqueeze::<2>();
    let logp = token_logp(z.div_scalar(0.8), x.tokens.clone());
    let grads = (logp * x.g.clone()).sum().backward();
    let expected = host(x.head.weight.grad(&grads).expect("reached"));
    for (i, expected) in expected.into_iter().enumerate() {
        close(&format!("tied {i}"), once[i], expected, 1e-5);
        close(&format!("twice {i}"), twice[i], 2.0 * expected, 1e-5);
    }
}

#[test]
fn a_frozen_head_has_no_gradient_and_none_is_asked_for() {
    let x = inputs(6);
    let head = Head { weight: x.head.weight.clone().inner(), bias: None };
    let out = fused_logp(tiled(50), x.hidden.clone(), &head, x.tokens.clone());
    let grads = out.head.backward(&out.logp.sum());
    assert!(out.head.gradient(&grads).is_none() && x.head.weight.grad(&grads).is_none());
    assert!(x.hidden.grad(&grads).is_some());
    // Without any graph there is a value all the same.
    let hidden = x.hidden.inner();
    assert!(!fused_logp(tiled(50), hidden, &head, x.tokens.inner()).logp.is_tracked());
}

#[test]
fn the_head_is_trained_on_hidden_rows_that_are_not() {
    let x = inputs(7);
    let expected = fused(tiled(50), &x);
    let frozen = Inputs { hidden: x.hidden.clone().inner(), ..inputs(7) };
    let out = fused_stats(tiled(50), frozen.hidden.clone(), &frozen.head, frozen.tokens.clone());
    let grads = out.head.backward(&(out.logp * frozen.g + out.entropy * frozen.k).sum());
    let found = host(frozen.head.weight.grad(&grads).expect("reached"));
    for (found, expected) in found.iter().zip(&expected[3]) {
        close("weight", *found, *expected, 1e-6);
    }
}

#[test]
#[should_panic(expected = "HeadPass: weight: expected a leaf that requires a gradient")]
fn a_weight_that_is_a_result_has_no_place_among_the_gradients() {
    let x = inputs(8);
    let head = Head { weight: x.head.weight.clone().mul_scalar(2.0), bias: None };
    let out = fused_logp(tiled(50), x.hidden, &head, x.tokens);
    out.head.backward(&out.logp.sum());
}

#[test]
fn a_weight_that_is_a_result_gets_its_gradient_by_hand() {
    let x = inputs(9);
    let expected = {
        let out = fused_logp(tiled(50), x.hidden.clone(), &x.head, x.tokens.clone());
        let grads = out.head.backward(&out.logp.sum());
        host(x.head.weight.grad(&grads).expect("reached"))
    };
    let x = inputs(9);
    // 2 · (w / 2): the same numbers, of which w gets half the gradient twice.
    let half = x.head.weight.clone().div_scalar(2.0).mul_scalar(2.0);
    let head = Head { weight: half.clone(), ..x.head.clone() };
    let out = fused_logp(tiled(50), x.hidden.clone(), &head, x.tokens.clone());
    let grads = out.logp.sum().backward();
    let found = out.head.gradient(&grads).expect("trained").weight;
    let grads = (half * found).sum().backward();
    for (found, expected) in host(x.head.weight.grad(&grads).expect("reached")).iter().zip(expected) {
        close("by hand", *found, expected, 1e-5);
    }
}

#[test]
#[should_panic(expected = "fused_logp: weight: expected shape [9, 6], found [9, 7]")]
fn a_head_of_another_width() {
    fused_logp(
        tiled(8),
        Tensor::zeros([2, 6], &Device::flex()),
        &head(),
        Tensor::zeros([2], &Device::flex()),
    );
}

#[test]
#[should_panic(expected = "fused_stats: bias: expected shape [9], found [1]")]
fn one_bias_for_nine_tokens() {
    let device = Device::flex();
    let head = Head { bias: Some(Tensor::zeros([1], &device)), ..head() };
    fused_stats(tiled(8), Tensor::zeros([2, 7], &device), &head, Tensor::zeros([2], &device));
}
