//! Bradley–Terry training against its scalar definition, with a bag of embeddings as the model.

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::loss::bradley_terry::{BradleyTerryConfig, bradley_terry_scalar};
use rlhf_core::number::Weight;
use rlhf_core::rng::stream;
use rlhf_reward::pairwise::{TokenPair, pairwise_loss};

const V: usize = 12;

/// One weight a token; a row's score is the sum of its tokens' weights.
fn scores(weights: &Tensor<2>, rows: &[&[u32]]) -> Tensor<1> {
    let device = weights.device();
    let mut counts = vec![0.0f32; rows.len() * V];
    for (i, row) in rows.iter().enumerate() {
        row.iter().for_each(|t| counts[i * V + *t as usize] += 1.0);
    }
    let counts = Tensor::<2>::from_data(TensorData::new(counts, [rows.len(), V]), &device);
    counts.matmul(weights.clone()).reshape([rows.len()])
}

fn leaf(w: &[f64]) -> Tensor<2> {
    let w: Vec<f32> = w.iter().map(|x| *x as f32).collect();
    Tensor::from_data(TensorData::new(w, [V, 1]), &Device::flex().autodiff()).require_grad()
}

fn start() -> Vec<f64> {
    (0..V).map(|i| f64::from((0.7 * (i as f64 * 1.3).sin()) as f32)).collect()
}

fn pairs(n: usize, seed: u64) -> Vec<TokenPair> {
    let row = |i: usize, side: u64| -> Vec<u32> {
        let mut rng = stream(seed, "pairs", side, i as u64);
        let length = rng.random_range(1..7);
        (0..length).map(|_| rng.random_range(0..V as u32)).collect()
    };
    (0..n).map(|i| TokenPair { chosen: row(i, 0), rejected: row(i, 1) }).collect()
}

fn centred(c: f64) -> BradleyTerryConfig {
    BradleyTerryConfig { center_rewards_coefficient: Weight::new(c).expect("a weight") }
}

/// Sum of the scalar definition over the pairs, and each margin.
fn definition(w: &[f64], pairs: &[TokenPair], config: BradleyTerryConfig) -> (f64, Vec<f64>) {
    let score = |row: &[u32]| row.iter().map(|t| w[*t as usize]).sum::<f64>();
    let both = |p: &TokenPair| [score(&p.chosen), score(&p.rejected)];
    let sum = pairs.iter().map(|p| bradley_terry_scalar(config, both(p), 0.0)).sum();
    (sum, pairs.iter().map(|p| both(p)[0] - both(p)[1]).collect())
}

#[test]
fn loss_margins_and_gradient_equal_the_definition() {
    let pairs = pairs(9, 1);
    let refs: Vec<&TokenPair> = pairs.iter().collect();
    for c in [0.0, 0.05] {
        let weights = leaf(&start());
        let out = pairwise_loss(&|rows| scores(&weights, rows), &refs, centred(c));
        let (sum, margins) = definition(&start(), &pairs, centred(c));
        let found = f64::from(out.sum.clone().into_scalar::<f32>());
        assert!((found - sum).abs() < 1e-5, "{found} {sum}");
        assert_eq!(out.margins.len(), 9);
        assert!(out.margins.iter().zip(&margins).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(margins.iter().any(|m| *m > 0.5) && margins.iter().any(|m| *m < -0.5), "both signs");
        let grads = out.sum.backward();
        let grad: Vec<f32> = weights.grad(&grads).expect("reached").into_data().try_into_vec().expect("f32");
        for (i, g) in grad.iter().enumerate() {
            let moved = |by: f64| {
                let mut w = start();
                w[i] += by;
                definition(&w, &pairs, centred(c)).0
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((f64::from(*g) - slope).abs() < 1e-5, "token {i}: {g} and {slope}");
        }
    }
}

#[test]
fn a_window_is_the_sum_of_its_parts() {
    let pairs = pairs(7, 2);
    let sum = |part: &[TokenPair]| {
        let weights = leaf(&start());
        let refs: Vec<&TokenPair> = part.iter().collect();
        let out = pairwise_loss(&|rows| scores(&weights, rows), &refs, BradleyTerryConfig::default());
        f64::from(out.sum.into_scalar::<f32>())
    };
    let parts = sum(&pairs[..2]) + sum(&pairs[2..5]) + sum(&pairs[5..]);
    assert!((sum(&pairs) - parts).abs() < 1e-5);
}

#[test]
fn the_model_sees_chosen_texts_first_then_rejected_ones() {
    let pairs = [
        TokenPair { chosen: vec![1], rejected: vec![2, 2] },
        TokenPair { chosen: vec![3, 3, 3], rejected: vec![4] },
    ];
    let asked = |rows: &[&[u32]]| {
        assert_eq!(rows, [&[1u32][..], &[3, 3, 3], &[2, 2], &[4]]);
        Tensor::<1>::from_data(TensorData::new(vec![2.0f32, 0.0, 1.0, 1.0], [4]), &Device::flex())
    };
    let out = pairwise_loss(&asked, &pairs.iter().collect::<Vec<_>>(), BradleyTerryConfig::default());
    // Specification of the loss, pairs (2, 1) and (0, 1): log(1 + e⁻¹) + log(1 + e) = 1.62652338.
    assert!((f64::from(out.sum.into_scalar::<f32>()) - 1.626_523_38).abs() < 1e-6);
    assert_eq!(out.margins, [1.0, -1.0]);
}

#[test]
fn a_separable_rule_is_learned() {
    // The text with more of tokens 0 to 5 than of the others is preferred.
    let good = |row: &[u32]| row.iter().map(|t| if *t < 6 { 1i32 } else { -1 }).sum::<i32>();
    let told = |mut p: TokenPair| {
        if good(&p.chosen) < good(&p.rejected) {
            std::mem::swap(&mut p.chosen, &mut p.rejected);
        }
        p
    };
    let decided = |p: &TokenPair| good(&p.chosen) != good(&p.rejected);
    let set = |seed| -> Vec<TokenPair> { pairs(200, seed).into_iter().filter(decided).map(told).collect() };
    let (train, test) = (set(3), set(4));
    let refs: Vec<&TokenPair> = train.iter().collect();
    let mut w = vec![0.0f64; V];
    for _ in 0..200 {
        let weights = leaf(&w);
        let out = pairwise_loss(&|rows| scores(&weights, rows), &refs, BradleyTerryConfig::default());
        let grads = out.sum.div_scalar(refs.len() as f64).backward();
        let g: Vec<f32> = weights.grad(&grads).expect("reached").into_data().try_into_vec().expect("f32");
        w.iter_mut().zip(&g).for_each(|(w, g)| *w -= f64::from(*g));
    }
    let right = |set: &[TokenPair]| {
        definition(&w, set, BradleyTerryConfig::default()).1.iter().filter(|m| **m > 0.0).count()
    };
    assert_eq!(right(&train), train.len());
    assert!(right(&test) as f64 >= 0.98 * test.len() as f64, "{} of {}", right(&test), test.len());
}

#[test]
#[should_panic(expected = "pairwise_loss: no pair")]
fn no_pair() {
    let weights = leaf(&start());
    pairwise_loss(&|rows: &[&[u32]]| scores(&weights, rows), &[], BradleyTerryConfig::default());
}
