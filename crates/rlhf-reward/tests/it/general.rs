//! The pairwise cross-encoder and the general preference model against their scalar definitions, and on
//! preferences that no reward explains.

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::loss::gpm::{GpmConfig, gpm_scalar};
use rlhf_core::number::Positive;
use rlhf_core::rng::stream;
use rlhf_reward::cross_encoder::{
    BothOrders, JointLayout, Triple, cross_encoder_loss, cross_encoder_scalar, log_odds,
};
use rlhf_reward::gpm::{self, gpm_loss};
use rlhf_reward::pairwise::TokenPair;

/// Rock, scissors, paper, and the two marks.
const V: usize = 5;
const CIRCLE: [[u32; 2]; 3] = [[0, 1], [1, 2], [2, 0]];

fn leaf(w: &[f64], shape: [usize; 2]) -> Tensor<2> {
    let w: Vec<f32> = w.iter().map(|x| *x as f32).collect();
    Tensor::from_data(TensorData::new(w, shape), &Device::flex().autodiff()).require_grad()
}

fn start(n: usize) -> Vec<f64> {
    (0..n).map(|i| f64::from((0.7 * (i as f64 * 1.3 + 0.4).sin()) as f32)).collect()
}

fn layout() -> JointLayout {
    JointLayout::new(3, 4, 8).expect("room")
}

fn both(a: u32, b: u32) -> BothOrders {
    layout().rows(Triple { prompt: &[], a: &[a], b: &[b] })
}

/// Scores of a whole row and of its beginning: a weight of either pair of tokens in their order, and one of
/// each token alone.
const WEIGHTS: usize = V * V + V;

fn weight_of(row: &[u32]) -> usize {
    match *row {
        [a, 3, b, 4] => a as usize * V + b as usize,
        [a, 3] => V * V + a as usize,
        ref other => panic!("neither whole row nor beginning: {other:?}"),
    }
}

fn joint(table: &Tensor<2>, rows: &[&[u32]]) -> Tensor<1> {
    let mut picked = vec![0.0f32; rows.len() * WEIGHTS];
    rows.iter().enumerate().for_each(|(i, row)| picked[i * WEIGHTS + weight_of(row)] = 1.0);
    let picked = Tensor::<2>::from_data(TensorData::new(picked, [rows.len(), WEIGHTS]), &table.device());
    picked.matmul(table.clone()).reshape([rows.len()])
}

/// The embedding of a row is that of its first token.
fn embedded(table: &Tensor<2>, rows: &[&[u32]]) -> Tensor<2> {
    let mut picked = vec![0.0f32; rows.len() * V];
    rows.iter().enumerate().for_each(|(i, row)| picked[i * V + row[0] as usize] = 1.0);
    Tensor::<2>::from_data(TensorData::new(picked, [rows.len(), V]), &table.device()).matmul(table.clone())
}

fn slopes(leaf: &Tensor<2>, sum: &Tensor<1>) -> Vec<f64> {
    let grads = sum.backward();
    leaf.grad(&grads).expect("reached").into_data().convert::<f64>().try_into_vec().expect("f64")
}

/// The slope of `of` at `w` by central differences.
fn differences(w: &[f64], of: &dyn Fn(&[f64]) -> f64) -> Vec<f64> {
    let moved = |i: usize, by: f64| {
        let mut w = w.to_vec();
        w[i] += by;
        of(&w)
    };
    (0..w.len()).map(|i| (moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5).collect()
}

fn near(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

fn scalar(x: Tensor<1>) -> f64 {
    f64::from(x.into_scalar::<f32>())
}

#[test]
fn the_cross_encoders_loss_and_gradient_equal_the_definition() {
    let pairs: Vec<BothOrders> = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 2)].map(|(a, b)| both(a, b)).to_vec();
    let refs: Vec<&BothOrders> = pairs.iter().collect();
    let logit = |w: &[f64], row: &[u32]| w[weight_of(&row[..2])] - w[weight_of(row)];
    let logits = |w: &[f64], p: &BothOrders| [logit(w, &p.forward), logit(w, &p.backward)];
    let definition = |w: &[f64]| pairs.iter().map(|p| cross_encoder_scalar(logits(w, p))).sum::<f64>();
    let w = start(WEIGHTS);
    let table = leaf(&w, [WEIGHTS, 1]);
    let found = cross_encoder_loss(&|rows| joint(&table, rows), &refs);
    assert!((scalar(found.sum.clone()) - definition(&w)).abs() < 1e-5);
    let odds: Vec<f64> = pairs.iter().map(|p| 0.5 * (logits(&w, p)[0] - logits(&w, p)[1])).collect();
    assert!(near(&found.margins, &odds), "{:?} {odds:?}", found.margins);
    assert!(near(&slopes(&table, &found.sum), &differences(&w, &definition)));
    let mut ask = |rows: &[&[u32]]| rows.iter().map(|r| w[weight_of(r)]).collect::<Vec<f64>>();
    assert!(near(&log_odds(&mut ask, &refs), &odds));
}

