//! A table of all losses; a new one joins by one entry.
//!
//! A loss is seen as a function of a leaf `[N, W]` (logits, or the chosen and rejected reward) and
//! a companion of the same shape (prior, margin, target) that must get no gradient.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
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
use rlhf_core::rng::stream;

/// One loss, both ways. `rows` are examples; `y` picks a token of each.
struct Law {
    name: &'static str,
    width: usize,
    tensor: fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>,
    twin: fn(&[f64], &[f64], usize) -> f64,
    /// The gradient of the twin is that of the tensor function, unless the twin holds a factor that
    /// is detached there: then the factor's value at the point, by which the rest is multiplied.
    differentiated: fn(&[f64], &[f64], usize, &[f64]) -> f64,
    /// How the companion enters.
    companion: Companion,
}

#[derive(PartialEq)]
enum Companion {
    Unused,
    Detached,
}

fn column(x: &Tensor<2>, i: usize) -> Tensor<1> {
    let n = x.dims()[0];
    x.clone().narrow(1, i, 1).reshape([n])
}

fn smoothing() -> CrossEntropyConfig {
    CrossEntropyConfig { label_smoothing: Prob::new(0.1).expect("a probability") }
}

fn centred() -> BradleyTerryConfig {
    BradleyTerryConfig { center_rewards_coefficient: Weight::new(0.01).expect("a weight") }
}

fn laws() -> Vec<Law> {
    vec![
        Law {
            name: "token_logp",
            width: 7,
            tensor: |z, _, y| token_logp(z, y),
            twin: |z, _, y| token_logp_scalar(z, y),
            differentiated: |z, _, y, _| token_logp_scalar(z, y),
            companion: Companion::Unused,
        },
        Law {
            name: "entropy",
            width: 7,
            tensor: |z, _, _| entropy(z),
            twin: |z, _, _| entropy_scalar(z),
            differentiated: |z, _, _, _| entropy_scalar(z),
            companion: Companion::Unused,
        },
        Law {
            name: "cross_entropy",
            width: 7,
            tensor: |z, _, y| cross_entropy(z, y),
            twin: |z, _, y| cross_entropy_scalar(z, y),
            differentiated: |z, _, y, _| cross_entropy_scalar(z, y),
            companion: Companion::Unused,
        },
        Law {
            name: "cross_entropy_smoothed",
            width: 7,
            tensor: |z, _, y| cross_entropy_smoothed(smoothing(), z, y),
            twin: |z, _, y| cross_entropy_smoothed_scalar(smoothing(), z, y),
            differentiated: |z, _, y, _| cross_entropy_smoothed_scalar(smoothing(), z, y),
            companion: Companion::Unused,
        },
        Law {
            name: "dft",
            width: 7,
            tensor: |z, _, y| dft(z, y),
            twin: |z, _, y| dft_scalar(z, y),
            differentiated: |z, _, y, at| token_logp_scalar(at, y).exp() * cross_entropy_scalar(z, y),
            companion: Companion::Unused,
        },
        Law {
            name: "forward_kl",
            width: 7,
            tensor: |z, prior, _| forward_kl(z, prior),
            twin: |z, prior, _| forward_kl_scalar(z, prior),
            differentiated: |z, prior, _, _| forward_kl_scalar(z, prior),
            companion: Companion::Detached,
        },
        Law {
            name: "bradley_terry",
            width: 2,
            tensor: |r, m, _| {
                bradley_terry(centred(), [column(&r, 0), column(&r, 1)], Some(column(&m, 0))).loss
            },
            twin: |r, m, _| bradley_terry_scalar(centred(), [r[0], r[1]], m[0]),
            differentiated: |r, m, _, _| bradley_terry_scalar(centred(), [r[0], r[1]], m[0]),
            companion: Companion::Detached,
        },
        Law {
            name: "regression",
            width: 1,
            tensor: |r, y, _| regression(column(&r, 0), column(&y, 0)),
            twin: |r, y, _| regression_scalar(r[0], y[0]),
            differentiated: |r, y, _, _| regression_scalar(r[0], y[0]),
            companion: Companion::Detached,
        },
    ]
}

const N: usize = 6;

/// Numbers from −`size` to `size`, each exact in `f32`.
fn numbers(seed: u64, n: usize, size: f64) -> Vec<f64> {
    let mut rng = stream(seed, "laws", 0, 0);
    let one = |_| f64::from(((2.0 * rng.random::<f64>() - 1.0) * size) as f32);
    (0..n).map(one).collect()
}

struct Draw {
    width: usize,
    leaf: Vec<f64>,
    companion: Vec<f64>,
    y: Vec<usize>,
}

impl Draw {
    fn new(law: &Law, seed: u64, size: f64) -> Self {
        let w = law.width;
        let y = (0..N).map(|i| (5 * i + seed as usize) % w).collect();
        let companion = numbers(seed + 1000, N * w, size);
        Self { width: w, leaf: numbers(seed, N * w, size), companion, y }
    }

