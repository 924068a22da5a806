//! The trainers' gradients against each other, against supervised fine-tuning and against sums by hand.

use burn::module::Module;
use burn::tensor::Device;
use rlhf_core::host::stable::log_softmax;
use rlhf_core::loss::bradley_terry::BradleyTerryConfig;
use rlhf_core::loss::dpo::{DpoConfig, dpo};
use rlhf_core::loss::grpo::GrpoConfig;
use rlhf_core::loss::kto::{KtoConfig, Label, kto};
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::number::{Beta, Weight};
use rlhf_core::preset::Normaliser;
use rlhf_policy::batch::Sequence;
use rlhf_policy::classifier::Classifier;
use rlhf_policy::completion::{Completions, Cut, Reference, TokenMetrics, logps};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::group::{GroupRecord, GrpoStep, RlooStep, Rollout, grpo_gradients, rloo_gradients};
use rlhf_policy::kto::{Rated, RatedRecord, baseline};
use rlhf_policy::optim::Grads;
use rlhf_policy::preference::{Pair, PairRecord, reference_logps};
use rlhf_policy::reward_model::{RewardPair, RewardRecord};
use rlhf_policy::weights::parameters;
use rlhf_policy::{kto as unpaired, preference, reward_model, sft};

use crate::support::{bits, classifier, close, decoder, devices, logits, rows, small};

const TOLERANCE: f64 = 2e-6;

fn autodiff() -> Device {
    Device::flex().autodiff()
}

fn cut(micro_batch: usize) -> Cut {
    Cut { micro_batch, pad: 0, metrics: TokenMetrics::On }
}

fn beta() -> Beta {
    Beta::new(0.5).expect("positive")
}

fn weight(x: f64) -> Weight {
    Weight::new(x).expect("not negative")
}

/// Sequences with a prompt of three tokens and completions of these lengths.
fn sequences(seed: u64, lengths: &[usize]) -> Vec<Sequence> {
    let prompts = rows(seed, 32, &vec![3; lengths.len()]);
    prompts.iter().zip(rows(seed + 1, 32, lengths)).map(|(p, c)| Sequence::new(p, &c)).collect()
}

fn pairs() -> Vec<Pair> {
    let chosen = sequences(11, &[4, 2, 5]);
    let pair = |(chosen, rejected)| Pair { chosen, rejected };
    chosen.into_iter().zip(sequences(13, &[3, 6, 1])).map(pair).collect()
}

/// Every gradient of `a` is that of `b` times `factor`, added up over several `b`.
#[track_caller]
fn same(module: &impl Module, a: &Grads, parts: &[(f64, &Grads)]) {
    let mut largest = 0f64;
    for name in parameters(module).keys() {
        let found = a.host(name).expect("reached by the loss");
        let parts: Vec<(f64, Vec<f32>)> =
            parts.iter().map(|(w, g)| (*w, g.host(name).expect("reached by the loss"))).collect();
        for (i, found) in found.into_iter().enumerate() {
            let expected: f64 = parts.iter().map(|(w, g)| w * f64::from(g[i])).sum();
            close(name, f64::from(found), expected, TOLERANCE);
            largest = largest.max(expected.abs());
        }
    }
    assert!(largest > 1e-3, "a gradient of nothing: {largest}");
}

fn dpo_window(policy: &Decoder, reference: &Reference<'_, [f64; 2]>, micro: usize) -> (Grads, PairRecord) {
    let all = pairs();
    let window: Vec<&Pair> = all.iter().collect();
    preference::gradients(policy, reference, &window, &cut(micro), &mut |b| {
        dpo(DpoConfig::new(beta()), b.policy.clone(), b.reference.clone())
    })
}

