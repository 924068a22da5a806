//! One, two and three threads give the same bits.

use burn::tensor::Tensor;
use rlhf_kernels::{
    Activation, AdamWState, AdamWStep, Attention, HeadLogp, adamw, attention, embedding, gated, head_logp,
    layer_norm, rms_norm, rope, sum_of_squares,
};

use crate::common::{Outcome, flat, fused, host, indices, ints, random, run};

fn with_threads<R: Send>(threads: usize, work: impl Fn() -> R + Send + Sync) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(work)
}

#[track_caller]
fn same_bits<R: Send>(work: impl Fn() -> R + Send + Sync, bits: impl Fn(R) -> Vec<u64>) {
    let one = bits(with_threads(1, &work));
    for threads in [2, 3] {
        assert!(bits(with_threads(threads, &work)) == one, "{threads} threads differ from one");
    }
}

fn outcome(x: Outcome) -> Vec<u64> {
    let all = x.values.into_iter().chain(x.gradients.into_iter().flatten());
    all.map(|x| u64::from(x.to_bits())).collect()
}

#[test]
fn a_block_of_a_decoder() {
    let (b, t, heads, kv, d, v) = (3, 70, 4, 2, 16, 500);
    let n = heads * d;
    let m = b * t;
    let leaves =
        [random(1, v * n), random(2, n), random(3, n), random(4, n), random(5, n * v), random(6, m * kv * d)];
    let tokens = indices(7, m, v);
    let (cos, sin) = (random(8, t * d / 2), random(9, t * d / 2));
    let how = Attention { heads, kv_heads: kv, head_dim: d, scale: 0.25, window: None, softcap: None };
    let work = || {
        run(&fused(), &leaves, &|x| {
            let device = x[0].device();
            let table = |x: &[f32]| flat(x, &device).reshape([t, d / 2]);
            let ids = ints(&tokens, &device);
            let h = embedding(x[0].clone().reshape([v, n]), ids.clone().reshape([b, t]));
            let h = rms_norm(h, x[1].clone(), 1e-6);
            let q = rope(h.clone(), heads, table(&cos), table(&sin));
            let kv = x[5].clone().reshape([b, t, how.kv_heads * d]);
            let h = attention(&how, q, kv.clone(), kv) + h;
            let h = layer_norm(h, x[2].clone(), x[3].clone(), 1e-5);
            let h = gated(Activation::Silu, h.clone(), h);
            let w = x[4].clone().reshape([n, v]);
            head_logp(h.reshape([m, n]), w, ids, &HeadLogp::default())
        })
    };
    same_bits(work, outcome);
}

#[test]
fn a_step_of_the_optimiser() {
    let n = 50_000;
    let how = AdamWStep {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.0,
        scale: 1.0,
        step: 1,
    };
    let device = fused().inner();
    let zeros = || Tensor::zeros([n], &device);
    let work = || {
        let grad = flat(&random(2, n), &device);
        let norm = sum_of_squares(std::slice::from_ref(&grad));
        let state = AdamWState { theta: flat(&random(1, n), &device), first: zeros(), second: zeros() };
        (norm, host(adamw(&how, state, grad).theta))
    };
    same_bits(work, |(norm, theta)| {
        std::iter::once(norm.to_bits()).chain(theta.iter().map(|x| u64::from(x.to_bits()))).collect()
    });
}
