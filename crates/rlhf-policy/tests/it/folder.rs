//! Hugging Face folders: what is saved is read back, what is wrong is named.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::error::Error;
use rlhf_policy::hf::{Checkpoint, INDEX_FILE, MODEL_FILE, deserialize, save, serialize};
use rlhf_policy::weights::{HostTensor, parameters};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{classifier, decoder, devices, small, with};

type Parameters = BTreeMap<String, HostTensor>;

fn some() -> Parameters {
    parameters(&decoder(&small(), 13, &devices()[0]))
}

fn written(parameters: &Parameters) -> TempDir {
    let dir = TempDir::new().expect("a folder");
    save(dir.path(), &small(), ModelKind::Causal, parameters).expect("written");
    dir
}

fn load(dir: &Path) -> Result<Decoder, Error> {
    let config = DecoderConfig::load(dir)?;
    let mut checkpoint = Checkpoint::open(dir, config.family())?;
    let model = Decoder::build(&config, &mut |n, s| checkpoint.tensor(n, s), &devices()[0])?;
    checkpoint.finish()?;
    Ok(model)
}

fn refused(dir: &Path) -> String {
    load(dir).expect_err("refused").to_string()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")
}

#[test]
fn saved_loaded_and_saved_again_are_the_same_bytes() {
    let first = written(&some());
    let second = written(&parameters(&load(first.path()).expect("loads")));
    for file in [MODEL_FILE, "config.json", "generation_config.json"] {
        let read = |d: &TempDir| fs::read(d.path().join(file)).expect("readable");
        assert_eq!(read(&first), read(&second), "{file}");
    }
    let left: Vec<_> = fs::read_dir(first.path()).expect("a folder").collect();
    assert_eq!(left.len(), 3, "no temporary file stays: {left:?}");
    assert_eq!(
        deserialize(&fs::read(first.path().join(MODEL_FILE)).expect("readable")).expect("f32"),
        some()
    );
}

