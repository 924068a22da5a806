//! A tiny decoder, examples whose frozen models are near it, every method.

use burn::module::Module;
use burn::tensor::Device;
use rand::RngExt;
use rlhf_core::loss::dno::DnoConfig;
use rlhf_core::loss::dpo::DpoConfig;
use rlhf_core::loss::inpo::InpoConfig;
use rlhf_core::loss::ipo::IpoConfig;
use rlhf_core::loss::nash_md::{NashMdConfig, NashMdKl};
use rlhf_core::loss::rspo::{RspoConfig, RspoRegularizer, RspoTerm};
use rlhf_core::loss::spin::SpinConfig;
use rlhf_core::loss::sppo::SppoConfig;
use rlhf_core::number::{Beta, Bound, Prob, Weight};
use rlhf_core::rng::stream;
use rlhf_policy::batch::Sequence;
use rlhf_policy::completion::{Cut, TokenMetrics, logps};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::optim::Grads;
use rlhf_policy::weights::{parameters, scratch};
use rlhf_selfplay::gradients::Record;
use rlhf_selfplay::judged::{Example, Response, Shown};
use rlhf_selfplay::method::{Anchor, Method};

/// Two layers, four query heads on two key–value heads, vocabulary 32.
pub(crate) fn small() -> DecoderConfig {
    DecoderConfig::parse(
        r#"{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
        "max_position_embeddings":128,"initializer_range":0.3}"#,
    )
    .expect("valid")
}

pub(crate) fn decoder(seed: u64, device: &Device) -> Decoder {
    Decoder::build(&small(), &mut scratch(seed, &small()), device).expect("built")
}

pub(crate) fn policy() -> Decoder {
    decoder(1, &Device::flex().autodiff())
}

pub(crate) fn cut(micro_batch: usize) -> Cut {
    Cut { micro_batch, pad: 0, metrics: TokenMetrics::On }
}

pub(crate) fn beta(x: f64) -> Beta {
    Beta::new(x).expect("positive")
}

pub(crate) fn weight(x: f64) -> Weight {
    Weight::new(x).expect("not negative")
}

pub(crate) fn term(regularizer: RspoRegularizer, x: f64) -> RspoTerm {
    RspoTerm { regularizer, weight: weight(x) }
}

pub(crate) fn bound(x: f64) -> Bound {
    Bound::new(x).expect("positive")
}

pub(crate) fn rspo(b: f64, terms: &[RspoTerm]) -> Method {
    Method::Rspo { loss: RspoConfig { beta: beta(b), terms: terms.to_vec() } }
}

/// Random sequences with a prompt of three tokens and completions of these lengths.
pub(crate) fn sequences(seed: u64, lengths: &[usize]) -> Vec<Sequence> {
    let sequence = |(i, n): (usize, &usize)| {
        let mut rng = stream(seed, "step", 0, i as u64);
        let mut row = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.random_range(0..32)).collect() };
        Sequence::new(&row(3), &row(*n))
    };
    lengths.iter().enumerate().map(sequence).collect()
}

/// Answers whose frozen models are off the policy by up to half a nat a token, by chance.
pub(crate) fn responses(seed: u64, lengths: &[usize]) -> Vec<Response> {
    let all = sequences(seed, lengths);
    let now = logps(&policy().valid(), &all.iter().collect::<Vec<_>>(), 1.0, &cut(8));
    let mut rng = stream(seed, "step", 1, 0);
    let mut near = |row: &[f64]| row.iter().map(|x| x + rng.random_range(-0.5..0.5)).collect::<Vec<f64>>();
    let mut all: Vec<Response> = all
        .into_iter()
        .zip(&now)
        .map(|(sequence, row)| Response {
            previous: Some(near(row)),
            original: Some(near(row)),
            ..Response::new(sequence, 0.5)
        })
        .collect();
    for (i, response) in all.iter_mut().enumerate() {
        response.win_rate = [0.8, 0.65, 0.3, 0.55][i % 4];
    }
    all
}