#[test]
fn the_general_models_loss_and_gradient_equal_the_definition() {
    let config = GpmConfig { tau: Positive::new(0.3).expect("positive") };
    let pairs: Vec<TokenPair> =
        CIRCLE.iter().map(|[a, b]| TokenPair { chosen: vec![*a], rejected: vec![*b] }).collect();
    let w = start(V * 4);
    let of = |w: &[f64], token: u32| w[token as usize * 4..][..4].to_vec();
    let definition =
        |w: &[f64]| CIRCLE.iter().map(|[a, b]| gpm_scalar(config, &of(w, *a), &of(w, *b))).sum::<f64>();
    let table = leaf(&w, [V, 4]);
    let found = gpm_loss(&|rows| embedded(&table, rows), &pairs.iter().collect::<Vec<_>>(), config);
    assert!((scalar(found.sum.clone()) - definition(&w)).abs() < 1e-5);
    let odds: Vec<f64> =
        CIRCLE.iter().map(|[a, b]| gpm::log_odds(config, &of(&w, *a), &of(&w, *b))).collect();
    assert!(near(&found.margins, &odds), "{:?} {odds:?}", found.margins);
    assert!(near(&slopes(&table, &found.sum), &differences(&w, &definition)));
}

/// Parameters to margins and gradient.
type Margins<'a> = dyn Fn(&[f64]) -> (Vec<f64>, Vec<f64>) + 'a;

/// Plain descent of the mean loss from a small random start; the log-odds of the circle at the end.
fn descended(w: &mut [f64], step: f64, loss: &Margins<'_>) -> Vec<f64> {
    let mut rng = stream(1, "circle", 0, 0);
    w.iter_mut().for_each(|x| *x = rng.random_range(-0.3..0.3));
    for _ in 0..400 {
        let (_, slope) = loss(w);
        w.iter_mut().zip(slope).for_each(|(w, g)| *w -= step * g);
    }
    loss(w).0
}

#[test]
fn both_kinds_learn_a_circle_that_no_reward_explains() {
    let pairs: Vec<BothOrders> = CIRCLE.iter().map(|[a, b]| both(*a, *b)).collect();
    let refs: Vec<&BothOrders> = pairs.iter().collect();
    let odds = descended(&mut start(WEIGHTS), 1.0, &|w| {
        let table = leaf(w, [WEIGHTS, 1]);
        let found = cross_encoder_loss(&|rows| joint(&table, rows), &refs);
        (found.margins, slopes(&table, &found.sum))
    });
    assert!(odds.iter().all(|x| *x > 2.0), "{odds:?}");

    let config = GpmConfig { tau: Positive::new(0.5).expect("positive") };
    let pairs: Vec<TokenPair> =
        CIRCLE.iter().map(|[a, b]| TokenPair { chosen: vec![*a], rejected: vec![*b] }).collect();
    let refs: Vec<&TokenPair> = pairs.iter().collect();
    let odds = descended(&mut start(V * 2), 0.1, &|w| {
        let table = leaf(w, [V, 2]);
        let found = gpm_loss(&|rows| embedded(&table, rows), &refs, config);
        (found.margins, slopes(&table, &found.sum))
    });
    // A reward gives its circle log-odds that sum to 0.
    assert!(odds.iter().all(|x| *x > 2.0), "{odds:?}");
}

#[test]
#[should_panic(expected = "cross_encoder_loss: no pair")]
fn no_pair_of_a_cross_encoder() {
    let table = leaf(&start(WEIGHTS), [WEIGHTS, 1]);
    cross_encoder_loss(&|rows| joint(&table, rows), &[]);
}

#[test]
#[should_panic(expected = "gpm_loss: no pair")]
fn no_pair_of_a_general_model() {
    let table = leaf(&start(V * 2), [V, 2]);
    gpm_loss(&|rows| embedded(&table, rows), &[], GpmConfig { tau: Positive::new(1.0).expect("positive") });
}