    fn row<'a>(&self, of: &'a [f64], i: usize) -> &'a [f64] {
        &of[i * self.width..(i + 1) * self.width]
    }

    /// Leaf, companion and tokens on the autodiff device, rows in `order`.
    fn tensors(&self, order: &[usize]) -> (Tensor<2>, Tensor<2>, Tensor<1, Int>) {
        let device = Device::flex().autodiff();
        let matrix = |of: &[f64]| {
            let rows: Vec<f32> = order.iter().flat_map(|i| self.row(of, *i)).map(|x| *x as f32).collect();
            let data = TensorData::new(rows, [order.len(), self.width]);
            Tensor::<2>::from_data(data, &device).require_grad()
        };
        let y: Vec<i64> = order.iter().map(|i| self.y[*i] as i64).collect();
        let y = Tensor::from_data(TensorData::new(y, [order.len()]), &device);
        (matrix(&self.leaf), matrix(&self.companion), y)
    }
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().convert::<f64>().try_into_vec().expect("converted to f64")
}

/// Refuses a tolerance that proves nothing.
fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!(tolerance <= 1e-3, "{what}: a tolerance of {tolerance} proves nothing");
    let allowed = tolerance * expected.abs().max(1.0);
    assert!((found - expected).abs() <= allowed, "{what}: expected {expected}, found {found}");
}

#[test]
fn the_tensor_function_is_its_twin() {
    for law in laws() {
        for seed in 0..20 {
            let draw = Draw::new(&law, seed, 4.0);
            let order: Vec<usize> = (0..N).collect();
            let (leaf, companion, y) = draw.tensors(&order);
            let found = host((law.tensor)(leaf, companion, y));
            assert_eq!(found.len(), N, "{}: one output an example", law.name);
            for (i, found) in found.into_iter().enumerate() {
                let (z, other) = (draw.row(&draw.leaf, i), draw.row(&draw.companion, i));
                close(law.name, found, (law.twin)(z, other, draw.y[i]), 2e-6);
            }
        }
    }
}

