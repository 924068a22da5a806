//! Decoding with the cache gives what the whole sequence gives without it.

use rlhf_core::host::sampling::{Sampling, logp_of};
use rlhf_core::rng::stream;
use rlhf_policy::batch::{Batch, Sequence};
use rlhf_policy::error::Error;
use rlhf_policy::generate::{Decoding, Finish, Generation, Rollout, generate};
use rlhf_policy::sft::token_losses;

use crate::support::{close, decoder, devices, logits, plain, rows, small};

/// Lengths on both sides of a block of 32 columns, so that rows cross it at different steps.
const LENGTHS: [usize; 7] = [1, 31, 5, 32, 33, 17, 40];

fn sampled(how: &Generation, device: &burn::tensor::Device) -> Vec<Rollout> {
    let model = decoder(&small(), 3, device);
    let random = |p: usize, s: usize| stream(1, "cached", p as u64, s as u64);
    generate(&model, &rows(2, 32, &LENGTHS), how, &random, device).expect("finite")
}

#[test]
fn recorded_log_probabilities_equal_recomputed_ones() {
    let ways = devices().into_iter().map(|device| (Decoding::Tensor, device));
    for (decoding, device) in ways.chain([(Decoding::Host, devices()[0].clone())]) {
        let model = decoder(&small(), 3, &device);
        let prompts = rows(2, 32, &LENGTHS);
        let rollouts = sampled(&Generation { decoding, ..plain(3, 40) }, &device);
        assert_eq!(rollouts.len(), 3 * LENGTHS.len());
        let order: Vec<(usize, usize)> = rollouts.iter().map(|r| (r.prompt, r.sample)).collect();
        assert!(order.is_sorted(), "by prompt and sample");
        let sequences: Vec<Sequence> =
            rollouts.iter().map(|r| Sequence::new(&prompts[r.prompt], &r.tokens)).collect();
        let batch = Batch::new(&sequences.iter().collect::<Vec<_>>(), 0, 1, &device);
        let losses: Vec<f64> =
            token_losses(&model, &batch).into_data().convert::<f64>().try_into_vec().expect("f64");
        let recorded: Vec<f64> = rollouts.iter().flat_map(|r| r.policy_logp.clone()).collect();
        assert_eq!(losses.len(), recorded.len());
        for (loss, logp) in losses.iter().zip(&recorded) {
            close("log-probability", *logp, -loss, 1e-5);
        }
        // The test means something: rows of one batch ended both ways and at different lengths.
        assert!(rollouts.iter().any(|r| r.finish == Finish::Eos && r.tokens.len() > 3));
        assert!(rollouts.iter().any(|r| r.finish == Finish::Length && r.tokens.len() == 40));
    }
}

#[test]
fn without_a_rule_both_recorded_log_probabilities_are_one_number() {
    for r in sampled(&plain(2, 12), &devices()[0]) {
        for (behaviour, policy) in r.behavior_logp.iter().zip(&r.policy_logp) {
            close("plain", *behaviour, *policy, 1e-12);
        }
    }
}

#[test]
fn at_another_temperature_each_log_probability_is_of_its_own_distribution() {
    let device = devices()[0].clone();
    let model = decoder(&small(), 3, &device);
    let prompts = rows(2, 32, &LENGTHS);
    let how = Generation { sampling: Sampling { temperature: 0.5, ..Sampling::plain() }, ..plain(1, 6) };
    for r in sampled(&how, &device) {
        let whole = [prompts[r.prompt].as_slice(), &r.tokens].concat();
        let all = logits(&model, &whole, &device);
        for (i, token) in r.tokens.iter().enumerate() {
            let row = &all[prompts[r.prompt].len() + i - 1];
            let at = |t: f64| row.iter().map(|z| (z / t) as f32).collect::<Vec<f32>>();
            close("policy", r.policy_logp[i], logp_of(&at(1.0), *token), 1e-5);
            // Twice the logits carry twice the rounding.
            close("behaviour", r.behavior_logp[i], logp_of(&at(0.5), *token), 2e-5);
        }
    }
}

#[test]
fn a_completion_stops_behind_its_end_token_and_nowhere_before() {
    for r in sampled(&plain(4, 40), &devices()[0]) {
        let end = r.tokens.iter().position(|t| *t == 1);
        match r.finish {
            Finish::Eos => assert_eq!(end, Some(r.tokens.len() - 1)),
            Finish::Length => assert_eq!((end, r.tokens.len()), (None, 40)),
            Finish::Stop => panic!("no stop string was given"),
        }
        assert_eq!([r.behavior_logp.len(), r.policy_logp.len()], [r.tokens.len(); 2]);
    }
}

#[test]
fn a_prompt_without_room_and_an_empty_one_are_named() {
    let device = devices()[0].clone();
    let model = decoder(&small(), 3, &device);
    let random = |p: usize, s: usize| stream(1, "cached", p as u64, s as u64);
    let how = plain(1, 100);
    for decoding in [Decoding::Tensor, Decoding::Host] {
        let how = Generation { decoding, ..how.clone() };
        let run = |prompts: &[Vec<u32>]| generate(&model, prompts, &how, &random, &device);
        assert!(run(&[vec![2; 28]]).is_ok(), "28 + 100 = 128 fits");
        let long = run(&[vec![2], vec![2; 29]]).expect_err("129 positions");
        assert_eq!(long.to_string(), "prompt 1: expected 1 to 28 tokens, found 29");
        let empty = run(&[vec![]]).expect_err("empty");
        assert!(matches!(empty, Error::Prompt { index: 0, length: 0, .. }));
        assert!(run(&[]).expect("no prompt").is_empty());
    }
}

#[test]
fn logits_that_are_no_number_stop_generation() {
    let device = devices()[0].clone();
    let model = decoder(&small(), 3, &device);
    let mut p = rlhf_policy::weights::parameters(&model);
    p.get_mut("model.norm.weight").expect("there").data[0] = f32::NAN;
    let model = rlhf_policy::weights::replaced(model, &p).expect("same shapes");
    let random = |p: usize, s: usize| stream(1, "cached", p as u64, s as u64);
    for (temperature, decoding) in
        [(0.0, Decoding::Tensor), (1.0, Decoding::Tensor), (0.0, Decoding::Host), (1.0, Decoding::Host)]
    {
        let sampling = Sampling { temperature, ..Sampling::plain() };
        let how = Generation { sampling, decoding, ..plain(1, 4) };
        let error = generate(&model, &rows(2, 32, &[3]), &how, &random, &device).expect_err("NaN");
        assert_eq!(
            error.to_string(),
            "logits of prompt 0, sample 0: expected finite numbers, found NaN",
            "temperature {temperature}"
        );
    }
}
