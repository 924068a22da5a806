//! Corrected updates against plain ones.

use rlhf_core::host::interval::Interval;
use rlhf_core::host::off_policy::{Correction, correction_weights};
use rlhf_core::loss::grpo::GrpoConfig;
use rlhf_core::number::{Prob, Weight};
use rlhf_core::preset::Normaliser;
use rlhf_nested::behavior::NestedBatch;
use rlhf_nested::step::{Corrected, RolloutCorrection, correct};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::Decoding;
use rlhf_policy::group::{GroupRecord, GrpoStep, Rollout, grpo_gradients};
use rlhf_policy::optim::Grads;

use crate::support::{batch, close, cut, how, trained, without};

fn step(beta: f64) -> GrpoStep {
    let weight = |x: f64| Weight::new(x).expect("not negative");
    GrpoStep {
        loss: GrpoConfig::new(weight(0.2), weight(beta)).into(),
        normaliser: Normaliser::SequenceMean,
        max_completion_length: 8,
        temperature: 1.0,
    }
}

/// ±1 in turn.
fn advantage(i: usize) -> f64 {
    if i.is_multiple_of(2) { 1.0 } else { -1.0 }
}

struct Update {
    grads: Grads,
    record: GroupRecord,
}

fn update(policy: &Decoder, window: &[Rollout<'_>], beta: f64) -> Update {
    let (grads, record) = grpo_gradients(policy, window, &step(beta), &cut(8)).expect("tokens");
    Update { grads, record }
}

fn corrected(policy: &Decoder, batch: &NestedBatch, from: &Corrected) -> Update {
    let rollout = |i: usize| from.rollout(i, &batch.sequences[i], advantage(i), None);
    update(policy, &(0..batch.sequences.len()).map(rollout).collect::<Vec<_>>(), 0.0)
}

/// GRPO as it is without this crate.
fn plain(policy: &Decoder, batch: &NestedBatch) -> Update {
    let rollout = |i: usize| Rollout {
        sequence: &batch.sequences[i],
        old_logp: Some(&batch.policy_logp[i]),
        reference_logp: None,
        weight: None,
        advantage: advantage(i),
    };
    update(policy, &(0..batch.sequences.len()).map(rollout).collect::<Vec<_>>(), 0.0)
}

#[track_caller]
fn same_bits(a: &Update, b: &Update) {
    assert_eq!(a.record.loss.to_bits(), b.record.loss.to_bits());
    assert_eq!(a.grads.names().collect::<Vec<_>>(), b.grads.names().collect::<Vec<_>>());
    for name in a.grads.names() {
        let bits = |g: &Grads| g.host(name).expect("there").iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&a.grads), bits(&b.grads), "{name}");
    }
}

fn norm(grads: &Grads, name: &str) -> f64 {
    grads.host(name).expect(name).iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

fn every() -> Vec<RolloutCorrection> {
    let within = Interval::new(0.5, 2.0).expect("ordered");
    let weights = [
        Correction::None,
        Correction::Token,
        Correction::Prefix,
        Correction::Sequence,
        Correction::Geometric,
        Correction::TokenTruncate(within),
        Correction::TokenMask(within),
        Correction::SequenceTruncate(within),
        Correction::SequenceMask(within),
        Correction::GeometricMask(within),
        Correction::RetraceToken(Prob::ONE),
        Correction::RetraceTraces(Prob::ONE),
    ];
    weights.map(RolloutCorrection::Weights).into_iter().chain([RolloutCorrection::BaseClip]).collect()
}

#[test]
fn with_nothing_left_out_every_correction_is_grpo_bit_for_bit() {
    let (policy, model) = trained(0.3);
    let batch = batch(&model, 4, &how(Decoding::Host, 1.0, 8), without(&[]));
    // Rounding would tell: the engine and the tensors do not agree to the last bit.
    assert!(batch.log_ratio().iter().flatten().any(|x| x.abs() > 0.0));
    let expected = plain(&policy, &batch);
    assert!(expected.grads.global_norm() > 0.01);
    for correction in every() {
        let found = correct(correction, &batch);
        assert_eq!((&found.old_logp, &found.weights), (&batch.policy_logp, &None));
        assert_eq!([found.record.weight_min, found.record.weight_max].map(f64::to_bits), [1f64.to_bits(); 2]);
        same_bits(&corrected(&policy, &batch, &found), &expected);
    }
    // And so are weights of 1.
    let ones = batch.policy_logp.iter().map(|row| vec![1.0; row.len()]).collect();
    let found = Corrected { weights: Some(ones), ..correct(RolloutCorrection::BaseClip, &batch) };
    same_bits(&corrected(&policy, &batch, &found), &expected);
}

#[test]
fn weights_are_those_of_the_ratio_and_the_record_is_of_both() {
    let (_, model) = trained(0.2);
    let batch = batch(&model, 6, &how(Decoding::Host, 1.0, 8), without(&[1, 3]));
    let log_ratio = batch.log_ratio();
    let all: Vec<f64> = log_ratio.concat();
    let n = all.len() as f64;
    for correction in every() {
        let found = correct(correction, &batch);
        let record = found.record;
        assert_eq!((record.n_skipped, record.rollout_reward, record.policy_reward), (2, None, None));
        close("ratio", record.skipped_ratio, 2.0 / 6.0, 1e-15);
        close("mean", record.mean_ratio, all.iter().map(|x| x.exp()).sum::<f64>() / n, 1e-12);
        close("gap", record.logp_difference_mean, all.iter().map(|x| x.abs()).sum::<f64>() / n, 1e-12);
        assert!(record.kl > 0.01 && record.effective_sample_size <= batch.rollouts.len() as f64);
        match correction {
            RolloutCorrection::BaseClip => {
                let behavior: Vec<Vec<f64>> =
                    batch.rollouts.iter().map(|r| r.behavior_logp.clone()).collect();
                assert_eq!((&found.old_logp, &found.weights), (&behavior, &None));
            }
            RolloutCorrection::Weights(Correction::None) => assert_eq!(found.weights, None),
            RolloutCorrection::Weights(weights) => {
                let expected = correction_weights(weights, &log_ratio);
                let mean = expected.concat().iter().sum::<f64>() / n;
                close("mean weight", record.weight_mean, mean, 1e-12);
                assert_eq!((&found.old_logp, found.weights), (&batch.policy_logp, Some(expected)));
            }
        }
        let (low, high) = (record.weight_min, record.weight_max);
        match correction {
            RolloutCorrection::Weights(Correction::RetraceToken(_) | Correction::RetraceTraces(_)) => {
                assert!(low > 0.0 && high <= 1.0 && record.share_bounded > 0.0);
            }
            RolloutCorrection::Weights(Correction::TokenTruncate(_)) => assert!(low >= 0.5 && high <= 2.0),
            _ => assert!(low <= high),
        }
    }
}

#[test]
fn the_gradient_reaches_the_blocks_that_were_left_out() {
    let (policy, model) = trained(0.2);
    let batch = batch(&model, 4, &how(Decoding::Host, 1.0, 8), without(&[1, 2, 3]));
    for correction in every() {
        let found = corrected(&policy, &batch, &correct(correction, &batch));
        for i in 1..4 {
            for part in ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"] {
                let norm = norm(&found.grads, &format!("model.layers.{i}.{part}.weight"));
                assert!(norm > 1e-6 && norm.is_finite(), "{correction}: block {i}, {part}: {norm}");
            }
        }
    }
}

