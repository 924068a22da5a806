//! Tiny models and comparisons that several tests share.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rlhf_core::contract::PolicyModel;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::DecoderConfig;
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Decoding, Generation};
use rlhf_policy::weights::scratch;

/// The CPU devices of this test binary.
#[expect(deprecated, reason = "the deterministic reference device, deprecated upstream, still in Burn 0.22")]
pub(crate) fn devices() -> Vec<Device> {
    vec![Device::flex(), Device::ndarray()]
}

/// Two layers, four query heads on two key–value heads, vocabulary 32.
pub(crate) fn small() -> DecoderConfig {
    DecoderConfig::parse(
        r#"{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
        "max_position_embeddings":128,"initializer_range":0.3}"#,
    )
    .expect("valid")
}

/// The same config with other values under these keys, all at once: one alone may not fit the rest.
pub(crate) fn with(config: &DecoderConfig, changes: &serde_json::Value) -> DecoderConfig {
    let changes = changes.as_object().expect("an object");
    let mut all = config.raw().clone();
    all.extend(changes.clone());
    DecoderConfig::parse(&serde_json::Value::Object(all).to_string()).expect("valid")
}

/// A decoder from a seed, with weights large enough that its distributions are far from uniform.
pub(crate) fn decoder(config: &DecoderConfig, seed: u64, device: &Device) -> Decoder {
    Decoder::build(config, &mut scratch(seed, config), device).expect("built")
}

pub(crate) fn classifier(config: &DecoderConfig, seed: u64, device: &Device) -> Classifier {
    Classifier::build(config, &mut scratch(seed, config), device).expect("built")
}

/// One row of random tokens for each length.
pub(crate) fn rows(seed: u64, vocabulary: u32, lengths: &[usize]) -> Vec<Vec<u32>> {
    let row = |(i, n): (usize, &usize)| {
        let mut rng = stream(seed, "rows", 0, i as u64);
        (0..*n).map(|_| rng.random_range(0..vocabulary)).collect()
    };
    lengths.iter().enumerate().map(row).collect()
}

/// The model's own distribution, `n` samples of up to `length` tokens, token 1 ends.
pub(crate) fn plain(n: usize, length: usize) -> Generation {
    Generation {
        sampling: Sampling::plain(),
        max_completion_length: length,
        num_generations: n,
        eos_token_ids: vec![1],
        pad_token_id: 0,
        context_length: 128,
        max_rows: 64,
        stop: None,
        layers: None,
        decoding: Decoding::Tensor,
    }
}

/// The logits after every token of one row computed alone, without a cache: `[T][V]`.
pub(crate) fn logits(model: &Decoder, row: &[u32], device: &Device) -> Vec<Vec<f64>> {
    let tokens: Vec<i64> = row.iter().map(|t| i64::from(*t)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, row.len()]), device);
    let logits = model.logits(tokens);
    let v = logits.dims()[2];
    let data: Vec<f64> = logits.into_data().convert::<f64>().try_into_vec().expect("f64");
    data.chunks(v).map(<[f64]>::to_vec).collect()
}

/// Asserts `|a − b| ≤ tolerance`, which must not be lax.
#[track_caller]
pub(crate) fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!(tolerance <= 1e-3, "a tolerance of {tolerance} proves nothing");
    assert!((found - expected).abs() <= tolerance, "{what}: expected {expected}, found {found}");
}

pub(crate) fn bits(x: &[f64]) -> Vec<u64> {
    x.iter().map(|a| a.to_bits()).collect()
}