#[test]
fn gradients_are_the_central_differences_of_the_twin() {
    for law in laws() {
        let draw = Draw::new(&law, 3, 3.0);
        let order: Vec<usize> = (0..N).collect();
        let (leaf, companion, y) = draw.tensors(&order);
        let grads = (law.tensor)(leaf.clone(), companion, y).sum().backward();
        let found = host(leaf.grad(&grads).expect("the leaf is reached"));
        for i in 0..N {
            let (at, other) = (draw.row(&draw.leaf, i), draw.row(&draw.companion, i));
            for j in 0..law.width {
                let moved = |h: f64| {
                    let mut z = at.to_vec();
                    z[j] += h;
                    (law.differentiated)(&z, other, draw.y[i], at)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                close(law.name, found[i * law.width + j], slope, 3e-6);
            }
        }
    }
}

#[test]
fn detached_means_no_gradient() {
    for law in laws() {
        let draw = Draw::new(&law, 5, 2.0);
        let order: Vec<usize> = (0..N).collect();
        let (leaf, companion, y) = draw.tensors(&order);
        let grads = (law.tensor)(leaf, companion.clone(), y).sum().backward();
        let into = companion.grad(&grads).map(host).unwrap_or_default();
        assert!(into.iter().all(|g| g.abs() <= 0.0), "{}: {into:?}", law.name);
        // Detached, and yet it counts.
        if law.companion == Companion::Detached {
            let (z, other) = (draw.row(&draw.leaf, 0), draw.row(&draw.companion, 0));
            let moved: Vec<f64> = other.iter().enumerate().map(|(i, x)| x + 0.5 + i as f64).collect();
            let (a, b) = ((law.twin)(z, other, draw.y[0]), (law.twin)(z, &moved, draw.y[0]));
            assert!((a - b).abs() > 1e-6, "{}", law.name);
        }
    }
}

#[test]
fn the_gap_of_a_pair_carries_no_gradient() {
    let device = Device::flex().autodiff();
    let leaf = |x: [f32; 2]| Tensor::<1>::from_data(TensorData::new(x.to_vec(), [2]), &device).require_grad();
    let (chosen, rejected) = (leaf([2.0, 0.0]), leaf([1.0, 1.0]));
    let out = bradley_terry(BradleyTerryConfig::default(), [chosen.clone(), rejected], None);
    let grads = (out.loss.sum() + out.gap.clone().sum()).backward();
    let g = host(chosen.grad(&grads).expect("reached by the loss"));
    // −σ(−1) and −σ(1): the gap's +1 is not in them.
    close("gap", g[0], -1.0 / (1.0 + 1f64.exp()), 1e-6);
    close("gap", g[1], -1.0 / (1.0 + (-1f64).exp()), 1e-6);
    assert_eq!(host(out.gap).iter().map(|g| *g as i32).collect::<Vec<_>>(), [1, -1]);
}

#[test]
fn the_order_of_a_batch_changes_nothing() {
    for law in laws() {
        let draw = Draw::new(&law, 7, 3.0);
        let run = |order: &[usize]| {
            let (leaf, companion, y) = draw.tensors(order);
            host((law.tensor)(leaf, companion, y))
        };
        let straight = run(&[0, 1, 2, 3, 4, 5]);
        let order = [4, 0, 5, 2, 1, 3];
        for (i, x) in order.into_iter().zip(run(&order)) {
            assert_eq!(straight[i].to_bits(), x.to_bits(), "{}: example {i}", law.name);
        }
        // Alone, an example has the loss it has in company.
        close(law.name, run(&[2])[0], straight[2], 1e-6);
    }
}

#[test]
fn values_and_gradients_are_finite_far_out() {
    for law in laws() {
        for seed in 0..5 {
            let draw = Draw::new(&law, seed, 5e3);
            let order: Vec<usize> = (0..N).collect();
            let (leaf, companion, y) = draw.tensors(&order);
            let out = (law.tensor)(leaf.clone(), companion, y);
            let grads = out.clone().sum().backward();
            let slopes = host(leaf.grad(&grads).expect("the leaf is reached"));
            assert!(host(out).iter().chain(&slopes).all(|x| x.is_finite()), "{}", law.name);
        }
    }
}

#[test]
fn a_bradley_terry_pair_keeps_both_tails_in_f32() {
    let device = Device::flex().autodiff();
    let leaf = |x: [f32; 4]| Tensor::<1>::from_data(TensorData::new(x.to_vec(), [4]), &device).require_grad();
    let (chosen, rejected) = (leaf([0.0, 60.0, 0.0, 400.0]), leaf([0.0, 0.0, 60.0, 0.0]));
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
    let law = laws().into_iter().find(|l| l.name == "forward_kl").expect("in the table");
    let mut draw = Draw::new(&law, 11, 3.0);
    draw.companion = draw.leaf.clone();
    let (leaf, prior, _) = draw.tensors(&[0, 1, 2, 3, 4, 5]);
    let kl = forward_kl(leaf.clone(), prior);
    let grads = kl.clone().sum().backward();
    let slopes = host(leaf.grad(&grads).expect("reached"));
    assert!(host(kl).iter().all(|x| x.abs() <= 0.0));
    assert!(slopes.iter().all(|x| x.abs() < 5e-7), "{slopes:?}");
}

#[test]
fn several_tokens_a_row_are_each_the_single_one() {
    let draw = Draw::new(&laws()[0], 13, 3.0);
    let (leaf, _, y) = draw.tensors(&[0, 1, 2, 3, 4, 5]);
    let single = host(token_logp(leaf.clone(), y.clone()));
    let pair = Tensor::stack::<2>(vec![y.clone(), y], 1);
    let both = host(selected_logp(leaf, pair));
    for (i, x) in single.iter().enumerate() {
        assert_eq!([both[2 * i].to_bits(), both[2 * i + 1].to_bits()], [x.to_bits(); 2]);
    }
}

mod shapes {
    use super::*;

    fn of<const D: usize>(dims: [usize; D]) -> Tensor<D> {
        Tensor::zeros(dims, &Device::flex())
    }

    fn tokens(n: usize) -> Tensor<1, Int> {
        Tensor::zeros([n], &Device::flex())
    }

    #[test]
    #[should_panic(expected = "cross_entropy: targets: expected shape [4], found [1]")]
    fn one_target_for_many_rows() {
        cross_entropy(of([4, 3]), tokens(1));
    }

    #[test]
    #[should_panic(expected = "cross_entropy: logits: expected no empty axis, found shape [0, 3]")]
    fn no_row() {
        cross_entropy(of([0, 3]), tokens(0));
    }

    #[test]
    #[should_panic(expected = "dft: targets: expected shape [2], found [1]")]
    fn one_target_for_two_rows() {
        dft(of([2, 3]), tokens(1));
    }

    #[test]
    #[should_panic(expected = "forward_kl: prior_logits: expected shape [2, 3], found [1, 3]")]
    fn one_prior_for_two_rows() {
        forward_kl(of([2, 3]), of([1, 3]));
    }

    #[test]
    #[should_panic(expected = "bradley_terry: rejected: expected shape [2], found [1]")]
    fn one_rejected_for_two_chosen() {
        bradley_terry(BradleyTerryConfig::default(), [of([2]), of([1])], None);
    }

    #[test]
    #[should_panic(expected = "bradley_terry: margin: expected shape [2], found [1]")]
    fn one_margin_for_two_pairs() {
        bradley_terry(BradleyTerryConfig::default(), [of([2]), of([2])], Some(of([1])));
    }

    #[test]
    #[should_panic(expected = "regression: target: expected shape [2], found [1]")]
    fn one_target_for_two_rewards() {
        regression(of([2]), of([1]));
    }

    #[test]
    #[should_panic(expected = "at_temperature: temperature: expected a positive finite number, found 0")]
    fn no_temperature() {
        rlhf_core::logp::at_temperature(of([1, 2]), 0.0);
    }
}
