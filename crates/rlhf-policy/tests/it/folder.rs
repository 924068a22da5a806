//! Hugging Face folders: what is saved is read back, what is wrong is named.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::error::Error;
use rlhf_policy::hf::{
    Checkpoint, FileType, INDEX_FILE, MODEL_FILE, Saving, TensorFile, deserialize, load_decoder, save,
    save_as, serialize,
};
use rlhf_policy::rope::{Rope, RopeScaling};
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
    load_decoder(dir, &DecoderConfig::load(dir)?, &devices()[0])
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
    let place = dir.path().join(MODEL_FILE);
    // The head is asked for first, and is not there.
    let with_a_head = with(&small(), &json!({"tie_word_embeddings": true}));
    fs::write(dir.path().join("config.json"), serde_json::to_string(with_a_head.raw()).expect("JSON"))
        .expect("written");
    assert_eq!(
        refused(dir.path()),
        format!(
            "tensor model.embed_tokens.weight: expected F32, BF16 or F16 in {}, found I64",
            place.display()
        )
    );
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
    let outside = r#"{"weight_map":{"a":"../model.safetensors"}}"#;
    let number = r#"{"weight_map":{"a":3}}"#;
    for (text, what) in [
        ("{}", "weight_map: expected"),
        (r#"{"weight_map":{}}"#, "weight_map: expected"),
        (r#"{"weight_map":[]}"#, "weight_map: expected"),
        ("[]", "weight_map: expected"),
        ("{", "EOF"),
        (outside, "weight_map.a: expected the name of a file in this folder, found \"../model.safetensors\""),
        (number, "weight_map.a: expected the name of a file in this folder, found 3"),
    ] {
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
    p.insert("lm_head.weight".to_owned(), p["model.embed_tokens.weight"].clone());
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
    assert!(found.contains("config.json: hidden_size: expected"), "{found}");
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
    let it = again.architecture();
    assert_eq!(it.ropes, [Rope::new(4, 5e5, RopeScaling::Default)]);
    assert_eq!((it.num_key_value_heads, it.head_dim), (4, 4));
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

/// A safetensors file with this header before so many bytes of data.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn a_header_that_lies_is_named_with_the_tensor_and_both_numbers() {
    let entry = |dtype: &str, shape: &str, begin: &str, end: &str| {
        format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
    };
    let one = |e: String| format!("{{\"a\":{e}}}");
    let two = |a: String, b: String| format!("{{\"a\":{a},\"b\":{b}}}");
    let f = |begin: &str, end: &str| entry("F32", "[2]", begin, end);
    let big = "18446744073709551615";
    let within = "tensor a: data_offsets: expected a range within the file's 8 bytes of data, found ";
    let cases = [
        (one(f("0", "9")), format!("{within}[0, 9]")),
        (one(f("8", "0")), format!("{within}[8, 0]")),
        (one(f("0", big)), format!("{within}[0, {big}]")),
        (one(f(big, big)), format!("{within}[{big}, {big}]")),
        (one(f("0", "4")), "tensor a: data_offsets: expected the bytes of F32 [2], found 4".into()),
        (one(entry("F16", "[2]", "0", "8")), "expected the bytes of F16 [2], found 8".into()),
        (
            one(entry("F32", "[4294967296,4294967296]", "0", "8")),
            "tensor a: shape: expected a size that fits the file, found [4294967296, 4294967296]".into(),
        ),
        (one(entry("F32", &format!("[{big}]"), "0", "8")), "expected the bytes of F32".into()),
        (one(entry("F32", "[-2]", "0", "8")), "header: expected a JSON object".into()),
        (one(entry("F32", "2", "0", "8")), "header: expected a JSON object".into()),
        (one(f("-1", "8")), "header: expected a JSON object".into()),
        (one("7".into()), "header: expected a JSON object".into()),
        ("[]".into(), "header: expected a JSON object".into()),
        ("".into(), "header: expected a JSON object".into()),
        ("{}".into(), "data: expected 0 bytes, found 8".into()),
        (
            two(entry("F16", "[2]", "0", "4"), entry("F16", "[2]", "2", "6")),
            "tensor b: data_offsets: expected to begin at 4, found 2".into(),
        ),
        (
            two(entry("F16", "[1]", "0", "2"), entry("F16", "[2]", "4", "8")),
            "tensor b: data_offsets: expected to begin at 2, found 4".into(),
        ),
        (
            two(entry("F16", "[1]", "0", "2"), entry("F16", "[1]", "2", "4")),
            "data: expected 4 bytes, found 8".into(),
        ),
        (format!("{{\"a\":{},\"a\":{}}}", f("0", "8"), f("0", "8")), "found the tensor a twice".into()),
    ];
    let dir = TempDir::new().expect("a folder");
    let path = dir.path().join(MODEL_FILE);
    for (header, what) in cases {
        let bytes = with_header(&header, 8);
        fs::write(&path, &bytes).expect("written");
        let found = TensorFile::open(&path).expect_err("refused").to_string();
        assert!(found.starts_with(&format!("{}: ", path.display())), "{header}: {found}");
        assert!(found.contains(&what), "{header}: {found}");
        assert!(deserialize(&bytes).is_err(), "{header}");
    }
    let mut right = with_header(&one(f("0", "8")), 8);
    fs::write(&path, &right).expect("written");
    assert_eq!(TensorFile::open(&path).expect("opens").floats("a").expect("f32"), [0.0; 2]);
    for length in [u64::MAX, 1 << 62, 100_000_001, 1 << 20] {
        right[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, &right).expect("written");
        let found = TensorFile::open(&path).expect_err("refused").to_string();
        assert!(found.contains("header length: expected at most "), "{found}");
        assert!(found.ends_with(&format!("found {length}")), "{found}");
    }
}

#[test]
fn a_type_without_floats_is_named_only_when_it_is_asked_for() {
    let dir = TempDir::new().expect("a folder");
    let path = dir.path().join(MODEL_FILE);
    for dtype in ["I64", "F8_E4M3", "F64", "BOOL", "Q4_0"] {
        let size = match dtype {
            "I64" | "F64" => 16,
            _ => 2,
        };
        let header = format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":[2],\"data_offsets\":[0,{size}]}}}}");
        fs::write(&path, with_header(&header, size)).expect("written");
        let file = TensorFile::open(&path).expect("opens");
        let found = file.floats("a").expect_err("refused").to_string();
        let expected = format!("tensor a: expected F32, BF16 or F16 in {}, found {dtype}", path.display());
        assert_eq!(found, expected);
    }
}

#[test]
fn an_index_that_contradicts_its_shards_is_named() {
    let (dir, _) = sharded();
    let index = dir.path().join(INDEX_FILE);
    let mut value = json_of(&index);
    let (name, first) = ("model.norm.weight", "model-00001-of-00002.safetensors");
    let other = if value["weight_map"][name] == first { "model-00002-of-00002.safetensors" } else { first };
    value["weight_map"][name] = json!(other);
    fs::write(&index, value.to_string()).expect("written");
    let what = format!("weight_map.{name}: expected a tensor of {other}, found none of this name");
    assert_eq!(refused(dir.path()), format!("{}: {what}", index.display()));
}

#[test]
fn a_tensor_in_two_shards_is_named_with_both() {
    let (dir, all) = sharded();
    let shards = [1, 2].map(|i| dir.path().join(format!("model-0000{i}-of-00002.safetensors")));
    fs::write(&shards[0], serialize(&all).expect("fits")).expect("written");
    let found = refused(dir.path());
    let second = deserialize(&fs::read(&shards[1]).expect("readable")).expect("f32");
    let name = second.keys().next().expect("one").clone();
    let [a, b] = shards.map(|path| path.display().to_string());
    assert!(found.contains(": expected one file that holds it, found two: "), "{found}");
    assert!(found.contains(&a) && found.contains(&b), "{found}");
    assert!(second.keys().any(|n| found.starts_with(&format!("tensor {n}: "))), "{found}, as {name}");
}

#[test]
fn a_later_save_leaves_no_weights_of_an_earlier_one() {
    let dir = TempDir::new().expect("a folder");
    let names = || -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(dir.path())
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|n| n.contains("safetensors"))
            .collect();
        all.sort();
        all
    };
    let write = |max_shard_size| {
        let how = Saving { dtype: FileType::F32, max_shard_size };
        save_as(dir.path(), &small(), ModelKind::Causal, &some(), &how).expect("written");
        assert_eq!(parameters(&load(dir.path()).expect("loads")), some());
    };
    write(u64::MAX);
    assert_eq!(names(), [MODEL_FILE]);
    write(8000);
    let many = names();
    assert!(many.len() > 3 && many.contains(&INDEX_FILE.to_owned()), "{many:?}");
    let index = json_of(&dir.path().join(INDEX_FILE));
    let bytes: usize = some().values().map(|t| 4 * t.data.len()).sum();
    assert_eq!(index["metadata"]["total_size"], json!(bytes));
    write(12_000);
    assert!(names().len() < many.len() && names().len() > 2, "{:?}", names());
    write(u64::MAX);
    assert_eq!(names(), [MODEL_FILE]);
}

