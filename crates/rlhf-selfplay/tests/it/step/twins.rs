//! Gradients against the losses' twins and likelihood's gradient, whatever the cut and the padding.

use burn::module::Module;
use rlhf_core::loss::dno::dno_scalar;
use rlhf_core::loss::dpo::dpo_scalar;
use rlhf_core::loss::inpo::inpo_scalar;
use rlhf_core::loss::ipo::ipo_scalar;
use rlhf_core::loss::nash_md::nash_md_scalar;
use rlhf_core::loss::rspo::{References, RspoRegularizer, rspo_response_scalar, rspo_scalar};
use rlhf_core::loss::spin::spin_scalar;
use rlhf_core::loss::sppo::{SppoConfig, sppo_response_scalar, sppo_scalar};
use rlhf_core::real::{Dual, Real, gradient};
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Cut, logps};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;
use rlhf_policy::sft;
use rlhf_selfplay::gradients::{ForwardReduction, ForwardSamples, forward_samples};
use rlhf_selfplay::judged::{Example, Response, refer, refer_as};
use rlhf_selfplay::method::{Anchor, Method};

use super::support::{
    beta, close, cut, decoder, on_pairs, on_singles, pairs, policy, rspo, same, sequences, shown, singles,
    step, term, weight,
};

fn sum(tokens: Option<&[f64]>) -> f64 {
    tokens.expect("referred").iter().sum()
}

/// The loss of one example from log-probabilities of its answers' tokens.
fn twin<R: Real>(method: &Method, example: &Example, logp: &[Vec<R>]) -> R {
    let all = example.responses();
    let total: Vec<R> = logp.iter().map(|row| row.iter().copied().sum()).collect();
    let known = |r: &Response| References {
        previous: sum(r.previous.as_deref()),
        original: sum(r.original.as_deref()),
    };
    let near = known(all[0]);
    if let [one] = all[..] {
        return match method {
            Method::Rspo { loss } => rspo_response_scalar(loss, total[0], near, one.win_rate),
            Method::Sppo { loss } => sppo_response_scalar(*loss, total[0], near.previous, one.win_rate),
            Method::NashMd { loss, .. } => {
                let original = one.original.as_deref().expect("referred");
                nash_md_scalar(*loss, &logp[0], original, &vec![true; logp[0].len()], one.win_rate)
            }
            other => panic!("{} takes no single answers", other.name()),
        };
    }
    let far = known(all[1]);
    let [previous, original] = [[near.previous, far.previous], [near.original, far.original]];
    let (policy, rates) = ([total[0], total[1]], [all[0].win_rate, all[1].win_rate]);
    let references = References { previous, original };
    match method {
        Method::Rspo { loss } => rspo_scalar(loss, policy, references, rates),
        Method::Sppo { loss } => sppo_scalar(*loss, policy, previous, rates),
        Method::Dpo { loss, reference: Anchor::Previous } => dpo_scalar(*loss, policy, previous),
        Method::Dpo { loss, reference: Anchor::Original } => dpo_scalar(*loss, policy, original),
        Method::Ipo { loss } => ipo_scalar(*loss, policy, original),
        Method::Inpo { loss } => inpo_scalar(*loss, policy, references),
        Method::Spin { loss } => spin_scalar(*loss, policy, previous),
        Method::Dno { loss } => dno_scalar(*loss, policy, previous, rates),
        Method::NashMd { .. } => panic!("nash_md takes no pairs"),
    }
}

/// The gradient of −log π of each scored token of a sequence.
fn token_gradients(policy: &Decoder, sequence: &Sequence) -> Vec<Grads> {
    let targets = (1..sequence.tokens.len()).filter(|i| sequence.mask[*i]);
    let one = |i: usize| {
        let mask = (0..sequence.tokens.len()).map(|j| j == i).collect();
        let alone = Sequence { tokens: sequence.tokens.clone(), mask };
        sft::gradients(policy, &[&alone], 1, 0).0
    };
    targets.map(one).collect()
}

/// Mean loss of the window by the twin, and what weighs the gradient of −log π of each token.
struct ByTwin {
    loss: f64,
    weights: Vec<f64>,
}

fn by_twin(policy: &Decoder, window: &[Example], method: &Method) -> ByTwin {
    let (n, mut loss, mut weights) = (window.len() as f64, 0.0, Vec::new());
    for example in window {
        let rows: Vec<&Sequence> = example.responses().iter().map(|r| &r.sequence).collect();
        let logp = logps(&policy.valid(), &rows, 1.0, &cut(8));
        let flat = logp.concat();
        let (value, slope) = gradient(&flat, |x: &[Dual]| {
            let mut rest = x;
            let rows: Vec<Vec<Dual>> = logp
                .iter()
                .map(|row| {
                    let (mine, others) = rest.split_at(row.len());
                    rest = others;
                    mine.to_vec()
                })
                .collect();
            twin(method, example, &rows)
        });
        loss += value / n;
        weights.extend(slope.iter().map(|g| -g / n));
    }
    ByTwin { loss, weights }
}

fn agrees_with_its_twin(policy: &Decoder, window: &[Example], method: &Method, tokens: &[Grads]) {
    let expected = by_twin(policy, window, method);
    let (grads, record) = step(policy, window, method, &cut(2));
    close(method.name(), record.loss(), expected.loss, 1e-5);
    assert_eq!(expected.weights.len(), tokens.len());
    let parts: Vec<(f64, &Grads)> = expected.weights.iter().copied().zip(tokens).collect();
    same(method.name(), policy, &grads, &parts);
}