#[test]
fn at_the_reference_dpo_is_likelihood_of_one_less_likelihood_of_the_other() {
    let policy = decoder(&small(), 1, &autodiff());
    let reference = policy.valid();
    let (grads, record) = dpo_window(&policy, &Reference::Model(&reference), 3);
    close("loss", record.loss, std::f64::consts::LN_2, TOLERANCE);
    close("reward", record.chosen_reward, 0.0, TOLERANCE);
    // −log σ has the slope −½ at 0: β/2 of the mean gain of each side, whose tokens are not averaged.
    let all = pairs();
    let side = |of: fn(&Pair) -> &Sequence| {
        let side: Vec<&Sequence> = all.iter().map(of).collect();
        let n: usize = side.iter().map(|s| s.n_targets()).sum();
        (sft::gradients(&policy, &side, 3, 0).0, n as f64 * 0.25 / 3.0)
    };
    let ((chosen, n_chosen), (rejected, n_rejected)) = (side(|p| &p.chosen), side(|p| &p.rejected));
    same(&policy, &grads, &[(n_chosen, &chosen), (-n_rejected, &rejected)]);
    assert_eq!(record.num_tokens, 3 * 6 + 11 + 10);
}

#[test]
fn any_cut_and_any_form_of_the_reference_give_one_gradient_of_pairs() {
    let policy = decoder(&small(), 1, &autodiff());
    let reference = decoder(&small(), 2, &Device::flex());
    let (whole, seen) = dpo_window(&policy, &Reference::Model(&reference), 3);
    let all = pairs();
    let cached = reference_logps(&reference, &all.iter().collect::<Vec<_>>(), &cut(2));
    for micro in [0, 1, 2] {
        for reference in [Reference::Model(&reference), Reference::Cached(&cached)] {
            let (grads, record) = dpo_window(&policy, &reference, micro);
            same(&policy, &grads, &[(1.0, &whole)]);
            let (found, expected) = (pair_numbers(&record), pair_numbers(&seen));
            found.iter().zip(expected).for_each(|(f, e)| close("record", *f, e, 1e-5));
        }
    }
    let free = dpo_window(&policy, &Reference::Free, 2).1;
    close("free", free.chosen_reward, 0.5 * free.chosen_logp, 1e-5);
}

fn pair_numbers(r: &PairRecord) -> Vec<f64> {
    let asked = [r.chosen_logit, r.rejected_logit, r.entropy, r.mean_token_accuracy];
    let mut all = vec![r.loss, r.chosen_reward, r.rejected_reward, r.reward_accuracy, r.chosen_logp];
    all.extend(asked.map(|x| x.expect("asked for")));
    all
}

#[test]
fn log_probabilities_are_those_of_the_logits_at_their_temperature() {
    for device in devices() {
        let policy = decoder(&small(), 3, &device);
        let all = sequences(17, &[5, 1, 3]);
        let found = logps(&policy, &all.iter().collect::<Vec<_>>(), 0.7, &cut(2));
        for (s, found) in all.iter().zip(&found) {
            let by_hand = logits(&policy, &s.tokens, &device);
            assert_eq!(found.len(), s.tokens.len() - 3);
            for (i, found) in found.iter().enumerate() {
                let cold: Vec<f64> = by_hand[2 + i].iter().map(|z| z / 0.7).collect();
                close("logp", *found, log_softmax(&cold)[s.tokens[3 + i] as usize], 2e-5);
            }
        }
    }
}

#[test]
fn what_the_distributions_are_like_is_said_only_where_asked() {
    let policy = decoder(&small(), 3, &autodiff());
    let s = &sequences(19, &[6])[0];
    let seen = Completions::new(&policy, &[s], 1.0, 0);
    let stats = seen.stats(&policy);
    let by_hand = logits(&policy.valid(), &s.tokens, &Device::flex());
    for i in 0..6 {
        let (z, logp) = (&by_hand[2 + i], log_softmax(&by_hand[2 + i]));
        close("entropy", stats.entropy[i], logp.iter().map(|l| -l.exp() * l).sum(), 1e-5);
        close("mean", stats.mean_logit[i], z.iter().sum::<f64>() / 32.0, 1e-5);
        let best = (0..32).fold(0, |best, v| if z[v] > z[best] { v } else { best });
        close("top", stats.top1[i], f64::from(u8::from(s.tokens[3 + i] == best as u32)), 0.0);
    }
    let silent = Cut { metrics: TokenMetrics::Off, ..cut(1) };
    let pair = &pairs()[0];
    let (_, record) = preference::gradients(&policy, &Reference::Free, &[pair], &silent, &mut |b| {
        dpo(DpoConfig::new(beta()), b.policy.clone(), b.reference.clone())
    });
    assert_eq!((record.entropy, record.chosen_logit), (None, None));
}

