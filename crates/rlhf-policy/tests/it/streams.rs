//! A sample depends on the seed, its prompt and its number alone.

use burn::tensor::Device;
use rlhf_core::rng::stream;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Generation, Rollout, generate};

use crate::support::{close, decoder, devices, plain, rows, small};

const LENGTHS: [usize; 8] = [1, 30, 4, 33, 4, 61, 12, 2];

/// Generates for the prompts named, each under its own name's random streams.
fn run(model: &Decoder, which: &[usize], how: &Generation, device: &Device) -> Vec<Rollout> {
    let all = rows(8, 32, &LENGTHS);
    let prompts: Vec<Vec<u32>> = which.iter().map(|i| all[*i].clone()).collect();
    let random = |p: usize, s: usize| stream(5, "streams", which[p] as u64, s as u64);
    let mut out = generate(model, &prompts, how, &random, device).expect("finite");
    for r in &mut out {
        r.prompt = which[r.prompt];
    }
    out.sort_by_key(|r| (r.prompt, r.sample));
    out
}

#[track_caller]
fn same(what: &str, found: &[Rollout], expected: &[Rollout]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        let name = format!("{what}: prompt {}, sample {}", a.prompt, a.sample);
        assert_eq!((a.prompt, a.sample, &a.tokens, a.finish), (b.prompt, b.sample, &b.tokens, b.finish), "{name}");
        for (x, y) in a.policy_logp.iter().zip(&b.policy_logp) {
            close(&name, *x, *y, 1e-5);
        }
    }
}

fn of(all: &[Rollout], prompt: usize) -> Vec<Rollout> {
    all.iter().filter(|r| r.prompt == prompt).cloned().collect()
}

#[test]
fn company_and_order_and_batch_size_change_no_sample() {
    for device in devices() {
        let model = decoder(&small(), 21, &device);
        let straight = [0, 1, 2, 3, 4, 5, 6, 7];
        let together = run(&model, &straight, &plain(3, 40), &device);
        for i in straight {
            same("alone", &run(&model, &[i], &plain(3, 40), &device), &of(&together, i));
        }
        let turned = run(&model, &[5, 3, 7, 0, 6, 1, 4, 2], &plain(3, 40), &device);
        same("in another order", &turned, &together);
        for max_rows in [1, 4, 7, 1000] {
            let how = Generation { max_rows, ..plain(3, 40) };
            same(&format!("max_rows {max_rows}"), &run(&model, &straight, &how, &device), &together);
        }
    }
}

#[test]
fn more_samples_keep_the_first_ones() {
    let device = devices()[0].clone();
    let model = decoder(&small(), 21, &device);
    let many = run(&model, &[0, 1, 2], &plain(5, 20), &device);
    let few = run(&model, &[0, 1, 2], &plain(2, 20), &device);
    let first: Vec<Rollout> = many.iter().filter(|r| r.sample < 2).cloned().collect();
    same("two of five", &few, &first);
    assert!(many.iter().any(|r| r.sample > 0 && r.tokens != of(&many, r.prompt)[0].tokens), "samples differ");
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let device = devices()[0].clone();
    let model = decoder(&small(), 21, &device);
    let call = || run(&model, &[3, 1, 6], &plain(3, 20), &device);
    assert_eq!(call(), call());
}

#[test]
fn speed() {
    use burn::tensor::Tensor;
    let device = Device::flex();
    for (b, h, g, d, cap, cols) in [(64, 2, 2, 32, 128, 96), (16, 4, 2, 32, 128, 64), (64, 2, 4, 64, 544, 512)] {
        let q = Tensor::<4>::ones([b, h, g, d], &device);
        for round in 0..3 {
            let n = 200;
            let mut old = Tensor::<4>::ones([b, h, cap, d], &device);
            let t = std::time::Instant::now();
            for _ in 0..n {
                old = old.slice_assign([0..b, 0..h, 40..41, 0..d], Tensor::<4>::ones([b, h, 1, d], &device));
                let view = old.clone().narrow(2, 0, cols);
                let _ = q.clone().matmul(view.swap_dims(2, 3));
            }
            let a = t.elapsed().as_secs_f64() / f64::from(n) * 1e6;
            drop(old);
            let mut new = Tensor::<4>::ones([b, h, d, cap], &device);
            let t = std::time::Instant::now();
            for _ in 0..n {
                new = new.slice_assign([0..b, 0..h, 0..d, 40..41], Tensor::<4>::ones([b, h, 1, d], &device).swap_dims(2, 3));
                let view = new.clone().narrow(3, 0, cols);
                let _ = q.clone().matmul(view);
            }
            eprintln!("SPEED {b} {h} {g} {d} {cols} round {round}: old {a:.1} us new {:.1} us", t.elapsed().as_secs_f64() / f64::from(n) * 1e6);
        }
    }
}