#[test]
fn a_reward_model_comes_back_under_its_own_architecture() {
    let dir = TempDir::new().expect("a folder");
    let model = classifier(&small(), 4, &devices()[0]);
    save(dir.path(), &small(), ModelKind::REWARD, &parameters(&model)).expect("written");
    let config = json_of(&dir.path().join("config.json"));
    assert_eq!(config["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!(config["id2label"], json!({"0": "LABEL_0"}));
    let mut checkpoint = Checkpoint::open(dir.path(), small().family()).expect("opens");
    let back =
        Classifier::build(&small(), &mut |n, s| checkpoint.tensor(n, s), &devices()[0]).expect("built");
    checkpoint.finish().expect("nothing left over");
    assert_eq!(parameters(&back), parameters(&model));
    assert!(!dir.path().join("generation_config.json").exists(), "a reward model generates nothing");
}

/// Writes `parameters` as 16-bit floats; every value is made representable first.
fn half_file(path: &Path, parameters: &Parameters, dtype: Dtype) {
    let bytes = |x: f32| match dtype {
        Dtype::BF16 => half::bf16::from_f32(x).to_le_bytes(),
        _ => half::f16::from_f32(x).to_le_bytes(),
    };
    let data: Vec<Vec<u8>> =
        parameters.values().map(|t| t.data.iter().flat_map(|x| bytes(*x)).collect()).collect();
    let views = parameters.iter().zip(&data).map(|((name, t), d)| {
        (name.as_str(), TensorView::new(dtype, t.shape.clone(), d).expect("fills its shape"))
    });
    fs::write(path, safetensors::serialize(views.collect::<Vec<_>>(), None).expect("serialises"))
        .expect("written");
}

#[test]
fn sixteen_bit_files_are_read_exactly() {
    type Round = fn(f32) -> f32;
    let kinds: [(Dtype, Round); 2] = [
        (Dtype::BF16, |x| half::bf16::from_f32(x).to_f32()),
        (Dtype::F16, |x| half::f16::from_f32(x).to_f32()),
    ];
    for (dtype, round) in kinds {
        let dir = written(&some());
        half_file(&dir.path().join(MODEL_FILE), &some(), dtype);
        let mut expected = some();
        expected.values_mut().flat_map(|t| &mut t.data).for_each(|x| *x = round(*x));
        assert_ne!(expected, some(), "rounding shows");
        assert_eq!(parameters(&load(dir.path()).expect("loads")), expected, "{dtype:?}");
    }
}

#[test]
fn another_type_is_named() {
    let dir = written(&some());
    let data = vec![0u8; 32 * 16 * 8];
    let view = TensorView::new(Dtype::I64, vec![32, 16], &data).expect("fills its shape");
    let file = safetensors::serialize(vec![("model.embed_tokens.weight", view)], None).expect("serialises");
    fs::write(dir.path().join(MODEL_FILE), file).expect("written");
    assert_eq!(refused(dir.path()), "tensor model.embed_tokens.weight: expected F32, BF16 or F16, found I64");
}

/// The same parameters in two shards with an index.
fn sharded() -> (TempDir, Parameters) {
    let all = some();
    let dir = written(&all);
    fs::remove_file(dir.path().join(MODEL_FILE)).expect("there");
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", part + 1);
        let mine: Parameters =
            all.clone().into_iter().enumerate().filter(|(i, _)| i % 2 == part).map(|(_, x)| x).collect();
        map.extend(mine.keys().map(|n| (n.clone(), json!(file))));
        fs::write(dir.path().join(file), serialize(&mine).expect("fits")).expect("written");
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(dir.path().join(INDEX_FILE), index.to_string()).expect("written");
    (dir, all)
}

#[test]
fn shards_are_put_together_by_their_index() {
    let (dir, all) = sharded();
    assert_eq!(parameters(&load(dir.path()).expect("loads")), all);
}

#[test]
fn a_missing_shard_and_a_broken_index_are_named() {
    let (dir, _) = sharded();
    let shard = dir.path().join("model-00002-of-00002.safetensors");
    fs::remove_file(&shard).expect("there");
    assert!(refused(dir.path()).starts_with(&format!("{}: opening: ", shard.display())));
    let index = dir.path().join(INDEX_FILE);
    for (text, what) in [("{}", "weight_map: expected"), ("{", "EOF")] {
        fs::write(&index, text).expect("written");
        let found = refused(dir.path());
        assert!(found.starts_with(&format!("{}: ", index.display())) && found.contains(what), "{found}");
    }
}

#[test]
fn a_missing_tensor_a_wrong_shape_and_an_unknown_one_are_named() {
    let mut p = some();
    let name = "model.layers.1.self_attn.k_proj.weight";
    let right = p.remove(name).expect("there");
    let dir = written(&p);
    let place = dir.path().display();
    let expected = format!("tensor {name}: expected [8, 16] in {place}, found nothing");
    assert_eq!(refused(dir.path()), expected);

    p.insert(name.to_owned(), HostTensor { shape: vec![16, 8], data: right.data.clone() });
    let dir = written(&p);
    let place = dir.path().display();
    let expected = format!("tensor {name}: expected [8, 16] in {place}, found [16, 8]");
    assert_eq!(refused(dir.path()), expected);

    p.insert(name.to_owned(), right);
    for extra in ["model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias"] {
        p.insert(extra.to_owned(), HostTensor { shape: vec![1], data: vec![0.0] });
    }
    let found = refused(written(&p).path());
    // The first of the two by name.
    assert!(
        found.starts_with("tensor model.layers.0.self_attn.q_proj.bias: expected a parameter"),
        "{found}"
    );
    assert!(found.ends_with("(2 such)"), "{found}");
}

#[test]
fn old_rotary_tables_and_a_tied_head_may_lie_in_the_file() {
    let config = with(&small(), &json!({"tie_word_embeddings": true}));
    let mut p = some();
    p.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(),
        HostTensor { shape: vec![2], data: vec![0.0; 2] },
    );
    let dir = TempDir::new().expect("a folder");
    save(dir.path(), &config, ModelKind::Causal, &p).expect("written");
    let model = load(dir.path()).expect("both are passed over");
    assert!(model.lm_head.is_none());
}

#[test]
fn a_file_cut_short_anywhere_is_an_error_that_names_it() {
    let dir = written(&some());
    let path = dir.path().join(MODEL_FILE);
    let whole = fs::read(&path).expect("readable");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    for cut in [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("written");
        let found = refused(dir.path());
        assert!(found.starts_with(&format!("{}: ", path.display())), "cut at {cut}: {found}");
        assert!(deserialize(&whole[..cut]).is_err(), "cut at {cut}");
    }
    // A header length beyond the file, and bytes that are no header.
    for bytes in [[0xff; 64], [b'{'; 64]] {
        fs::write(&path, bytes).expect("written");
        assert!(refused(dir.path()).starts_with(&format!("{}: ", path.display())));
    }
}

#[test]
fn a_missing_file_and_a_missing_folder_are_named() {
    let dir = written(&some());
    fs::remove_file(dir.path().join(MODEL_FILE)).expect("there");
    assert!(
        refused(dir.path()).starts_with(&format!("{}: opening: ", dir.path().join(MODEL_FILE).display()))
    );
    let nowhere = dir.path().join("none");
    assert!(refused(&nowhere).starts_with(&format!("{}: reading: ", nowhere.join("config.json").display())));
    fs::write(dir.path().join("config.json"), r#"{"model_type":"llama"}"#).expect("written");
    let found = refused(dir.path());
    assert!(found.contains("config.json") && found.contains("vocab_size"), "{found}");
}

#[test]
fn keys_unknown_here_survive_and_settings_are_not_invented() {
    let text = r#"{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":4,"max_position_embeddings":128,"rms_norm_eps":1e-5,
        "rope_parameters":{"rope_type":"default","rope_theta":5e5},"eos_token_id":[2,3],"pad_token_id":0,
        "bos_token_id":1,"my_key":{"nested":[1,2.5,null]},"transformers_version":"5.23.0"}"#;
    let config = DecoderConfig::parse(text).expect("valid");
    let dir = TempDir::new().expect("a folder");
    save(dir.path(), &config, ModelKind::Causal, &Parameters::new()).expect("written");
    let (before, after): (Value, Value) =
        (serde_json::from_str(text).expect("JSON"), json_of(&dir.path().join("config.json")));
    for (key, value) in before.as_object().expect("an object") {
        assert_eq!(&after[key], value, "{key}");
    }
    assert!(after.get("num_key_value_heads").is_none() && after.get("head_dim").is_none());
    assert_eq!(after["architectures"], json!(["LlamaForCausalLM"]));
    let again = DecoderConfig::load(dir.path()).expect("valid");
    assert_eq!((again.rope_theta(), again.kv_heads(), again.head_dim()), (5e5, 4, 4));
    let generation = json_of(&dir.path().join("generation_config.json"));
    assert_eq!(generation, json!({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}));
}

#[test]
fn the_type_in_the_config_is_the_type_in_the_file() {
    // Weights are written as f32: a folder that once was bf16 must not say so any more.
    let config = with(&small(), &json!({"dtype": "bfloat16", "torch_dtype": "bfloat16"}));
    let dir = TempDir::new().expect("a folder");
    save(dir.path(), &config, ModelKind::Causal, &some()).expect("written");
    let after = json_of(&dir.path().join("config.json"));
    assert_eq!(after["dtype"], json!("float32"));
    assert!(after.get("torch_dtype").is_none_or(|v| *v == json!("float32")), "{after}");
}