#[test]
fn a_row_without_a_scored_token_counts_and_teaches_nothing() {
    let policy = decoder(&small(), 3, &autodiff());
    let mut all = sequences(23, &[4, 2]);
    all[1].mask = vec![false; 5];
    let seen = Completions::new(&policy, &all.iter().collect::<Vec<_>>(), 1.0, 0);
    let sums: Vec<f32> = seen.tokens.sums().into_data().try_into_vec().expect("f32");
    assert!(sums[0] < -1.0 && sums[1].abs() <= 0.0, "{sums:?}");
    assert_eq!((seen.counts.clone(), seen.host_logp()[1].len()), (vec![4, 0], 0));
}

#[test]
#[should_panic(expected = "preference: reference: expected one entry a pair")]
fn a_cache_of_another_window() {
    let _ = dpo_window(&decoder(&small(), 1, &autodiff()), &Reference::Cached(&[[0.0; 2]]), 1);
}

fn rated(labels: &[Label]) -> Vec<Rated> {
    let lengths = [4, 2, 5, 3];
    let rated = |(sequence, label): (Sequence, &Label)| Rated { sequence, label: *label };
    sequences(29, &lengths[..labels.len()]).into_iter().zip(labels).map(rated).collect()
}

fn kto_window(
    policy: &Decoder,
    reference: &Reference<'_, f64>,
    labels: &[Label],
    z: f64,
    micro: usize,
) -> (Grads, RatedRecord) {
    let all = rated(labels);
    let config = KtoConfig { undesirable_weight: weight(3.0), ..KtoConfig::new(beta()) };
    unpaired::gradients(policy, reference, &all.iter().collect::<Vec<_>>(), &cut(micro), &mut |b| {
        kto(config, b.policy.clone(), b.reference.clone(), &b.desirable, z)
    })
}

#[test]
fn at_the_reference_kto_is_likelihood_up_or_down() {
    let policy = decoder(&small(), 1, &autodiff());
    let reference = policy.valid();
    let whole = |labels: &[Label]| {
        let all = rated(labels);
        let all: Vec<&Sequence> = all.iter().map(|r| &r.sequence).collect();
        let n: usize = all.iter().map(|s| s.n_targets()).sum();
        (sft::gradients(&policy, &all, 4, 0).0, n as f64)
    };
    // σ has the slope ¼ at 0: β λ / 4 of the mean gain, and the loss is λ/2.
    for (label, lambda, sign) in [(Label::Desirable, 1.0, 1.0), (Label::Undesirable, 3.0, -1.0)] {
        let labels = [label; 3];
        let (grads, record) = kto_window(&policy, &Reference::Model(&reference), &labels, 0.0, 2);
        let (likelihood, n) = whole(&labels);
        same(&policy, &grads, &[(sign * lambda * 0.125 * n / 3.0, &likelihood)]);
        close("loss", record.loss, lambda / 2.0, TOLERANCE);
        let is_up = label == Label::Desirable;
        assert_eq!((record.chosen_logp.is_some(), record.rejected_logp.is_some()), (is_up, !is_up));
        assert_eq!(record.reward_margin, None);
    }
}

