//! Each function on flex equals the composition of plain operations on another device.

use burn::tensor::Tensor;
use rlhf_kernels::{
    Activation, Attention, HeadLogp, activate, attention, embedding_with_padding, gated, gated_linear,
    head_logp, head_logp_tied, layer_norm, linear, rms_norm, rope,
};

use crate::common::{agree, close, flat, fused, host, indices, ints, plain, random};

#[test]
fn norms() {
    for (rows, n) in [(1, 1), (3, 7), (5, 16), (130, 256), (2, 20_000)] {
        let leaves = [random(1, rows * n), random(2, n), random(3, n)];
        agree(&format!("rms_norm {rows} {n}"), &leaves[..2], &|x| {
            rms_norm(x[0].clone().reshape([rows, n]), x[1].clone(), 1e-6).reshape([rows * n])
        });
        if n > 1 {
            agree(&format!("layer_norm {rows} {n}"), &leaves, &|x| {
                let input = x[0].clone().reshape([1, rows, n]);
                layer_norm(input, x[1].clone(), x[2].clone(), 1e-5).reshape([rows * n])
            });
        }
    }
}

#[test]
fn activations() {
    for how in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        for n in [1, 15, 16, 33, 40_000] {
            let leaves = [random(1, n), random(2, n)];
            agree(&format!("{how:?} {n}"), &leaves[..1], &|x| activate(how, x[0].clone()));
            agree(&format!("gated {how:?} {n}"), &leaves, &|x| gated(how, x[0].clone(), x[1].clone()));
        }
    }
}

#[test]
fn rotary_positions_whole_and_in_part() {
    for (b, t, heads, d, r) in [(1, 1, 1, 2, 2), (2, 5, 3, 10, 6), (3, 70, 4, 32, 32), (2, 9, 2, 80, 20)] {
        let (cos, sin) = (random(5, t * r / 2), random(6, t * r / 2));
        agree(&format!("rope {b} {t} {heads} {d} {r}"), &[random(1, b * t * heads * d)], &|x| {
            let device = x[0].device().inner();
            let table = |x: &[f32]| flat(x, &device).reshape([t, r / 2]);
            // The tables may come from the plain device or the autodiff one.
            let table_cos = Tensor::from_inner(table(&cos)).detach();
            let x = x[0].clone().reshape([b, t, heads * d]);
            let sin = Tensor::from_inner(table(&sin));
            rope(x, heads, table_cos, sin).reshape([b * t * heads * d])
        });
    }
}

/// `[B, T]` and the heads, with what a query sees.
fn attends(b: usize, t: usize, how: Attention) {
    let (wide, narrow) = (how.heads * how.head_dim, how.kv_heads * how.head_dim);
    let leaves = [random(1, b * t * wide), random(2, b * t * narrow), random(3, b * t * narrow)];
    agree(&format!("{how:?} B {b} T {t}"), &leaves, &|x| {
        let split = |x: &Tensor<1>, n| x.clone().reshape([b, t, n]);
        let out = attention(&how, split(&x[0], wide), split(&x[1], narrow), split(&x[2], narrow));
        out.reshape([b * t * wide])
    });
}

#[test]
fn attention_with_groups_windows_and_caps() {
    let how = |heads, kv_heads, head_dim| Attention {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
        window: None,
        softcap: None,
    };
    attends(1, 1, how(1, 1, 1));
    attends(2, 1, how(2, 1, 4));
    attends(1, 33, how(3, 3, 5));
    attends(2, 40, how(4, 2, 32));
    attends(1, 100, how(6, 2, 48));
    attends(3, 17, how(2, 2, 17));
    for window in [1, 3, 16, 50, 1000] {
        attends(1, 70, Attention { window: Some(window), ..how(4, 2, 16) });
    }
    attends(2, 45, Attention { softcap: Some(1.5), ..how(4, 1, 12) });
    attends(1, 90, Attention { softcap: Some(50.0), window: Some(20), scale: 0.3, ..how(2, 1, 16) });
}

