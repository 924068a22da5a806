//! Every family against numbers of `transformers` that stand in this folder, and from scratch.
//!
//! `families.json` is written by `tests/python/make_families.py`; entry `i` of the `k`-th tensor by name
//! is a hash of `k` and `i`, computed alike there and here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::family::Family;
use rlhf_policy::generate::{Decoding, Generation, generate};
use rlhf_policy::hf::{
    Checkpoint, FileType, MODEL_FILE, Saving, deserialize, load_decoder, save_as, serialize,
};
use rlhf_policy::weights::{HostTensor, parameters, scratch};
use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::support::{close, devices, logits};

#[derive(Deserialize)]
struct Families {
    tokens: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    config: Map<String, Value>,
    /// 0 for a language model.
    labels: usize,
    /// Of every position, or of every label.
    logits: Vec<f64>,
    #[serde(default)]
    greedy: Vec<u32>,
    /// Names and shapes as on disk, by name.
    tensors: Vec<(String, Vec<usize>)>,
}

fn families() -> Families {
    serde_json::from_str(include_str!("families.json")).expect("JSON")
}

impl Case {
    fn name(&self) -> String {
        format!("{} with {} labels", self.config["model_type"], self.labels)
    }

    /// The model's folder.
    fn write(&self, dir: &Path) {
        fs::write(dir.join("config.json"), serde_json::to_string(&self.config).expect("JSON"))
            .expect("written");
        let gemma = self.config["model_type"].as_str().expect("a text").starts_with("gemma");
        let tensor = |(k, (name, shape)): (usize, &(String, Vec<usize>))| {
            let gain = shape.len() == 1 && name.ends_with(".weight");
            let start = if gain && !gemma { 1.0 } else { 0.0 };
            let width = if gain { 0.4 } else { 0.9 };
            let n: usize = shape.iter().product();
            let data = (0..n).map(|i| (start + width * noise(k as u64, i as u64)) as f32).collect();
            (name.clone(), HostTensor { shape: shape.clone(), data })
        };
        let all: BTreeMap<String, HostTensor> = self.tensors.iter().enumerate().map(tensor).collect();
        fs::write(dir.join(MODEL_FILE), serialize(&all).expect("filled")).expect("written");
    }
}

/// A number in [−½, ½).
fn noise(k: u64, i: u64) -> f64 {
    const MASK: u64 = 0xffff_ffff;
    let mut h = (k * 0x9e37_79b1 + i * 0x85eb_ca77) & MASK;
    h ^= h >> 15;
    h = (h * 0xc2b2_ae3d) & MASK;
    h ^= h >> 13;
    h as f64 / f64::from(2u32).powi(32) - 0.5
}

fn language_model(dir: &Path, device: &Device) -> (DecoderConfig, Decoder) {
    let config = DecoderConfig::load(dir).expect("config");
    assert_eq!(config.kind(), ModelKind::Causal);
    let model = load_decoder(dir, &config, device).expect("loads");
    (config, model)
}

fn classifier(dir: &Path, device: &Device) -> (DecoderConfig, Classifier) {
    let config = DecoderConfig::load(dir).expect("config");
    let ModelKind::Classifier { labels } = config.kind() else { panic!("expected a classifier") };
    let mut checkpoint = Checkpoint::open(dir, config.family()).expect("safetensors");
    let mut source = |n: &str, s: &[usize]| checkpoint.tensor(n, s);
    let model = Classifier::with_labels(&config, labels, &mut source, device).expect("built");
    checkpoint.finish().expect("nothing left over");
    (config, model)
}

/// `transformers` rounds otherwise by up to 1e-6 here, and the file has six places.
const TOLERANCE: f64 = 2e-5;

#[test]
fn language_models_of_every_family_say_what_transformers_says() {
    let Families { tokens, cases } = families();
    for case in cases.iter().filter(|case| case.labels == 0) {
        let dir = TempDir::new().expect("a folder");
        case.write(dir.path());
        for device in devices() {
            let (config, model) = language_model(dir.path(), &device);
            let found = logits(&model, &tokens, &device);
            assert_eq!(found.len() * config.vocab_size(), case.logits.len());
            for (found, expected) in found.iter().flatten().zip(&case.logits) {
                close(&case.name(), *found, *expected, TOLERANCE);
            }
            let how = Generation {
                sampling: Sampling { temperature: 0.0, ..Sampling::plain() },
                max_completion_length: case.greedy.len(),
                num_generations: 1,
                eos_token_ids: Vec::new(),
                pad_token_id: 0,
                context_length: config.max_position_embeddings(),
                max_rows: 1,
                stop: None,
                layers: None,
                decoding: Decoding::for_device(&device),
            };
            let random = |p: usize, s: usize| stream(0, "greedy", p as u64, s as u64);
            let rollouts = generate(&model, std::slice::from_ref(&tokens), &how, &random, &device);
            assert_eq!(rollouts.expect("runs")[0].tokens, case.greedy, "{}", case.name());
        }
    }
}