#[test]
fn any_cut_gives_one_gradient_of_rated_completions() {
    let policy = decoder(&small(), 1, &autodiff());
    let reference = decoder(&small(), 2, &Device::flex());
    let labels = [Label::Desirable, Label::Undesirable, Label::Undesirable, Label::Desirable];
    let (whole, seen) = kto_window(&policy, &Reference::Model(&reference), &labels, 0.3, 4);
    let all = rated(&labels);
    let all: Vec<&Sequence> = all.iter().map(|r| &r.sequence).collect();
    let sum = |row: &Vec<f64>| row.iter().sum::<f64>();
    let cached: Vec<f64> = logps(&reference, &all, 1.0, &cut(4)).iter().map(sum).collect();
    for reference in [Reference::Model(&reference), Reference::Cached(&cached)] {
        let (grads, record) = kto_window(&policy, &reference, &labels, 0.3, 1);
        same(&policy, &grads, &[(1.0, &whole)]);
        close("loss", record.loss, seen.loss, TOLERANCE);
        close("margin", record.reward_margin.expect("both"), seen.reward_margin.expect("both"), 1e-5);
        close("logit", record.chosen_logit.expect("asked"), seen.chosen_logit.expect("asked"), 1e-5);
    }
}

#[test]
fn the_baseline_is_the_mean_gain_of_mismatched_pairs_and_never_negative() {
    let (one, two) = (decoder(&small(), 1, &Device::flex()), decoder(&small(), 2, &Device::flex()));
    let all = sequences(31, &[4, 2, 5]);
    let all: Vec<&Sequence> = all.iter().collect();
    let total = |model| logps(model, &all, 1.0, &cut(3)).concat().iter().sum::<f64>();
    let gain = (total(&one) - total(&two)) / 3.0;
    close("z", baseline(&one, &two, &all, &cut(2)), gain.max(0.0), 1e-5);
    close("z", baseline(&two, &one, &all, &cut(2)), (-gain).max(0.0), 1e-5);
    assert!(gain.abs() > 0.1, "{gain}");
}

/// Three rollouts whose old policy is `old`, of these advantages.
fn rollouts<'a>(all: &'a [Sequence], old: Option<&'a [Vec<f64>]>, advantages: &[f64]) -> Vec<Rollout<'a>> {
    let rollout = |(i, a): (usize, &f64)| Rollout {
        sequence: &all[i],
        old_logp: old.map(|o| o[i].as_slice()),
        reference_logp: None,
        weight: None,
        advantage: *a,
    };
    advantages.iter().enumerate().map(rollout).collect()
}

fn grpo_step(normaliser: Normaliser, kl: f64) -> GrpoStep {
    let loss = GrpoConfig::new(weight(0.2), weight(kl));
    GrpoStep { loss: loss.into(), normaliser, max_completion_length: 8, temperature: 1.0 }
}

