//! A table of all losses and what holds for each of them; a new one joins by one line in the file
//! of its family.

mod advantage;
mod fused;
mod law;
mod pairs;
mod pairs_unpaired;
mod policy_gradient;
mod preset;
mod reduction;
mod reference_free;
mod selfplay;
mod sequence_policy;
mod supervised;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rlhf_core::real::Dual;
use rlhf_core::rng::stream;

use law::{Batch, Law, MORE, N, Probe, Tensors};

/// The table.
fn laws() -> Vec<Law> {
    [
        advantage::laws(),
        fused::laws(),
        pairs::laws(),
        pairs_unpaired::laws(),
        policy_gradient::laws(),
        reference_free::laws(),
        selfplay::laws(),
        sequence_policy::laws(),
        supervised::laws(),
    ]
    .into_iter()
    .flatten()
    .collect()
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

/// Values, and the gradient of their sum weighted by `weights`, with respect to the leaf.
fn run(law: &Law, t: &Tensors, weights: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let out = (law.tensor)(t);
    let [n, o] = out.dims();
    assert_eq!(n, t.leaf.dims()[0], "{}: one row an example", law.name);
    let w: Vec<f32> = (0..n * o).map(|i| weights[i % weights.len()] as f32).collect();
    let w = Tensor::<2>::from_data(TensorData::new(w, [n, o]), &t.leaf.device());
    let grads = (out.clone() * w).sum().backward();
    let into = t.leaf.grad(&grads).map_or_else(|| vec![0.0; t.leaf.shape().num_elements()], host);
    (host(out), into)
}

/// A weight for each output, so that a gradient that goes to the wrong one is seen.
fn weights(n: usize) -> Vec<f64> {
    let mut rng = stream(7, "laws.weights", 0, 0);
    (0..n).map(|_| f64::from((0.5 + rng.random::<f64>()) as f32)).collect()
}

fn weighted<R: Copy + Into<f64>>(out: &[Vec<R>], of: impl Fn(R) -> f64) -> f64 {
    let w = weights(out.iter().map(Vec::len).sum());
    out.iter().flatten().zip(w).map(|(x, w)| of(*x) * w).sum()
}

#[test]
fn names_are_given_once() {
    let mut names: Vec<&str> = laws().iter().map(|l| l.name).collect();
    names.sort_unstable();
    let n = names.len();
    names.dedup();
    assert_eq!(names.len(), n);
}

#[test]
fn the_tensor_function_is_its_twin() {
    for law in laws() {
        for seed in 0..12 {
            let batch = Batch::draw(&law.form, seed, law.form.size);
            let expected: Vec<f64> =
                (law.dual)(&batch.reals()).into_iter().flatten().map(|x| x.value).collect();
            let found = host((law.tensor)(&batch.tensors()));
            assert_eq!(found.len(), expected.len(), "{}: outputs of tensor and twin", law.name);
            assert_eq!(found.len() % N, 0, "{}: as many outputs an example", law.name);
            for (found, expected) in found.into_iter().zip(expected) {
                close(law.name, found, expected, 5e-6);
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_twin_and_its_central_differences() {
    for law in laws() {
        for seed in [3, 4] {
            let batch = Batch::draw(&law.form, seed, law.form.size);
            let n_out = (law.dual)(&batch.reals()).iter().map(Vec::len).sum();
            let (_, found) = run(&law, &batch.tensors(), &weights(n_out));
            let mut dual: Batch<Dual> = batch.reals();
            let mut probe: Batch<Probe> = batch.reals();
            Probe::record(|| (law.probe)(&probe));
            for (i, found) in found.into_iter().enumerate() {
                let (r, c) = (i / law.form.width, i % law.form.width);
                dual.leaf[r][c].slope = 1.0;
                let slope = weighted(&(law.dual)(&dual), |x| x.slope);
                dual.leaf[r][c].slope = 0.0;
                let mut moved = |h: f64| {
                    probe.leaf[r][c] = Probe(batch.leaf[r][c] + h);
                    let value = Probe::replay(|| weighted(&(law.probe)(&probe), |x| x.0));
                    probe.leaf[r][c] = Probe(batch.leaf[r][c]);
                    value
                };
                let differences = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let what = format!("{} example {r} column {c}", law.name);
                close(&format!("{what}: twin against differences"), slope, differences, 1e-6);
                close(&format!("{what}: tensor against twin"), found, slope, 1e-5);
            }
        }
    }
}

#[test]
fn detached_means_no_gradient() {
    for law in laws() {
        let batch = Batch::draw(&law.form, 5, law.form.size);
        let t = batch.tensors();
        let out = (law.tensor)(&t);
        let straight = host(out.clone());
        let grads = out.sum().backward();
        for (k, (_, _, counts)) in law.form.others.iter().enumerate() {
            let into = t.others[k].grad(&grads).map(host).unwrap_or_default();
            assert!(into.iter().all(|g| g.abs() <= 0.0), "{}: companion {k}: {into:?}", law.name);
            // Detached, and yet it counts.
            let mut moved = batch.clone();
            moved.others[k] = Batch::draw(&law.form, 6, law.form.size).others[k].clone();
            let found = host((law.tensor)(&moved.tensors()));
            let differs = found.iter().zip(&straight).any(|(a, b)| (a - b).abs() > 1e-6);
            assert!(!counts || differs, "{}: companion {k} counts for nothing", law.name);
        }
    }
}

#[test]
fn the_order_of_a_batch_changes_nothing() {
    for law in laws() {
        let batch = Batch::draw(&law.form, 7, law.form.size);
        let run = |order: &[usize]| host((law.tensor)(&batch.picked(order).tensors()));
        let straight = run(&[0, 1, 2, 3, 4, 5]);
        let o = straight.len() / N;
        let order = [4, 0, 5, 2, 1, 3];
        let shuffled = run(&order);
        if law.form.coupled {
            // A mean over the batch may round otherwise in another order, and sorted losses move.
            let total = |x: &[f64]| x.iter().sum::<f64>();
            close(law.name, total(&shuffled), total(&straight), 1e-5);
            continue;
        }
        for (at, i) in order.into_iter().enumerate() {
            for j in 0..o {
                let (a, b) = (straight[i * o + j], shuffled[at * o + j]);
                assert_eq!(a.to_bits(), b.to_bits(), "{}: example {i}", law.name);
            }
        }
        // Alone, an example has the loss it has in company.
        for (j, alone) in run(&[2]).into_iter().enumerate() {
            close(law.name, alone, straight[2 * o + j], 1e-6);
        }
    }
}

#[test]
fn masked_positions_and_padding_change_nothing() {
    for law in laws().into_iter().filter(|l| l.form.masked) {
        for seed in 0..4 {
            let mut batch = Batch::draw(&law.form, seed, law.form.size);
            if seed == 3 {
                // A row without tokens contributes nothing.
                batch.mask[1].fill(false);
            }
            let n_out = host((law.tensor)(&batch.tensors())).len();
            let w = weights(n_out);
            let (values, grads) = run(&law, &batch.tensors(), &w);
            let (poisoned, into) = run(&law, &batch.poisoned(&law.form).tensors(), &w);
            // What a row without tokens has, the twin says.
            let expected = (law.dual)(&batch.reals());
            for (found, expected) in values.iter().zip(expected.iter().flatten()) {
                close(&format!("{} seed {seed}", law.name), *found, expected.value, 5e-6);
            }
            for (i, (a, b)) in values.iter().zip(&poisoned).enumerate() {
                assert_eq!(a.to_bits(), b.to_bits(), "{} seed {seed}: value {i}: {a} {b}", law.name);
            }
            for (i, (a, b)) in grads.iter().zip(&into).enumerate() {
                assert!((a - b).abs() <= 0.0, "{} seed {seed}: gradient {i}: {a} {b}", law.name);
                let on = batch.mask[i / law.form.width][i % law.form.width];
                assert!(on || b.abs() <= 0.0, "{} seed {seed}: gradient {i} behind the mask: {b}", law.name);
            }
            let longer = host((law.tensor)(&batch.padded(&law.form, MORE).tensors()));
            let o = n_out / N;
            let o_longer = longer.len() / N;
            assert!(o_longer == o || o_longer == o + MORE, "{}: outputs {o} and {o_longer}", law.name);
            for i in 0..N {
                for j in 0..o_longer {
                    let expected = if j < o { values[i * o + j] } else { 0.0 };
                    close(&format!("{} padded", law.name), longer[i * o_longer + j], expected, 1e-6);
                }
            }
        }
    }
}

#[test]
fn an_identical_pair_has_no_gradient() {
    for law in laws() {
        let Some([chosen, rejected]) = law.form.pair else { continue };
        let mut batch = Batch::draw(&law.form, 9, law.form.size);
        batch.leaf.iter_mut().for_each(|row| row[rejected] = row[chosen]);
        for (o, (width, ..)) in batch.others.iter_mut().zip(&law.form.others) {
            if *width == law.form.width {
                o.iter_mut().for_each(|row| row[rejected] = row[chosen]);
            }
        }
        let (_, grads) = run(&law, &batch.tensors(), &[1.0]);
        for (i, row) in grads.chunks(law.form.width).enumerate() {
            let total = row[chosen] + row[rejected];
            assert!(total.abs() < 1e-6, "{}: example {i}: {total}", law.name);
        }
    }
}

#[test]
fn values_and_gradients_are_finite_far_out() {
    for law in laws().into_iter().filter(|l| !l.form.overflows) {
        for seed in 0..5 {
            let batch = Batch::draw(&law.form, seed, 5e3);
            let (values, grads) = run(&law, &batch.tensors(), &[1.0]);
            assert!(values.iter().chain(&grads).all(|x| x.is_finite()), "{}: {values:?} {grads:?}", law.name);
            // Finite, and right.
            let expected = (law.dual)(&batch.reals());
            for (found, expected) in values.iter().zip(expected.iter().flatten()) {
                close(&format!("{} far out", law.name), *found, expected.value, 1e-5);
            }
        }
    }
}

#[test]
fn nan_is_never_hidden() {
    for law in laws() {
        let drawn = Batch::draw(&law.form, 1, law.form.size);
        for c in (0..law.form.width).filter(|c| drawn.mask[0][*c]) {
            let mut batch = drawn.clone();
            batch.leaf[0][c] = f64::NAN;
            let twin = (law.dual)(&batch.reals());
            assert!(twin.iter().flatten().any(|x| x.value.is_nan()), "{}: twin, column {c}", law.name);
            let found = host((law.tensor)(&batch.tensors()));
            assert!(found.iter().any(|x| x.is_nan()), "{}: tensor, column {c}: {found:?}", law.name);
        }
    }
}

/// The message of the panic of `law` on `t`.
fn refusal(law: &Law, t: &Tensors) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| (law.tensor)(t)));
    let payload = panic.err().unwrap_or_else(|| panic!("{}: expected a refusal", law.name));
    payload.downcast::<String>().map_or_else(|_| "no message".to_owned(), |text| *text)
}

#[test]
fn wrong_shapes_are_refused_by_name() {
    for law in laws() {
        let batch = Batch::draw(&law.form, 0, law.form.size);
        let check = |what: &str, t: &Tensors, also: &str| {
            let text = refusal(&law, t);
            let named = text.starts_with(&format!("{}: ", law.function()));
            assert!(
                named && text.contains("expected ") && text.contains(also),
                "{} {what}: {text}",
                law.name
            );
        };
        // Burn would broadcast the one row.
        let single = batch.picked(&[0]).tensors();
        for k in 0..batch.others.len() {
            let mut t = batch.tensors();
            t.others[k] = single.others[k].clone();
            check(&format!("companion {k}"), &t, "found [1");
        }
        if law.form.masked {
            check("mask", &Tensors { mask: single.mask.clone(), ..batch.tensors() }, "found [1");
        }
        if law.form.tokens {
            check("tokens", &Tensors { tokens: single.tokens.clone(), ..batch.tensors() }, "found [1");
        }
        let mut none = batch.tensors();
        none.leaf = Tensor::zeros([0, law.form.width], &none.leaf.device());
        check("empty batch", &none, "");
    }
}