#[test]
fn a_generation_config_is_kept_whole() {
    let dir = written(&some());
    let generation =
        json!({"eos_token_id": [1, 7], "temperature": 0.6, "do_sample": true, "my": {"key": [1]}});
    fs::write(dir.path().join("generation_config.json"), generation.to_string()).expect("written");
    let config = DecoderConfig::load(dir.path()).expect("valid");
    assert_eq!(config.eos_token_ids(), [1, 7]);
    // A change of the config leaves it in place.
    let config = config.with("rms_norm_eps", 1e-5).expect("valid");
    let copy = TempDir::new().expect("a folder");
    save(copy.path(), &config, ModelKind::Causal, &some()).expect("written");
    assert_eq!(json_of(&copy.path().join("generation_config.json")), generation);
    let path = dir.path().join("generation_config.json");
    for (text, what) in [
        (r#"{"eos_token_id":"</s>"}"#, "eos_token_id: expected a token id or a list of them, found \"</s>\""),
        (r#"{"eos_token_id":[1,2.5]}"#, "eos_token_id: expected a token id or a list of them, found [1,2.5]"),
        ("[]", "(file): expected a JSON object"),
    ] {
        fs::write(&path, text).expect("written");
        let found = DecoderConfig::load(dir.path()).expect_err("refused").to_string();
        assert!(found.starts_with(&format!("{}: {what}", path.display())), "{found}");
    }
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_line() {
    let dir = written(&some());
    for name in ["config.json", "generation_config.json"] {
        let path = dir.path().join(name);
        let before = fs::read(&path).expect("readable");
        fs::write(&path, b"{\n\"model_type\":\n\"\xff\"}").expect("written");
        let found = refused(dir.path());
        let expected = "line 3: expected UTF-8 text, found the byte 0xff";
        assert_eq!(found, format!("{}: {expected}", path.display()));
        fs::write(&path, before).expect("written");
    }
}

#[test]
fn labels_keep_their_names_where_there_are_as_many() {
    let names = json!({"0": "bad", "1": "good"});
    let of = json!({"bad": 0, "good": 1});
    let config = with(&small(), &json!({"id2label": names, "label2id": of}));
    let dir = TempDir::new().expect("a folder");
    let saved = |labels: usize| {
        save(dir.path(), &config, ModelKind::Classifier { labels }, &Parameters::new()).expect("written");
        json_of(&dir.path().join("config.json"))
    };
    assert_eq!((&saved(2)["id2label"], &saved(2)["label2id"]), (&names, &of));
    assert_eq!(saved(3)["id2label"], json!({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}));
}

#[test]
fn a_head_beside_tied_embeddings_must_be_the_embedding() {
    let config = with(&small(), &json!({"tie_word_embeddings": true}));
    let mut p = some();
    p.insert("lm_head.weight".to_owned(), p["model.embed_tokens.weight"].clone());
    let dir = TempDir::new().expect("a folder");
    save(dir.path(), &config, ModelKind::Causal, &p).expect("written");
    load(dir.path()).expect("the same numbers twice");
    p.get_mut("lm_head.weight").expect("there").data[3] += 1.0;
    save(dir.path(), &config, ModelKind::Causal, &p).expect("written");
    let error = refused(dir.path());
    assert!(
        error.starts_with("tensor lm_head.weight: expected the numbers of model.embed_tokens.weight"),
        "{error}"
    );
}