#[test]
fn classifiers_of_every_family_say_what_transformers_says() {
    let Families { tokens, cases } = families();
    for case in cases.iter().filter(|case| case.labels > 0) {
        let dir = TempDir::new().expect("a folder");
        case.write(dir.path());
        for device in devices() {
            let (_, model) = classifier(dir.path(), &device);
            // A second row, shorter: padding and neighbours do not matter.
            let rows = [tokens[..4].to_vec(), tokens.clone()];
            let found = &model.logit_rows(&rows, 0, 2)[1];
            assert_eq!((model.labels(), found.len()), (case.labels, case.labels));
            for (found, expected) in found.iter().zip(&case.logits) {
                close(&case.name(), *found, *expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn both_kinds_of_every_family_stand_in_the_file() {
    let cases = families().cases;
    for family in Family::ALL {
        let of = |case: &&Case| case.config["model_type"] == family.model_type();
        let kinds: Vec<bool> = cases.iter().filter(of).map(|case| case.labels > 0).collect();
        assert_eq!(kinds, [false, true], "{family:?}");
    }
}

#[test]
fn what_is_loaded_is_saved_under_the_same_names_with_the_same_numbers() {
    for case in families().cases {
        let (from, to, shards) = (dir(), dir(), dir());
        case.write(from.path());
        let device = &devices()[0];
        let (config, kind, all) = if case.labels == 0 {
            let (config, model) = language_model(from.path(), device);
            (config, ModelKind::Causal, parameters(&model))
        } else {
            let (config, model) = classifier(from.path(), device);
            (config, ModelKind::Classifier { labels: case.labels }, parameters(&model))
        };
        save_as(to.path(), &config, kind, &all, &Saving::default()).expect("written");
        let read = |d: &TempDir| fs::read(d.path().join(MODEL_FILE)).expect("readable");
        assert_eq!(read(&from), read(&to), "{}", case.name());
        let small = Saving { max_shard_size: 1000, ..Saving::default() };
        save_as(shards.path(), &config, kind, &all, &small).expect("written");
        let back = if case.labels == 0 {
            parameters(&language_model(shards.path(), device).1)
        } else {
            parameters(&classifier(shards.path(), device).1)
        };
        assert!(back == all, "{}", case.name());
        // The numbers are no bf16: what comes back is what bf16 makes of them.
        let half = Saving { dtype: FileType::Bf16, ..Saving::default() };
        save_as(shards.path(), &config, kind, &all, &half).expect("written");
        let back = if case.labels == 0 {
            parameters(&language_model(shards.path(), device).1)
        } else {
            parameters(&classifier(shards.path(), device).1)
        };
        for (name, tensor) in &all {
            let rounded: Vec<f32> = tensor.data.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
            assert!(back[name].data == rounded, "{}: {name}", case.name());
        }
        let config: Value =
            serde_json::from_slice(&fs::read(shards.path().join("config.json")).expect("readable"))
                .expect("JSON");
        assert_eq!(config["dtype"], "bfloat16");
        assert_eq!(config["architectures"], case.config["architectures"]);
    }
}

#[test]
fn a_bare_trunk_loads_without_what_stands_before_its_names() {
    let Families { tokens, cases } = families();
    let device = &devices()[0];
    for case in cases.iter().filter(|case| case.labels == 0) {
        let dir = dir();
        case.write(dir.path());
        let whole = logits(&language_model(dir.path(), device).1, &tokens, device);
        let path = dir.path().join(MODEL_FILE);
        let all = deserialize(&fs::read(&path).expect("readable")).expect("f32");
        let bare = |name: &str| {
            let prefixes = ["model.", "transformer.", "gpt_neox."].into_iter();
            let short = prefixes.filter_map(|p| name.strip_prefix(p)).next();
            short.unwrap_or(name).to_owned()
        };
        let all: BTreeMap<String, HostTensor> = all.into_iter().map(|(n, t)| (bare(&n), t)).collect();
        fs::write(&path, serialize(&all).expect("filled")).expect("written");
        let found = logits(&language_model(dir.path(), device).1, &tokens, device);
        assert!(found == whole, "{}", case.name());
    }
}

fn dir() -> TempDir {
    TempDir::new().expect("a folder")
}

#[test]
fn a_scratch_model_of_every_family_is_finite_and_leaves_its_norms_alone() {
    let Families { tokens, cases } = families();
    for case in cases.iter().filter(|case| case.labels == 0) {
        let text = serde_json::to_string(&case.config).expect("JSON");
        let config = DecoderConfig::parse(&text).expect("valid");
        let device = &devices()[0];
        let model = Decoder::build(&config, &mut scratch(3, &config), device).expect("built");
        let found = logits(&model, &tokens, device);
        assert!(found.iter().flatten().all(|x| x.is_finite()), "{}", case.name());
        assert!(found.iter().flatten().any(|x| x.abs() > 1e-6), "{}", case.name());
        let gemma = matches!(config.family(), Family::Gemma2 | Family::Gemma3);
        let gain = if gemma { 0.0 } else { 1.0 };
        let all = parameters(&model);
        let of = |end: &str, x: f32| {
            let mut named = all.iter().filter(|(name, _)| name.ends_with(end));
            named.all(|(_, t)| t.data.iter().all(|y| y.to_bits() == x.to_bits()))
        };
        assert!(of("norm.weight", gain) && of(".bias", 0.0), "{}", case.name());
        let names: Vec<String> = all.keys().map(|name| config.family().disk_name(name)).collect();
        let mut expected: Vec<&String> = case.tensors.iter().map(|(name, _)| name).collect();
        expected.sort();
        let mut found: Vec<&String> = names.iter().collect();
        found.sort();
        assert_eq!(found, expected, "{}", case.name());
        let counted: usize = all.values().map(|t| t.data.len()).sum();
        assert_eq!(config.architecture().n_parameters(), Some(counted), "{}", case.name());
    }
}
