//! Tiny decoders and batches that several tests share.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_nested::behavior::{Blocks, NestedBatch, Scoring, rollouts};
use rlhf_policy::completion::{Cut, TokenMetrics};
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Decoding, Generation};
use rlhf_policy::weights::scratch;

/// Blocks of [`decoder`].
pub(crate) const N_LAYERS: usize = 6;

/// The CPU devices of this test binary, and what computes on them.
#[expect(deprecated, reason = "the deterministic reference device, deprecated upstream, still in Burn 0.22")]
pub(crate) fn ways() -> [(Device, Decoding); 3] {
    [
        (Device::flex(), Decoding::Host),
        (Device::flex(), Decoding::Tensor),
        (Device::ndarray(), Decoding::Tensor),
    ]
}

/// Six blocks, vocabulary 24; `spread` is the deviation of its weights.
pub(crate) fn decoder(spread: f64, device: &Device) -> Decoder {
    let config = DecoderConfig::parse(&format!(
        r#"{{"model_type":"llama","vocab_size":24,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":{N_LAYERS},"num_attention_heads":4,"num_key_value_heads":2,
        "max_position_embeddings":64,"initializer_range":{spread}}}"#
    ))
    .expect("valid");
    Decoder::build(&config, &mut scratch(3, &config), device).expect("built")
}

/// Everything but these blocks.
pub(crate) fn without(skipped: &[usize]) -> Blocks {
    let skipped = skipped.to_vec();
    Blocks::of(&move |_: u64| skipped.clone(), 0, N_LAYERS).expect("fits")
}

/// Prompts of different lengths.
pub(crate) fn prompts(n: usize) -> Vec<Vec<u32>> {
    let prompt = |i: usize| {
        let mut rng = stream(2, "prompts", 0, i as u64);
        (0..1 + i % 5).map(|_| rng.random_range(0..24)).collect()
    };
    (0..n).map(prompt).collect()
}

/// Up to `length` tokens at `temperature`, token 1 ends.
pub(crate) fn how(decoding: Decoding, temperature: f64, length: usize) -> Generation {
    Generation {
        sampling: Sampling { temperature, ..Sampling::plain() },
        eos_token_ids: vec![1],
        num_generations: 4,
        ..Generation::plain(decoding, 64, length)
    }
}

pub(crate) fn cut(micro_batch: usize) -> Cut {
    Cut { micro_batch, pad: 0, metrics: TokenMetrics::Off }
}

/// Completions of `n` prompts by some blocks, read by all.
pub(crate) fn batch(model: &Decoder, n: usize, how: &Generation, blocks: Blocks) -> NestedBatch {
    let random = |prompt: usize, sample: usize| stream(1, "rollout", prompt as u64, sample as u64);
    let prompts = prompts(n);
    let drawn = rollouts(model, &prompts, how, &blocks, &random).expect("finite");
    let scoring = Scoring { temperature: how.sampling.temperature, cut: cut(16) };
    NestedBatch::score(model, &prompts, drawn, blocks, scoring)
}

/// Logits after every token of one row through these blocks, without a cache: `[T][V]`.
pub(crate) fn logits_through(model: &Decoder, row: &[u32], blocks: &[usize]) -> Vec<Vec<f64>> {
    let tokens: Vec<i64> = row.iter().map(|t| i64::from(*t)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, row.len()]), &model.device());
    let logits = model.head(model.model.hidden_through(tokens, blocks));
    let all: Vec<f64> = logits.into_data().convert::<f64>().try_into_vec().expect("f64");
    all.chunks(24).map(<[f64]>::to_vec).collect()
}

/// The policy that is trained, and the same on the plain device.
pub(crate) fn trained(spread: f64) -> (Decoder, Decoder) {
    let policy = decoder(spread, &Device::flex().autodiff());
    let plain = policy.valid();
    (policy, plain)
}

/// Asserts `|found − expected| ≤ tolerance`, which must not be lax.
#[track_caller]
pub(crate) fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!(tolerance <= 1e-3, "a tolerance of {tolerance} proves nothing");
    assert!((found - expected).abs() <= tolerance, "{what}: expected {expected}, found {found}");
}
