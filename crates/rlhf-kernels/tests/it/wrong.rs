//! Shapes that do not fit are refused at the door, with the function's name.

use burn::tensor::{Device, Tensor};
use rlhf_kernels::{
    Activation, Attention, HeadLogp, attention, embedding, gated, head_logp, linear, rms_norm, rope, slice,
};

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &Device::flex())
}

#[track_caller]
fn refuses(expected: &str, work: impl FnOnce() + std::panic::UnwindSafe) {
    let panic = std::panic::catch_unwind(work).expect_err("a panic");
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = panic.downcast_ref::<String>().cloned().or(text).unwrap_or_default();
    assert!(message.contains(expected), "expected {expected:?} in {message:?}");
}

#[test]
fn shapes_are_checked() {
    refuses("rms_norm: x: expected a last axis that is not empty", || {
        let _ = rms_norm(zeros([2, 0]), zeros([0]), 1e-6);
    });
    refuses("rms_norm: weight: expected shape [3], found [4]", || {
        let _ = rms_norm(zeros([2, 3]), zeros([4]), 1e-6);
    });
    refuses("gated: up: expected shape [2], found [3]", || {
        let _ = gated(Activation::Silu, zeros([2]), zeros([3]));
    });
    refuses("rope: cos: expected at most 2 columns for heads of 4, found 3", || {
        let _ = rope(zeros([1, 2, 8]), 2, zeros([2, 3]), zeros([2, 3]));
    });
    refuses("linear: weight: expected shape [3, 5], found [4, 5]", || {
        let _ = linear(zeros([2, 3]), zeros([4, 5]), None);
    });
}

#[test]
fn numbers_are_checked() {
    let how = Attention { heads: 3, kv_heads: 2, head_dim: 1, scale: 1.0, window: None, softcap: None };
    refuses("attention: kv_heads: expected a divisor of 3 heads, found 2", move || {
        let _ = attention(&how, zeros([1, 1, 3]), zeros([1, 1, 2]), zeros([1, 1, 2]));
    });
    refuses("attention: window: expected at least 1, found 0", move || {
        let how = Attention { kv_heads: 3, window: Some(0), ..how };
        let _ = attention(&how, zeros([1, 1, 3]), zeros([1, 1, 3]), zeros([1, 1, 3]));
    });
    refuses("head_logp: temperature: expected a positive number, found 0", || {
        let targets = Tensor::from_data([0], &Device::flex());
        let how = HeadLogp { temperature: 0.0, softcap: None };
        let _ = head_logp(zeros([1, 1]), zeros([1, 1]), targets, &how);
    });
    refuses("embedding: expected indices in 0..2, found 2", || {
        let _ = embedding(zeros([2, 1]), Tensor::from_data([[2]], &Device::flex()));
    });
    refuses("head_logp: expected indices in 0..1, found -1", || {
        let targets = Tensor::from_data([-1], &Device::flex());
        let _ = head_logp(zeros([1, 1]), zeros([1, 1]), targets, &HeadLogp::default());
    });
    refuses("silu_mul", || slice::silu_mul(&mut [1.0], &[1.0, 2.0]));
}