fn grpo(policy: &Decoder, window: &[Rollout<'_>], step: &GrpoStep, micro: usize) -> (Grads, GroupRecord) {
    grpo_gradients(policy, window, step, &cut(micro)).expect("tokens")
}

#[test]
fn on_policy_the_gradient_is_that_of_likelihood_times_advantage() {
    let policy = decoder(&small(), 1, &autodiff());
    let all = sequences(37, &[4, 2, 5]);
    let advantages = [1.5, -1.0, 0.5];
    let parts: Vec<Grads> = all.iter().map(|s| sft::gradients(&policy, &[s], 1, 0).0).collect();
    let weighted = |of: &dyn Fn(f64) -> f64| -> Vec<(f64, &Grads)> {
        let n = [4.0, 2.0, 5.0];
        (0..3).map(|i| (advantages[i] * of(n[i]), &parts[i])).collect()
    };
    let window = rollouts(&all, None, &advantages);
    // A likelihood gradient is a mean over its n tokens: what divides their sum is the normaliser.
    let by_tokens = grpo(&policy, &window, &grpo_step(Normaliser::StepTokens, 0.0), 2);
    same(&policy, &by_tokens.0, &weighted(&|n| n / 11.0));
    let by_sequence = grpo(&policy, &window, &grpo_step(Normaliser::SequenceMean, 0.0), 2);
    same(&policy, &by_sequence.0, &weighted(&|_| 1.0 / 3.0));
    let by_budget = grpo(&policy, &window, &grpo_step(Normaliser::StepBudget, 0.0), 2);
    same(&policy, &by_budget.0, &weighted(&|n| n / 24.0));
    let step = RlooStep { clip: PpoClipConfig::new(weight(0.2)), temperature: 1.0 };
    let (rloo, record) = rloo_gradients(&policy, &window, &step, &cut(2));
    same(&policy, &rloo, &weighted(&|n| n / 3.0));
    close("loss", record.loss, -1.0 / 3.0, TOLERANCE);
    let lengths = (record.mean_length, record.min_length, record.max_length, record.num_tokens);
    assert_eq!(lengths, (11.0 / 3.0, 2, 5, 20));
    close("clipped", record.clip_region_mean, 0.0, 0.0);
}

#[test]
fn a_gain_that_is_had_is_clipped_and_counted() {
    let policy = decoder(&small(), 1, &autodiff());
    let all = sequences(41, &[4, 2]);
    let now = logps(&policy.valid(), &all.iter().collect::<Vec<_>>(), 1.0, &cut(2));
    // Ratios of e^0.5 and e^−0.5 a token, each in the direction that its advantage wants.
    let shifted = |by: [f64; 2]| -> Vec<Vec<f64>> {
        now.iter().zip(by).map(|(row, by)| row.iter().map(|x| x - by).collect()).collect()
    };
    let old = shifted([0.5, -0.5]);
    let window = rollouts(&all, Some(&old), &[1.0, -1.0]);
    let (grads, record) = grpo(&policy, &window, &grpo_step(Normaliser::StepTokens, 0.0), 1);
    assert!(grads.global_norm() <= 0.0, "{}", grads.global_norm());
    close("loss", record.loss, (-1.2 * 4.0 + 0.8 * 2.0) / 6.0, TOLERANCE);
    close("high", record.clip_high_mean, 4.0 / 6.0, 1e-12);
    close("low", record.clip_low_mean, 2.0 / 6.0, 1e-12);
    assert_eq!(bits(&[record.clip_high_max, record.clip_low_min]), bits(&[1.0, 0.0]));
    // Against them, the whole loss counts and so does the gradient; of whole completions e^2 and e^−1.
    let old = shifted([-0.5, 0.5]);
    let window = rollouts(&all, Some(&old), &[1.0, -1.0]);
    let step = RlooStep { clip: PpoClipConfig::new(weight(0.2)), temperature: 1.0 };
    let (grads, record) = rloo_gradients(&policy, &window, &step, &cut(1));
    close("loss", record.loss, 0.5 * (1f64.exp() - (-2f64).exp()), 1e-5);
    assert!(grads.global_norm() > 0.1);
    close("clipped", record.clip_region_mean, 0.0, 0.0);
}

#[test]
fn any_cut_gives_one_gradient_of_rollouts_with_a_kl() {
    let policy = decoder(&small(), 1, &autodiff());
    let (drew, reference) = (decoder(&small(), 1, &Device::flex()), decoder(&small(), 2, &Device::flex()));
    let all = sequences(43, &[4, 2, 5]);
    let rows: Vec<&Sequence> = all.iter().collect();
    let (old, reference) = (logps(&drew, &rows, 1.0, &cut(3)), logps(&reference, &rows, 1.0, &cut(3)));
    let mut window = rollouts(&all, Some(&old), &[1.0, -0.5, 0.7]);
    window.iter_mut().zip(&reference).for_each(|(r, of)| r.reference_logp = Some(of));
    for normaliser in [Normaliser::StepTokens, Normaliser::SequenceMean, Normaliser::StepSequences] {
        let step = grpo_step(normaliser, 0.1);
        let (whole, seen) = grpo(&policy, &window, &step, 3);
        let (grads, record) = grpo(&policy, &window, &step, 1);
        same(&policy, &grads, &[(1.0, &whole)]);
        close("loss", record.loss, seen.loss, TOLERANCE);
        close("kl", record.kl.expect("a KL"), seen.kl.expect("a KL"), 1e-5);
        assert!(seen.kl.expect("a KL") > 0.1, "two policies");
    }
}

#[test]
#[should_panic(expected = "group: old_logp: expected a list for each rollout or for none")]
fn rollouts_of_which_one_forgot_who_drew_it() {
    let all = sequences(47, &[4, 2]);
    let old = [vec![-1.0; 4], vec![-1.0; 2]];
    let mut window = rollouts(&all, Some(&old), &[1.0, -1.0]);
    window[1].old_logp = None;
    let _ = grpo(&decoder(&small(), 1, &autodiff()), &window, &grpo_step(Normaliser::StepTokens, 0.0), 2);
}

#[test]
fn a_step_without_tokens_is_refused() {
    let policy = decoder(&small(), 1, &autodiff());
    let step = grpo_step(Normaliser::StepTokens, 0.0);
    assert!(grpo_gradients(&policy, &[], &step, &cut(1)).is_err());
}

fn reward_window(model: &Classifier, margin: f64, micro: usize) -> (Grads, RewardRecord) {
    let pair = |(chosen, rejected)| RewardPair { chosen, rejected, margin };
    let all: Vec<RewardPair> =
        rows(53, 32, &[6, 3, 8]).into_iter().zip(rows(59, 32, &[4, 7, 2])).map(pair).collect();
    let config = BradleyTerryConfig { center_rewards_coefficient: weight(0.01) };
    reward_model::gradients(model, &all.iter().collect::<Vec<_>>(), config, &cut(micro))
}

#[test]
fn any_cut_gives_one_gradient_of_a_reward_model() {
    let model = classifier(&small(), 1, &autodiff());
    for margin in [0.0, 0.5] {
        let (whole, seen) = reward_window(&model, margin, 3);
        let (grads, record) = reward_window(&model, margin, 1);
        same(&model, &grads, &[(1.0, &whole)]);
        close("loss", record.loss, seen.loss, TOLERANCE);
        let plain = model.valid();
        let chosen = plain.score_rows(&rows(53, 32, &[6, 3, 8]), 0, 8);
        let rejected = plain.score_rows(&rows(59, 32, &[4, 7, 2]), 0, 8);
        let softplus = |x: f64| x.exp().ln_1p();
        let one = |(c, r): (&f64, &f64)| softplus(margin - (c - r)) + 0.01 * (c + r).powi(2);
        close("loss", seen.loss, chosen.iter().zip(&rejected).map(one).sum::<f64>() / 3.0, 1e-5);
        let right = chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count();
        close("accuracy", record.accuracy, right as f64 / 3.0, 1e-12);
        let best = [chosen, rejected].concat().into_iter().fold(f64::NEG_INFINITY, f64::max);
        close("max", record.max_reward, best, 1e-5);
    }
}

#[test]
fn the_padding_tokens_embedding_is_not_trained_even_where_it_was_sampled() {
    let text = |more: &str| {
        format!(
            r#"{{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,
            "num_hidden_layers":2,"num_attention_heads":4,"max_position_embeddings":128,
            "initializer_range":0.3{more}}}"#
        )
    };
    let row = Sequence::new(&[3, 4], &[5, 6, 7]);
    let gradient = |more: &str, token: usize| -> Vec<f32> {
        let config = DecoderConfig::parse(&text(more)).expect("valid");
        let policy = decoder(&config, 1, &autodiff());
        let grads = sft::gradients(&policy, &[&row], 1, 0).0;
        let all = grads.host("model.embed_tokens.weight").expect("reached");
        all[token * 16..][..16].to_vec()
    };
    let zero = |row: &[f32]| row.iter().all(|x| x.abs() <= 0.0);
    assert!(zero(&gradient(r#","pad_token_id":5"#, 5)), "padding");
    assert!(!zero(&gradient("", 5)), "a token like others where nothing pads");
    assert_eq!(gradient(r#","pad_token_id":5"#, 4), gradient("", 4), "the others are as they were");
}