fn all_token_gradients(policy: &Decoder, window: &[Example]) -> Vec<Grads> {
    window.iter().flat_map(Example::responses).flat_map(|r| token_gradients(policy, &r.sequence)).collect()
}

#[test]
fn every_method_has_the_value_and_the_gradient_of_its_twin() {
    let policy = policy();
    for (window, methods) in [(pairs(), on_pairs()), (singles(), on_singles())] {
        let tokens = all_token_gradients(&policy, &window);
        for method in methods {
            agrees_with_its_twin(&policy, &window, &method, &tokens);
        }
    }
}

#[test]
fn so_has_it_at_the_iterate_that_drew_the_answers() {
    let policy = policy();
    let original = decoder(2, &burn::tensor::Device::flex());
    for (mut window, methods) in [(pairs(), on_pairs()), (singles(), on_singles())] {
        refer(&mut window, Anchor::Previous, &policy.valid(), &cut(3)).expect("finite");
        refer(&mut window, Anchor::Original, &original, &cut(3)).expect("finite");
        let tokens = all_token_gradients(&policy, &window);
        for method in methods.iter().filter(|m| m.name() != "rspo") {
            agrees_with_its_twin(&policy, &window, method, &tokens);
        }
        // Far from the original only the bounded regularisers have digits left in f32.
        let bounded = [term(RspoRegularizer::ReverseKl, 0.1), term(RspoRegularizer::Entropy, 0.01)];
        agrees_with_its_twin(&policy, &window, &rspo(0.25, &bounded), &tokens);
    }
}

#[test]
fn any_cut_and_any_padding_give_one_gradient() {
    let policy = policy();
    for (window, methods) in [(pairs(), on_pairs()), (singles(), on_singles())] {
        for method in methods {
            let (whole, seen) = step(&policy, &window, &method, &cut(window.len()));
            for how in [cut(0), cut(1), cut(2), Cut { pad: 9, ..cut(3) }] {
                let (grads, record) = step(&policy, &window, &method, &how);
                same(method.name(), &policy, &grads, &[(1.0, &whole)]);
                let (found, expected) = (shown(&record), shown(&seen));
                assert_eq!(found.len(), expected.len());
                for (name, value) in found {
                    let number = |x: &serde_json::Value| x.as_f64().expect("a number");
                    close(&name, number(&value), number(&expected[&name]), 1e-5);
                }
            }
        }
    }
}

#[test]
fn sppo_is_rspo_without_terms_to_the_bit() {
    let policy = policy();
    let sppo = Method::Sppo { loss: SppoConfig::new(beta(0.01)) };
    let off = term(RspoRegularizer::ReverseKl, 0.0);
    for window in [pairs(), singles()] {
        let (expected, seen) = step(&policy, &window, &sppo, &cut(2));
        for rspo in [rspo(0.01, &[]), rspo(0.01, &[off])] {
            let (found, record) = step(&policy, &window, &rspo, &cut(2));
            assert_eq!(record, seen);
            for name in expected.names() {
                let bits = |grads: &Grads| -> Vec<u32> {
                    grads.host(name).expect("reached").into_iter().map(f32::to_bits).collect()
                };
                assert_eq!(bits(&found), bits(&expected), "{name}");
            }
        }
    }
}

#[test]
fn forward_samples_are_likelihood_by_name() {
    let policy = policy();
    let all = sequences(19, &[4, 2, 5]);
    let all: Vec<&Sequence> = all.iter().collect();
    let (likelihood, nll) = sft::gradients(&policy, &all, 3, 0);
    for (reduction, factor) in
        [(ForwardReduction::TokenMean, 1.0), (ForwardReduction::SequenceSum, 11.0 / 3.0)]
    {
        for micro in [1, 2, 3] {
            let term = ForwardSamples { weight: weight(0.3), reduction };
            let (grads, seen) = forward_samples(&policy, &all, term, &cut(micro));
            same("forward", &policy, &grads, &[(0.3 * factor, &likelihood)]);
            close("loss", seen.loss, 0.3 * factor * nll, 1e-5);
            close("tokens", seen.token_mean, nll, 1e-5);
            close("sequences", seen.sequence_sum, 11.0 / 3.0 * nll, 1e-5);
        }
    }
}

#[test]
fn frozen_models_say_what_they_say_of_each_answer() {
    let frozen = decoder(2, &burn::tensor::Device::flex());
    let mut window = pairs();
    refer(&mut window, Anchor::Previous, &frozen, &cut(4)).expect("finite");
    for response in window.iter().flat_map(Example::responses) {
        let alone = logps(&frozen, &[&response.sequence], 1.0, &cut(1)).concat();
        let kept = response.previous.as_deref().expect("asked");
        assert_eq!(kept.len(), response.sequence.n_targets());
        kept.iter().zip(alone).for_each(|(a, b)| close("logp", *a, b, 1e-5));
    }
    refer_as(&mut window, Anchor::Original, Anchor::Previous);
    assert!(window.iter().flat_map(Example::responses).all(|r| r.original == r.previous));
}