#[test]
fn rows_of_a_table() {
    for (v, n, b, t) in [(1, 1, 1, 1), (7, 3, 2, 5), (3000, 8, 4, 100)] {
        let tokens = indices(4, b * t, v);
        for padding in [None, Some(tokens[0] as u32)] {
            agree(&format!("embedding {v} {n} {padding:?}"), &[random(1, v * n)], &|x| {
                let tokens = ints(&tokens, &x[0].device()).reshape([b, t]);
                let table = x[0].clone().reshape([v, n]);
                embedding_with_padding(table, tokens, padding).reshape([b * t * n])
            });
        }
    }
}

#[test]
fn linear_maps_with_and_without_bias() {
    for (rows, n, out) in [(1, 1, 1), (6, 5, 9), (64, 33, 40)] {
        let leaves = [random(1, rows * n), random(2, n * out), random(3, out)];
        for used in [2, 3] {
            agree(&format!("linear {rows} {n} {out}"), &leaves[..used], &|x| {
                let input = x[0].clone().reshape([1, rows, n]);
                let y = linear(input, x[1].clone().reshape([n, out]), x.get(2).cloned());
                let total = y.shape().num_elements();
                y.reshape([total])
            });
        }
    }
}

#[test]
fn a_gate_and_the_map_behind_it() {
    for (rows, n, out) in [(1, 1, 1), (6, 5, 9), (64, 33, 40)] {
        let leaves = [random(1, rows * n), random(2, rows * n), random(3, n * out), random(4, out)];
        for used in [3, 4] {
            agree(&format!("gated_linear {rows} {n} {out}"), &leaves[..used], &|x| {
                let input = |x: &Tensor<1>| x.clone().reshape([1, rows, n]);
                let weight = x[2].clone().reshape([n, out]);
                let bias = x.get(3).cloned();
                let y = gated_linear(Activation::Silu, input(&x[0]), input(&x[1]), weight, bias);
                y.reshape([rows * out])
            });
        }
    }
}

#[test]
fn log_probabilities_of_a_head() {
    let caps = [(1.0, None), (0.7, None), (1.0, Some(2.0)), (1.3, Some(30.0))];
    for (m, d, v) in [(1, 1, 1), (3, 5, 7), (50, 16, 300)] {
        let targets = indices(4, m, v);
        for (temperature, softcap) in caps {
            let how = HeadLogp { temperature, softcap };
            let name = format!("head {m} {d} {v} {how:?}");
            let leaves = [random(1, m * d), random(2, d * v)];
            agree(&name, &leaves, &|x| {
                let targets = ints(&targets, &x[0].device());
                head_logp(x[0].clone().reshape([m, d]), x[1].clone().reshape([d, v]), targets, &how)
            });
            agree(&format!("{name} tied"), &leaves, &|x| {
                let targets = ints(&targets, &x[0].device());
                head_logp_tied(x[0].clone().reshape([m, d]), x[1].clone().reshape([v, d]), targets, &how)
            });
        }
    }
}

/// 1,100 rows of 16,000 logits: too many to keep, so that they are made again in blocks.
#[test]
fn a_large_head_is_done_in_blocks() {
    let (m, d, v) = (1100, 4, 16_000);
    let (hidden, weight) = (random(1, m * d), random(2, d * v));
    let targets = indices(4, m, v);
    let how = HeadLogp::default();
    agree("blocks", &[hidden.clone(), weight.clone()], &|x| {
        let targets = ints(&targets, &x[0].device());
        head_logp(x[0].clone().reshape([m, d]), x[1].clone().reshape([d, v]), targets, &how)
    });
    // Without a graph the same numbers come out.
    let values = |device: burn::tensor::Device| {
        let hidden = flat(&hidden, &device).reshape([m, d]);
        host(head_logp(hidden, flat(&weight, &device).reshape([d, v]), ints(&targets, &device), &how))
    };
    close("no graph", &values(fused().inner()), &values(plain().inner()), 3e-6);
}