#[test]
fn a_weight_multiplies_the_surrogate_and_not_the_divergence() {
    let (policy, model) = trained(0.3);
    let batch = batch(&model, 2, &how(Decoding::Host, 1.0, 6), without(&[2]));
    let reference: Vec<Vec<f64>> =
        batch.policy_logp.iter().map(|row| row.iter().map(|x| x - 0.3).collect()).collect();
    let of = |weight: f64, beta: f64| {
        let weights: Vec<Vec<f64>> = batch.policy_logp.iter().map(|row| vec![weight; row.len()]).collect();
        let rollout = |i: usize| Rollout {
            sequence: &batch.sequences[i],
            old_logp: None,
            reference_logp: (beta > 0.0).then_some(reference[i].as_slice()),
            weight: Some(&weights[i]),
            advantage: if i == 0 { 1.0 } else { 0.25 },
        };
        let window: Vec<Rollout<'_>> = (0..batch.sequences.len()).map(rollout).collect();
        update(&policy, &window, beta).record
    };
    let (surrogate, divergence) = (of(1.0, 0.0).loss, of(0.0, 0.5).loss);
    // k3 of log π − log π_ref = 0.3 a token, times β.
    close("KL alone", divergence, 0.5 * ((-0.3f64).exp() + 0.3 - 1.0), 1e-6);
    for w in [0.5, 3.0] {
        let found = of(w, 0.5);
        close("both", found.loss, w * surrogate + divergence, 1e-6);
        close("KL", found.kl.expect("β > 0"), (-0.3f64).exp() + 0.3 - 1.0, 1e-6);
    }
    // No trace is left: no gradient.
    let none = RolloutCorrection::Weights(Correction::RetraceTraces(Prob::ZERO));
    let found = corrected(&policy, &batch, &correct(none, &batch));
    assert!(found.grads.global_norm() <= 0.0);
}

#[test]
fn the_clip_is_of_the_update_alone() {
    let (policy, model) = trained(0.3);
    let batch = batch(&model, 4, &how(Decoding::Host, 1.0, 8), without(&[1, 3]));
    // Before any update r = 1, however far b is: nothing is clipped, unless b is what r is divided by.
    let token = correct(RolloutCorrection::Weights(Correction::Token), &batch);
    close("clipped", corrected(&policy, &batch, &token).record.clip_region_mean, 0.0, 0.0);
    let base = correct(RolloutCorrection::BaseClip, &batch);
    let seen = corrected(&policy, &batch, &base).record.clip_region_mean;
    let all = batch.log_ratio();
    let cut = |(i, row): (usize, &Vec<f64>)| {
        let outside = |x: &&f64| if advantage(i) > 0.0 { x.exp() > 1.2 } else { x.exp() < 0.8 };
        row.iter().filter(outside).count()
    };
    let expected = all.iter().enumerate().map(cut).sum::<usize>() as f64 / all.concat().len() as f64;
    assert!(expected > 0.1, "{expected}");
    close("clipped", seen, expected, 1e-12);
}

#[test]
#[should_panic(expected = "group: weight: expected none below 0")]
fn a_weight_below_zero_is_refused() {
    let (policy, model) = trained(0.3);
    let batch = batch(&model, 1, &how(Decoding::Host, 1.0, 4), without(&[2]));
    let below = batch.policy_logp.iter().map(|row| vec![-1.0; row.len()]).collect();
    let from = Corrected { weights: Some(below), ..correct(RolloutCorrection::BaseClip, &batch) };
    corrected(&policy, &batch, &from);
}
