//! Every surrogate of a group's tokens: one gradient on the drawing policy, and what weights and masks do.

use burn::tensor::Device;
use rlhf_core::loss::cispo::CispoConfig;
use rlhf_core::loss::gmpo::GmpoConfig;
use rlhf_core::loss::kl_penalty::KlConfig;
use rlhf_core::loss::ppo_clip::PpoClipConfig;
use rlhf_core::loss::sapo::SapoConfig;
use rlhf_core::loss::vespo::VespoConfig;
use rlhf_core::number::{Bound, Positive, Weight};
use rlhf_core::preset::Normaliser;
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Cut, TokenMetrics};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::group::{GrpoStep, Rollout, grpo_gradients};
use rlhf_policy::optim::Grads;
use rlhf_policy::surrogate::{GroupLoss, Surrogate};

use crate::support::{close, decoder, rows, small};

fn all() -> Vec<(&'static str, Surrogate)> {
    let weight = |x| Weight::new(x).expect("a weight");
    let positive = |x| Positive::new(x).expect("positive");
    let clip = PpoClipConfig::new(weight(0.2));
    let sapo = SapoConfig { temperature_pos: positive(1.0), temperature_neg: positive(1.05) };
    let vespo = VespoConfig {
        k_pos: weight(2.0),
        lambda_pos: positive(3.0),
        k_neg: weight(3.0),
        lambda_neg: positive(2.0),
    };
    vec![
        ("clip", Surrogate::Clip(clip)),
        ("gspo", Surrogate::Gspo(clip)),
        ("gspo_token", Surrogate::GspoToken(clip)),
        ("cispo", Surrogate::Cispo(CispoConfig::UpperBound { max: Bound::new(5.0).expect("a bound") })),
        ("sapo", Surrogate::Sapo(sapo)),
        ("sapo_sequence", Surrogate::SapoSequence(sapo)),
        ("vespo", Surrogate::Vespo(vespo)),
        ("gmpo", Surrogate::Gmpo(GmpoConfig::new(weight(0.4)))),
    ]
}

fn window() -> Vec<Sequence> {
    let prompts = rows(5, 32, &[3; 3]);
    prompts.iter().zip(rows(6, 32, &[4, 2, 5])).map(|(p, c)| Sequence::new(p, &c)).collect()
}

fn step(surrogate: Surrogate) -> GrpoStep {
    GrpoStep {
        loss: GroupLoss { surrogate, beta: Weight::ZERO, kl: KlConfig::unbiased() },
        normaliser: Normaliser::SequenceMean,
        max_completion_length: 8,
        temperature: 1.0,
    }
}

/// The gradient with a weight on every token of each rollout, where there is one.
fn gradient(policy: &Decoder, surrogate: Surrogate, weights: Option<[f64; 3]>) -> Grads {
    let sequences = window();
    let lists: Vec<Vec<f64>> = sequences
        .iter()
        .enumerate()
        .map(|(i, s)| vec![weights.map_or(1.0, |w| w[i]); s.n_targets()])
        .collect();
    let advantages = [1.5, -1.0, 0.5];
    let rollouts: Vec<Rollout<'_>> = (0..3)
        .map(|i| Rollout {
            sequence: &sequences[i],
            old_logp: None,
            reference_logp: None,
            weight: weights.map(|_| lists[i].as_slice()),
            advantage: advantages[i],
        })
        .collect();
    let cut = Cut { micro_batch: 3, pad: 0, metrics: TokenMetrics::Off };
    grpo_gradients(policy, &rollouts, &step(surrogate), &cut).expect("tokens").0
}

#[track_caller]
fn same(name: &str, a: &Grads, b: &Grads, factor: f64) {
    for parameter in b.names() {
        let (x, y) = (a.host(parameter).expect("reached"), b.host(parameter).expect("reached"));
        for (x, y) in x.iter().zip(&y) {
            close(&format!("{name}: {parameter}"), f64::from(*x), factor * f64::from(*y), 5e-6);
        }
    }
}

#[test]
fn on_the_drawing_policy_all_have_one_gradient() {
    let policy = decoder(&small(), 1, &Device::flex().autodiff());
    let first = gradient(&policy, all()[0].1, None);
    assert!(first.global_norm() > 0.01);
    for (name, surrogate) in all() {
        // SAPO's slope at r = 1 is 1 at any temperature, VESPO's φ(1) is 1.
        same(name, &gradient(&policy, surrogate, None), &first, 1.0);
    }
}

#[test]
fn weights_multiply_the_surrogate() {
    let policy = decoder(&small(), 1, &Device::flex().autodiff());
    for (name, surrogate) in all() {
        let plain = gradient(&policy, surrogate, None);
        same(name, &gradient(&policy, surrogate, Some([1.0; 3])), &plain, 1.0);
        if !matches!(surrogate, Surrogate::Vespo(_)) {
            same(name, &gradient(&policy, surrogate, Some([0.5; 3])), &plain, 0.5);
            let none = gradient(&policy, surrogate, Some([0.0; 3]));
            assert!(none.global_norm() < 1e-12, "{name}");
        }
    }
}

#[test]
fn a_micro_batch_without_a_token_adds_nothing_and_a_window_without_one_is_refused() {
    let policy = decoder(&small(), 1, &Device::flex().autodiff());
    let mut sequences = window();
    sequences[1].mask.fill(false);
    let rollout = |i: usize| Rollout {
        sequence: &sequences[i],
        old_logp: None,
        reference_logp: None,
        weight: None,
        advantage: 1.0,
    };
    let (whole, parts) = (
        Cut { micro_batch: 3, pad: 0, metrics: TokenMetrics::Off },
        Cut { micro_batch: 1, pad: 0, metrics: TokenMetrics::Off },
    );
    let rollouts: Vec<Rollout<'_>> = (0..3).map(rollout).collect();
    let of = |cut: &Cut| grpo_gradients(&policy, &rollouts, &step(all()[0].1), cut).expect("tokens");
    let ((a, seen), (b, _)) = (of(&whole), of(&parts));
    same("masked", &a, &b, 1.0);
    assert_eq!(seen.min_length, 0);
    let none = grpo_gradients(&policy, &rollouts[1..2], &step(all()[0].1), &whole).expect_err("no token");
    assert!(none.to_string().contains("window"), "{none}");
}
