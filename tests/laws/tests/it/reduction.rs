//! Sums and means over a mask: on the device those of the host, whatever stands behind the mask.

use rlhf_core::mask::{
    Normalise, lengths, normalise, normalise_scalar, per_token, sequence_mean, sequence_mean_scalar,
    sequence_sum, sequence_sum_scalar,
};
use rlhf_core::number::Positive;
use rlhf_core::real::{Dual, gradient};

use super::law::{Batch, Form};
use super::{close, host};

/// Rows of which one has no token.
fn batch(seed: u64) -> Batch<f64> {
    let mut batch = Batch::draw(&Form::tokens(), seed, 3.0);
    batch.mask[1].fill(false);
    batch
}

#[test]
fn a_batch_is_reduced_on_the_device_as_on_the_host() {
    let over = Normalise::SumOver(Positive::new(7.0).expect("positive"));
    for seed in 0..3 {
        let batch = batch(seed);
        let mask: Vec<&[bool]> = batch.mask.iter().map(Vec::as_slice).collect();
        for how in [Normalise::TokenMean, Normalise::SequenceMean, Normalise::ActiveSequenceMean, over] {
            let t = batch.poisoned(&Form::tokens()).tensors();
            let found = normalise(how, t.leaf.clone(), &t.mask);
            let slopes = host(t.leaf.grad(&found.backward()).expect("reached"));
            let (value, expected) = gradient(&batch.leaf.concat(), |x: &[Dual]| {
                normalise_scalar(how, &x.chunks(5).collect::<Vec<_>>(), &mask)
            });
            close(&format!("{how:?}"), host(found)[0], value, 1e-6);
            for (found, expected) in slopes.into_iter().zip(expected) {
                close(&format!("{how:?} slope"), found, expected, 1e-6);
            }
        }
    }
}

#[test]
fn a_sequence_is_reduced_on_the_device_as_on_the_host() {
    let batch = batch(4);
    let t = batch.poisoned(&Form::tokens()).tensors();
    let (sums, means) = (host(sequence_sum(t.leaf.clone(), &t.mask)), host(sequence_mean(t.leaf, &t.mask)));
    let counts = host(lengths(&t.mask));
    let repeated = host(per_token(lengths(&t.mask), 3));
    for (i, (x, mask)) in batch.leaf.iter().zip(&batch.mask).enumerate() {
        close("sum", sums[i], sequence_sum_scalar(x, mask), 1e-6);
        close("mean", means[i], sequence_mean_scalar(x, mask), 1e-6);
        close("length", counts[i], mask.iter().filter(|on| **on).count() as f64, 0.0);
        repeated[3 * i..3 * i + 3].iter().for_each(|x| close("repeated", *x, counts[i], 0.0));
    }
    close("a row without tokens", means[1], 0.0, 0.0);
}
