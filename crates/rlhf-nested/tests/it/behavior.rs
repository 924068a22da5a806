//! What the blocks that stay draw, against models and sums without any of this crate's code.

use burn::tensor::Device;
use rlhf_core::host::off_policy::effective_sample_size;
use rlhf_core::host::sampling::logp_of;
use rlhf_core::host::stable::log_softmax;
use rlhf_core::number::Prob;
use rlhf_nested::behavior::Blocks;
use rlhf_nested::error::Error;
use rlhf_nested::schedule::ScheduleConfig;
use rlhf_policy::generate::{Decoding, Finish};
use rlhf_policy::weights::{parameters, replaced};

use crate::support::{N_LAYERS, batch, close, decoder, how, logits_through, prompts, ways, without};

const ALL: [usize; N_LAYERS] = [0, 1, 2, 3, 4, 5];

#[test]
fn leaving_blocks_out_is_zeroing_what_they_add() {
    for (device, _) in ways() {
        let model = decoder(0.3, &device);
        let blocks = without(&[1, 2, 4]);
        let mut zeroed = parameters(&model);
        for i in &blocks.skipped {
            for part in ["self_attn.o_proj", "mlp.down_proj"] {
                let weight = zeroed.get_mut(&format!("model.layers.{i}.{part}.weight")).expect("there");
                weight.data.fill(0.0);
            }
        }
        let zeroed = replaced(model.clone(), &zeroed).expect("the same shapes");
        let row: Vec<u32> = prompts(9).concat();
        let some = logits_through(&model, &row, &blocks.kept).concat();
        let all = logits_through(&zeroed, &row, &ALL).concat();
        for (some, all) in some.iter().zip(&all) {
            close("logit", *some, *all, 1e-6);
        }
        let whole = logits_through(&model, &row, &ALL).concat();
        assert!(whole.iter().zip(&some).any(|(a, b)| (a - b).abs() > 0.1), "these blocks matter");
    }
}

#[test]
fn cached_decoding_through_some_blocks_is_reading_through_them() {
    for (device, decoding) in ways() {
        let model = decoder(0.3, &device);
        let batch = batch(&model, 6, &how(decoding, 1.0, 20), without(&[2, 3]));
        for (rollout, sequence) in batch.rollouts.iter().zip(&batch.sequences) {
            let all = logits_through(&model, &sequence.tokens, &batch.blocks.kept);
            let start = sequence.tokens.len() - rollout.tokens.len();
            for (t, token) in rollout.tokens.iter().enumerate() {
                let row = log_softmax(&all[start + t - 1]);
                close("log b", rollout.behavior_logp[t], row[*token as usize], 1e-5);
            }
        }
        assert!(batch.rollouts.iter().any(|r| r.finish == Finish::Eos));
        assert!(batch.rollouts.iter().any(|r| r.tokens.len() == 20));
    }
}

#[test]
fn with_nothing_left_out_recorded_and_recomputed_log_probabilities_agree_token_by_token() {
    for (device, decoding) in ways() {
        let model = decoder(0.3, &device);
        for temperature in [1.0, 0.7] {
            let batch = batch(&model, 12, &how(decoding, temperature, 24), without(&[]));
            let tokens = batch.policy_logp.iter().map(Vec::len).sum::<usize>();
            assert!(tokens > 200, "{tokens}");
            for (rollout, logp) in batch.rollouts.iter().zip(&batch.policy_logp) {
                assert_eq!(rollout.behavior_logp.len(), logp.len());
                for (recorded, recomputed) in rollout.behavior_logp.iter().zip(logp) {
                    close("log π", *recorded, *recomputed, 1e-5);
                }
            }
        }
    }
}

#[test]
fn both_sides_of_the_ratio_are_at_the_temperature_of_sampling() {
    let model = decoder(0.3, &Device::flex());
    let batch = batch(&model, 3, &how(Decoding::Host, 0.6, 10), without(&[3]));
    for ((rollout, sequence), log_ratio) in batch.rollouts.iter().zip(&batch.sequences).zip(batch.log_ratio())
    {
        let start = sequence.tokens.len() - rollout.tokens.len();
        let at = |blocks: &[usize], t: usize| {
            let row = &logits_through(&model, &sequence.tokens, blocks)[start + t - 1];
            let row: Vec<f32> = row.iter().map(|z| (z / 0.6) as f32).collect();
            logp_of(&row, rollout.tokens[t])
        };
        for (t, found) in log_ratio.iter().enumerate() {
            close("log ρ", *found, at(&ALL, t) - at(&batch.blocks.kept, t), 2e-5);
        }
    }
}

#[test]
fn the_mean_ratio_is_one_within_its_error() {
    let model = decoder(0.12, &Device::flex());
    for skipped in [vec![2], vec![1, 4], vec![2, 3, 4]] {
        let batch = batch(&model, 150, &how(Decoding::Host, 1.0, 8), without(&skipped));
        let log_ratio = batch.log_ratio();
        let ratios: Vec<f64> = log_ratio.iter().flatten().map(|x| x.exp()).collect();
        let n = ratios.len() as f64;
        let mean = ratios.iter().sum::<f64>() / n;
        // Given what stands before it a token's ratio has the mean 1, so they are uncorrelated.
        let error = (ratios.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        assert!((mean - 1.0).abs() < 3.0 * error, "{skipped:?}: {mean} ± {error}");
        // The test can fail: the error is small beside what a ratio turned round would show.
        let turned = log_ratio.iter().flatten().map(|x| (-x).exp()).sum::<f64>() / n;
        assert!((turned - 1.0).abs() > 3.0 * error, "{skipped:?}: {turned} ± {error}");
        let sums: Vec<f64> = log_ratio.iter().map(|row| row.iter().sum()).collect();
        let effective = effective_sample_size(&sums);
        assert!(effective > 1.0 && effective <= sums.len() as f64, "{effective}");
    }
}

#[test]
fn a_schedule_gives_each_batch_its_blocks() {
    let uniform = ScheduleConfig::Uniform { ratio: Prob::new(0.35).expect("a ratio"), border: 1 };
    let schedule = uniform.build(N_LAYERS, 1).expect("fits");
    let sets: Vec<Blocks> =
        (0..20).map(|i| Blocks::of(schedule.as_ref(), i, N_LAYERS).expect("fits")).collect();
    assert!(
        sets.iter().all(|b| b.skipped.len() == 2 && b.kept.len() == 4 && b.kept[0] == 0 && b.kept[3] == 5)
    );
    assert!(sets.iter().any(|b| b != &sets[0]));
    assert!(sets.iter().all(|b| (b.ratio() - 2.0 / 6.0).abs() < 1e-15));
}

#[test]
fn the_models_own_refusals_come_through() {
    let model = decoder(0.3, &Device::flex());
    let random = |_: usize, _: usize| rlhf_core::rng::stream(0, "none", 0, 0);
    let how = how(Decoding::Host, 1.0, 4);
    let error = rlhf_nested::behavior::rollouts(&model, &[vec![24]], &how, &without(&[2]), &random);
    let error = error.expect_err("outside the vocabulary");
    assert!(matches!(error, Error::Policy(_)));
    assert_eq!(error.to_string(), "prompt 0, token 0: expected token ids below 24, found 24");
}