pub(crate) fn pairs() -> Vec<Example> {
    let chosen = responses(11, &[4, 2, 5]);
    let pair = |(chosen, mut rejected): (Response, Response)| {
        rejected.win_rate = 1.0 - 0.9 * chosen.win_rate;
        Example { prompt: 0, shown: Shown::Pair { chosen, rejected, prob: 0.75 } }
    };
    chosen.into_iter().zip(responses(13, &[3, 6, 1])).map(pair).collect()
}

pub(crate) fn singles() -> Vec<Example> {
    let single = |response| Example { prompt: 0, shown: Shown::Single(response) };
    responses(17, &[4, 1, 5, 3]).into_iter().map(single).collect()
}

/// Every method on pairs.
pub(crate) fn on_pairs() -> Vec<Method> {
    let dpo = DpoConfig::new(beta(0.5));
    vec![
        rspo(0.25, &every_term()),
        Method::Sppo { loss: SppoConfig::new(beta(0.25)) },
        Method::Dpo { loss: dpo, reference: Anchor::Previous },
        Method::Dpo { loss: dpo, reference: Anchor::Original },
        Method::Ipo { loss: IpoConfig::new(beta(0.5)) },
        Method::Inpo { loss: InpoConfig { eta: beta(0.5), tau: weight(0.2) } },
        Method::Spin { loss: SpinConfig { lambda: beta(0.5) } },
        Method::Dno { loss: DnoConfig { eta: beta(0.5) } },
    ]
}

/// Every method on single answers.
pub(crate) fn on_singles() -> Vec<Method> {
    let nash = |kl| Method::NashMd {
        loss: NashMdConfig { kl, ..NashMdConfig::new(beta(0.2)) },
        mixture_coef: Prob::new(0.25).expect("a share"),
    };
    vec![
        rspo(0.25, &every_term()),
        Method::Sppo { loss: SppoConfig::new(beta(0.25)) },
        nash(NashMdKl::Sequence),
        nash(NashMdKl::Token),
    ]
}

fn every_term() -> [RspoTerm; 6] {
    [
        term(RspoRegularizer::ReverseKl, 0.5),
        term(RspoRegularizer::ForwardImportance(bound(10.0)), 0.1),
        term(RspoRegularizer::Chi2(bound(10.0)), 0.2),
        term(RspoRegularizer::SmoothedChi2(bound(10.0)), 0.3),
        term(RspoRegularizer::ReverseKlNoEntropy, 0.01),
        term(RspoRegularizer::Entropy, 0.02),
    ]
}

pub(crate) fn step(policy: &Decoder, window: &[Example], method: &Method, cut: &Cut) -> (Grads, Record) {
    let window: Vec<&Example> = window.iter().collect();
    rlhf_selfplay::gradients::gradients(policy, &window, method, cut).expect("rows that fit")
}

/// A record's numbers by name.
pub(crate) fn shown(record: &Record) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(record).expect("numbers") {
        serde_json::Value::Object(all) => all,
        other => panic!("expected an object, found {other}"),
    }
}

/// Every gradient of `found` is the sum of `parts`, each times its factor.
#[track_caller]
pub(crate) fn same(what: &str, module: &impl Module, found: &Grads, parts: &[(f64, &Grads)]) {
    let (mut largest, mut apart) = (0f64, 0f64);
    for name in parameters(module).keys() {
        let of = |grads: &Grads| grads.host(name).unwrap_or_else(|| panic!("{what}: {name} is not reached"));
        let parts: Vec<(f64, Vec<f32>)> = parts.iter().map(|(w, g)| (*w, of(g))).collect();
        for (i, found) in of(found).into_iter().enumerate() {
            let expected: f64 = parts.iter().map(|(w, g)| w * f64::from(g[i])).sum();
            apart = apart.max((f64::from(found) - expected).abs());
            largest = largest.max(expected.abs());
        }
    }
    assert!(largest > 1e-3, "{what}: a gradient of nothing: {largest}");
    assert!(apart <= 5e-6 * largest.max(1.0), "{what}: {apart} apart, the largest is {largest}");
}

/// Asserts `|a − b| ≤ tolerance`, relative where they are large.
#[track_caller]
pub(crate) fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!(tolerance <= 1e-3, "a tolerance of {tolerance} proves nothing");
    let apart = (found - expected).abs() / expected.abs().max(1.0);
    assert!(apart <= tolerance, "{what}: expected {expected}, found {found}");
}
