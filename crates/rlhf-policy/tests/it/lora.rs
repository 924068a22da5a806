//! Adapters: trained alone, folded in, taken off, written, read, and refused where they do not fit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::tensor::{Device, TensorData};
use rlhf_core::host::sampling::Sampling;
use rlhf_core::rng::stream;
use rlhf_policy::batch::Sequence;
use rlhf_policy::classifier::Classifier;
use rlhf_policy::config::{DecoderConfig, ModelKind};
use rlhf_policy::decoder::Decoder;
use rlhf_policy::generate::{Generation, generate};
use rlhf_policy::hf::{self, deserialize, serialize};
use rlhf_policy::lora::{InitWeights, LoraConfig, Targets, Task};
use rlhf_policy::optim::{AdamW, AdamWConfig};
use rlhf_policy::sft;
use rlhf_policy::weights::{
    HostTensor, parameters, replaced, replaced_trainable, scratch, trainable_parameters,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{classifier, close, decoder, devices, logits, plain, rows, small, with};

type Parameters = BTreeMap<String, HostTensor>;

/// Adapters of rank 2 with scale 1.5 that change the model from the start.
fn moved(names: &[&str]) -> LoraConfig {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    LoraConfig { init_lora_weights: InitWeights::Random, ..LoraConfig::new(2, 3.0, Targets::Names(names)) }
}

fn config(text: &str) -> DecoderConfig {
    DecoderConfig::parse(text).expect("valid")
}

/// A family's name, a tiny config of it, and what an adapter may stand beside.
fn families() -> Vec<(&'static str, DecoderConfig, Vec<&'static str>)> {
    let gpt2 = r#"{"model_type":"gpt2","vocab_size":32,"n_embd":16,"n_head":4,"n_layer":2,"n_positions":64,
        "initializer_range":0.2}"#;
    let neox = r#"{"model_type":"gpt_neox","vocab_size":32,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":2,"num_attention_heads":2,"max_position_embeddings":64,"rotary_pct":0.5,
        "initializer_range":0.2}"#;
    let gemma = r#"{"model_type":"gemma2","vocab_size":32,"hidden_size":16,"intermediate_size":24,"head_dim":8,
        "num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":64,
        "query_pre_attn_scalar":8,"sliding_window":4,"initializer_range":0.2}"#;
    let all = vec!["q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"];
    vec![
        ("llama", small(), all.clone()),
        ("llama_tied", with(&small(), &json!({"tie_word_embeddings": true})), all.clone()),
        ("gpt2", config(gpt2), vec!["c_attn", "c_proj", "wte", "wpe", "lm_head"]),
        ("gpt_neox", config(neox), vec!["query_key_value", "dense", "embed_in", "lm_head"]),
        ("gemma2", config(gemma), vec!["q_proj", "gate_proj", "embed_tokens"]),
    ]
}

fn all_logits(model: &Decoder) -> Vec<f64> {
    let device = model.device();
    let rows = rows(4, 32, &[9, 5]);
    rows.iter().flat_map(|row| logits(model, row, &device)).flatten().collect()
}

fn greedy(model: &Decoder) -> Vec<Vec<u32>> {
    let sampling = Sampling { temperature: 0.0, ..Sampling::plain() };
    let how = Generation { sampling, context_length: 64, ..plain(1, 12) };
    let random = |p: usize, s: usize| stream(0, "greedy", p as u64, s as u64);
    let rollouts = generate(model, &rows(6, 32, &[5, 3]), &how, &random, &model.device()).expect("finite");
    rollouts.into_iter().map(|r| r.tokens).collect()
}

/// Asserts that no logit differs by more than 1e-5 of the largest.
#[track_caller]
fn same(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (f, e) in found.iter().zip(expected) {
        close(what, f / most, e / most, 1e-5);
    }
}

fn window() -> Vec<Sequence> {
    rows(8, 32, &[7, 4, 9]).iter().map(|row| Sequence::new(&row[..2], &row[2..])).collect()
}

fn stepped(policy: Decoder, optim: &mut AdamW, n: usize) -> Decoder {
    let all = window();
    let all: Vec<&Sequence> = all.iter().collect();
    (0..n).fold(policy, |policy, _| {
        let (grads, _) = sft::gradients(&policy, &all, 2, 0);
        optim.step(0.02, policy, grads).0
    })
}

#[test]
fn folded_adapters_equal_adapters_beside_the_map_in_every_family() {
    for (name, config, targets) in families() {
        let base = decoder(&config, 1, &devices()[0]);
        let linear = LoraConfig { target_modules: Targets::AllLinear, use_rslora: true, ..moved(&[]) };
        let tied = LoraConfig { ensure_weight_tying: true, ..moved(&targets) };
        for lora in [moved(&targets), linear, tied] {
            let policy = base.with_adapters(&config, &lora, 2).expect("fits");
            let found = all_logits(&policy);
            let merged = policy.merged(&config).expect("folds");
            same(name, &all_logits(&merged.model), &found);
            let change = found.iter().zip(all_logits(&base)).map(|(a, b)| (a - b).abs());
            assert!(change.fold(0.0, f64::max) > 0.05, "{name}: the adapters change something");
            assert_eq!(all_logits(&policy.without_adapters()), all_logits(&base), "{name}: and come off");
            assert_eq!(greedy(&policy), greedy(&merged.model), "{name}: decoding uses them too");
            // A merged model is a plain one: a new model from its config takes all its parameters.
            let again = decoder(&merged.config, 9, &devices()[0]);
            let again = replaced(again, &parameters(&merged.model)).expect("the same parameters");
            assert_eq!(all_logits(&again), all_logits(&merged.model), "{name}");
        }
    }
}

#[test]
fn a_tied_head_follows_only_where_it_is_told_to() {
    let config = with(&small(), &json!({"tie_word_embeddings": true}));
    let base = decoder(&config, 1, &devices()[0]);
    let separate = moved(&["embed_tokens"]);
    let shared = LoraConfig { ensure_weight_tying: true, ..separate.clone() };
    let [a, b] = [separate, shared].map(|lora| base.with_adapters(&config, &lora, 2).expect("fits"));
    let [a, b] = [a, b].map(|policy| policy.merged(&config).expect("folds"));
    assert!(a.model.lm_head.is_some() && !a.config.raw()["tie_word_embeddings"].as_bool().expect("a flag"));
    assert!(b.model.lm_head.is_none() && b.config == config);
    let (head, table) =
        (&parameters(&a.model)["lm_head.weight"], &parameters(&base)["model.embed_tokens.weight"]);
    assert_eq!(head, table, "the head of the one is the base's");
}

#[test]
fn gradients_and_steps_touch_adapters_alone() {
    for (name, config, targets) in families() {
        let base = decoder(&config, 1, &Device::flex().autodiff());
        let policy = base.with_adapters(&config, &moved(&targets), 2).expect("fits");
        let all = window();
        let all: Vec<&Sequence> = all.iter().collect();
        let (grads, _) = sft::gradients(&policy, &all, 2, 0);
        let trainable = trainable_parameters(&policy);
        assert_eq!(grads.names().collect::<Vec<_>>(), trainable.keys().collect::<Vec<_>>(), "{name}");
        assert!(grads.names().all(|n| n.contains(".lora.") || n.contains(".head.")), "{name}");
        let before = parameters(&policy);
        let policy = stepped(policy, &mut AdamW::new(AdamWConfig::torch()), 1);
        for (n, tensor) in parameters(&policy) {
            assert_eq!(before[&n] == tensor, !trainable.contains_key(&n), "{name}: {n}");
        }
        let reference = policy.without_adapters();
        assert_eq!(parameters(&reference), parameters(&base), "{name}: the reference is the base");
        assert!(trainable_parameters(&reference).is_empty());
    }
}

#[test]
fn policy_and_reference_lie_in_the_same_memory() {
    let (config, device) = (small(), Device::flex().autodiff());
    // Flex keeps the very bytes it is given, and gives them back where nobody else holds them.
    let mut seen = None;
    let mut random = scratch(1, &config);
    let mut source = |name: &str, shape: &[usize]| {
        let data = random(name, shape)?;
        if name == "model.embed_tokens.weight" {
            seen = Some(data.as_ptr().addr());
        }
        Ok(data)
    };
    let mut base = Decoder::build(&config, &mut source, &device).expect("built");
    let map = vec![0.5f32; 16 * 24];
    let at = map.as_ptr().addr();
    base.model.layers[0].mlp.up_proj.weight = Param::from_data(TensorData::new(map, [16, 24]), &device);
    let policy = base.with_adapters(&config, &moved(&["up_proj", "embed_tokens"]), 2).expect("fits");
    drop(base);
    let policy = stepped(policy, &mut AdamW::new(AdamWConfig::torch()), 2);
    let model = policy.without_adapters().valid().model;
    // With the policy gone the reference alone holds the tensors: it has them where the base had them.
    drop(policy);
    let address =
        |weight: Param<burn::tensor::Tensor<2>>| weight.into_value().into_data().as_bytes().as_ptr().addr();
    assert_eq!(Some(address(model.embed_tokens.weight)), seen);
    let first = model.layers.into_iter().next().expect("a block");
    assert_eq!(address(first.mlp.up_proj.weight), at);
}

#[test]
fn fresh_adapters_change_nothing_and_come_from_seed_and_name() {
    let config = small();
    let base = decoder(&config, 1, &devices()[0]);
    for init in [InitWeights::Standard, InitWeights::Gaussian] {
        let names = Targets::Names(["q_proj", "embed_tokens", "lm_head"].map(str::to_owned).to_vec());
        let lora = LoraConfig { init_lora_weights: init, ..LoraConfig::new(4, 8.0, names) };
        let policy = base.with_adapters(&config, &lora, 7).expect("fits");
        assert_eq!(all_logits(&policy), all_logits(&base));
        let p = parameters(&policy);
        let name = |part: &str| format!("model.layers.1.self_attn.q_proj.lora.{part}");
        let (a, b) = (&p[&name("a")], &p[&name("b")]);
        assert_eq!((&a.shape, &b.shape), (&vec![4, 16], &vec![16, 4]));
        assert!(b.data.iter().all(|x| x.to_bits() == 0) && a.data.iter().any(|x| x.abs() > 0.1));
        // Kaiming's bound is 1/√16; the other kind is normal and leaves it.
        let inside = a.data.iter().all(|x| x.abs() <= 0.25);
        assert_eq!(inside, init == InitWeights::Standard);
        let table = &p["model.embed_tokens.lora.a"];
        assert!(table.data.iter().all(|x| x.to_bits() == 0) && table.shape == [4, 32]);
        assert!(p["model.embed_tokens.lora.b"].data.iter().any(|x| x.abs() > 1.0));
        // Another target beside it leaves an adapter as it was.
        let alone =
            base.with_adapters(&config, &LoraConfig { target_modules: Targets::AllLinear, ..lora }, 7);
        assert_eq!(&parameters(&alone.expect("fits"))[&name("a")], a);
    }
}

#[test]
fn names_are_matched_as_peft_does() {
    let config = families().remove(2).1;
    let base = decoder(&config, 1, &devices()[0]);
    let adapted = |lora: &LoraConfig| -> Vec<(String, usize)> {
        let p = parameters(&base.with_adapters(&config, lora, 1).expect("fits"));
        let a = p.into_iter().filter(|(name, _)| name.ends_with("lora.a"));
        a.map(|(name, t)| (name.trim_end_matches(".lora.a").replace("model.layers.", ""), t.shape[0]))
            .collect()
    };
    let ranked = |all: &[(&str, usize)]| -> Vec<(String, usize)> {
        all.iter().map(|(name, r)| ((*name).to_owned(), *r)).collect()
    };
    // c_proj names a map of attention and one of the feed-forward part.
    let lora =
        LoraConfig { layers_to_transform: Some(vec![1]), ..moved(&["c_proj", "transformer.h.0.mlp.c_fc"]) };
    let expected = [("0.mlp.up_proj", 2), ("1.mlp.down_proj", 2), ("1.self_attn.o_proj", 2)];
    assert_eq!(adapted(&lora), ranked(&expected));
    let pattern = [("mlp.c_proj", 5), ("^transformer.h.0.attn.c_proj", 3)];
    let rank_pattern = pattern.map(|(name, r)| (name.to_owned(), r)).into();
    let lora =
        LoraConfig { rank_pattern, exclude_modules: vec!["h.1.mlp.c_proj".into()], ..moved(&["c_proj"]) };
    let expected = [("0.mlp.down_proj", 5), ("0.self_attn.o_proj", 3), ("1.self_attn.o_proj", 2)];
    assert_eq!(adapted(&lora), ranked(&expected));
    let alpha_pattern = [("c_fc".to_owned(), 10.0)].into();
    let lora = LoraConfig { use_rslora: true, alpha_pattern, ..moved(&["c_fc", "c_attn"]) };
    let block = &base.with_adapters(&config, &lora, 1).expect("fits").model.layers[0];
    let scale = |p: &rlhf_policy::projection::Projection| p.lora.as_ref().expect("adapted").scale;
    close("α/√r of the pattern", scale(&block.mlp.up_proj), 10.0 / 2f64.sqrt(), 1e-12);
    close("α/√r", scale(block.self_attn.qkv_proj.as_ref().expect("one map")), 3.0 / 2f64.sqrt(), 1e-12);
}

/// Writes base, adapter and the two as one where `tests/python/check_peft.py` looks for them.
fn written(name: &str, base: &Decoder, config: &DecoderConfig, lora: &LoraConfig) -> (PathBuf, Decoder) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adapters").join(name);
    hf::save(&dir.join("base"), config, ModelKind::Causal, &parameters(base)).expect("written");
    let policy = base.with_adapters(config, lora, 3).expect("fits");
    let lora = LoraConfig { base_model_name_or_path: Some("../base".into()), ..lora.clone() };
    policy.save_adapter(&dir.join("adapter"), config, &lora).expect("written");
    let merged = policy.merged(config).expect("folds");
    hf::save(&dir.join("merged"), &merged.config, ModelKind::Causal, &parameters(&merged.model))
        .expect("written");
    (dir.join("adapter"), policy)
}

#[test]
fn saved_adapters_load_to_the_bit() {
    for (name, config, targets) in families() {
        let base = decoder(&config, 1, &devices()[0]);
        let tied = LoraConfig { ensure_weight_tying: true, ..moved(&targets) };
        let patterns = LoraConfig {
            rank_pattern: [(targets[0].to_owned(), 5)].into(),
            alpha_pattern: [(targets[1].to_owned(), 0.5)].into(),
            layers_to_transform: Some(vec![1]),
            use_rslora: true,
            ..moved(&targets[..2])
        };
        let linear = LoraConfig { target_modules: Targets::AllLinear, ..moved(&[]) };
        for (kind, lora) in
            [("names", moved(&targets)), ("tied", tied), ("patterns", patterns), ("linear", linear)]
        {
            let (dir, policy) = written(&format!("{name}_{kind}"), &base, &config, &lora);
            let back = Decoder::load_with_adapter(&dir, None, &devices()[0]).expect("reads");
            assert_eq!(parameters(&back.model), parameters(&policy), "{name} {kind}");
            assert_eq!(all_logits(&back.model), all_logits(&policy), "{name} {kind}");
        }
    }
}

#[test]
fn maps_trained_as_a_whole_are_saved_and_come_off() {
    let (config, device) = (small(), Device::flex().autodiff());
    let base = decoder(&config, 1, &device);
    let lora =
        LoraConfig { modules_to_save: vec!["lm_head".into(), "embed_tokens".into()], ..moved(&["q_proj"]) };
    let policy = base.with_adapters(&config, &lora, 2).expect("fits");
    let policy = stepped(policy, &mut AdamW::new(AdamWConfig::torch()), 2);
    let names: Vec<String> =
        trainable_parameters(&policy).into_keys().filter(|n| !n.contains(".lora.")).collect();
    assert_eq!(names, ["lm_head.weight", "model.embed_tokens.weight"]);
    assert_eq!(all_logits(&policy.without_adapters()), all_logits(&base));
    let dir = TempDir::new().expect("a folder");
    policy.save_adapter(dir.path(), &config, &lora).expect("written");
    let back = base.load_adapter(dir.path(), &config).expect("reads");
    assert_eq!(parameters(&back.model), parameters(&policy));
    let merged = policy.merged(&config).expect("folds").model;
    assert_eq!(parameters(&merged)["lm_head.weight"], parameters(&policy)["lm_head.weight"]);
    assert!(!parameters(&merged).keys().any(|name| name.contains(".base.")));
    // A tied table cannot be trained alone: the head would go with it, which PEFT does not do.
    let tied = with(&config, &json!({"tie_word_embeddings": true}));
    let refused = decoder(&tied, 1, &device).with_adapters(&tied, &lora, 2).expect_err("refused").to_string();
    assert!(refused.contains("modules_to_save") && refused.contains("ensure_weight_tying"), "{refused}");
    let lora = LoraConfig { ensure_weight_tying: true, ..lora };
    let policy = decoder(&tied, 1, &device).with_adapters(&tied, &lora, 2).expect("fits");
    assert!(trainable_parameters(&policy).contains_key("model.embed_tokens.weight"));
}

#[test]
fn a_classifiers_head_travels_with_its_adapter() {
    let (config, device) = (small(), Device::flex().autodiff());
    let base = classifier(&config, 1, &device);
    let lora = moved(&["q_proj", "up_proj"]);
    let policy = base.with_adapters(&config, &lora, 2).expect("fits");
    assert!(trainable_parameters(&policy).contains_key("score.weight"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adapters/classifier");
    // The base may be a language model, which has no such head.
    let language = decoder(&config, 1, &device);
    hf::save(&dir.join("base"), &config, ModelKind::Causal, &parameters(&language)).expect("written");
    let named = LoraConfig { base_model_name_or_path: Some("../base".into()), ..lora };
    policy.save_adapter(&dir.join("adapter"), &config, &named).expect("written");
    let written = LoraConfig::load(&dir.join("adapter")).expect("reads");
    assert_eq!((written.task_type, written.modules_to_save.len()), (Some(Task::Classifier), 2));
    let back = Classifier::load_with_adapter(&dir.join("adapter"), None, &devices()[0]).expect("reads");
    assert_eq!(parameters(&back.model), parameters(&policy));
    let (rows, merged) = (rows(5, 32, &[6, 9]), back.model.merged(&config).expect("folds").model);
    let (a, b) = (back.model.score_rows(&rows, 0, 4), merged.score_rows(&rows, 0, 4));
    a.iter().zip(&b).for_each(|(a, b)| close("score", *a, *b, 1e-5));
    let refused = Decoder::load_with_adapter(&dir.join("adapter"), None, &devices()[0]).expect_err("refused");
    assert!(refused.to_string().ends_with("task_type: expected CAUSAL_LM, found SEQ_CLS"), "{refused}");
}

#[test]
fn a_run_goes_on_from_adapters_and_moments_alone() {
    let (config, device) = (small(), Device::flex().autodiff());
    let base = decoder(&config, 1, &device);
    let lora = LoraConfig::new(2, 4.0, Targets::AllLinear);
    let fresh = || base.with_adapters(&config, &lora, 2).expect("fits");
    let how = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::torch() };
    let whole = stepped(fresh(), &mut AdamW::new(how), 4);
    let mut optim = AdamW::new(how);
    let half = stepped(fresh(), &mut optim, 2);
    let (bytes, state) = (serialize(&trainable_parameters(&half)).expect("fits"), optim.state());
    drop(half);
    let n: usize = deserialize(&bytes).expect("reads").values().map(|t| t.data.len()).sum();
    assert_eq!(n, 2 * 2 * (2 * 32 + 2 * 24 + 3 * 40), "two blocks, rank two, four maps and three");
    let resumed = replaced_trainable(fresh(), &deserialize(&bytes).expect("reads")).expect("the same");
    let resumed = stepped(resumed, &mut AdamW::restored(how, &state, &devices()[0]), 2);
    assert_eq!(parameters(&resumed), parameters(&whole));
    let missing = replaced_trainable(fresh(), &Parameters::new()).expect_err("refused").to_string();
    assert!(missing.contains(".lora.a: expected") && missing.ends_with("found nothing"), "{missing}");
}

#[test]
fn settings_survive_and_those_not_known_here_are_named() {
    let text = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 7, "target_modules": ["q_proj"], "bias": "none",
        "my_key": [1, null], "megatron_core": "megatron.core", "lora_dropout": 0.05, "use_dora": null});
    let config = LoraConfig::parse(&text.to_string()).expect("valid");
    let back: Value = serde_json::to_value(&config).expect("JSON");
    for key in ["r", "lora_alpha", "target_modules", "my_key", "megatron_core", "lora_dropout", "bias"] {
        assert_eq!(back[key], text[key], "{key}");
    }
    assert_eq!(serde_json::from_value::<LoraConfig>(back).expect("valid"), config);
    let base = decoder(&small(), 1, &devices()[0]);
    let refused = base.with_adapters(&small(), &config, 1).expect_err("refused").to_string();
    assert!(refused.contains("lora_dropout: expected 0"), "{refused}");
    let dora = LoraConfig { use_dora: true, ..moved(&["q_proj"]) };
    let refused = base.with_adapters(&small(), &dora, 1).expect_err("refused").to_string();
    assert!(
        refused.contains("use_dora: expected false (DoRA is read and folded in, not trained)"),
        "{refused}"
    );
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!(1e9)),
        ("peft_type", json!("IA3")),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("target_modules", json!(".*q_proj")),
        ("target_modules", Value::Null),
        ("init_lora_weights", json!("pissa")),
        ("layers_pattern", json!("h")),
        ("layer_replication", json!([[0, 1]])),
        ("target_parameters", json!(["a"])),
        ("trainable_token_indices", json!([1])),
        ("exclude_modules", json!("q.*")),
        ("rank_pattern", json!({"q_proj": 0})),
        ("alpha_pattern", json!({"q.*": 1})),
        ("task_type", json!("SEQ_2_SEQ_LM")),
        ("use_qalora", json!(true)),
    ] {
        let mut changed = text.clone();
        changed[key] = value;
        let found = LoraConfig::parse(&changed.to_string()).expect_err(key).to_string();
        assert!(found.starts_with("adapter_config.json: ") && found.contains(key), "{key}: {found}");
        assert!(found.contains("expected ") && found.contains("found "), "{key}: {found}");
    }
}

#[test]
fn a_head_under_its_old_name_is_read() {
    // GPT-NeoX's head was a module `embed_out` before it was `lm_head`.
    let (_, config, _) = families().remove(3);
    let base = decoder(&config, 1, &devices()[0]);
    let policy = base.with_adapters(&config, &moved(&["lm_head", "dense"]), 2).expect("fits");
    let dir = TempDir::new().expect("a folder");
    policy.save_adapter(dir.path(), &config, &moved(&["lm_head", "dense"])).expect("written");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let bytes = fs::read(dir.path().join(file)).expect("readable");
        let old = if file.ends_with("json") {
            String::from_utf8(bytes).expect("text").replace("lm_head", "embed_out").into_bytes()
        } else {
            let all = deserialize(&bytes).expect("reads");
            let renamed: Parameters =
                all.into_iter().map(|(name, t)| (name.replace("lm_head", "embed_out"), t)).collect();
            serialize(&renamed).expect("fits")
        };
        fs::write(dir.path().join(file), old).expect("written");
    }
    let back = base.load_adapter(dir.path(), &config).expect("reads");
    assert_eq!(parameters(&back.model), parameters(&policy));
    assert!(back.model.save_adapter(dir.path(), &config, &back.lora).is_ok(), "and written anew");
}

#[test]
fn settings_that_fit_nothing_are_named() {
    let (config, lora) = (small(), moved(&["q_proj", "lm_head"]));
    let base = decoder(&config, 1, &devices()[0]);
    let refused = |lora: &LoraConfig| base.with_adapters(&config, lora, 1).expect_err("refused").to_string();
    let found = refused(&moved(&["q_proj", "c_attn"]));
    assert!(
        found.contains("target_modules: expected names of linear maps") && found.ends_with("found c_attn")
    );
    assert!(refused(&LoraConfig { r: 0, ..lora.clone() }).contains("r: expected 1 to 65536, found 0"));
    let saves = LoraConfig { modules_to_save: vec!["norm".into()], ..lora.clone() };
    assert!(refused(&saves).contains("modules_to_save") && refused(&saves).ends_with("found norm"));
    let policy = base.with_adapters(&config, &lora, 1).expect("fits");
    assert!(policy.with_adapters(&config, &lora, 1).is_err(), "one adapter at a time");
    let other = LoraConfig { r: 4, ..lora.clone() };
    let dir = TempDir::new().expect("a folder");
    let found = policy.save_adapter(dir.path(), &config, &other).expect_err("refused").to_string();
    assert!(found.contains("lm_head") || found.contains("q_proj"), "{found}");
}

#[test]
fn tensors_that_do_not_fit_are_named_with_their_file() {
    let (config, lora, dir) = (small(), moved(&["q_proj", "lm_head"]), TempDir::new().expect("a folder"));
    let base = decoder(&config, 1, &devices()[0]);
    let policy = base.with_adapters(&config, &lora, 1).expect("fits");
    policy.save_adapter(dir.path(), &config, &lora).expect("written");
    let path = dir.path().join("adapter_model.safetensors");
    let whole = fs::read(&path).expect("readable");
    let tensors = deserialize(&whole).expect("reads");
    let error = |tensors: &Parameters| {
        fs::write(&path, serialize(tensors).expect("fits")).expect("written");
        base.load_adapter(dir.path(), &config).expect_err("refused").to_string()
    };
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
    let changed = |tensor: Option<HostTensor>| {
        let mut all = tensors.clone();
        all.remove(name);
        all.extend(tensor.map(|t| (name.to_owned(), t)));
        error(&all)
    };
    let place = path.display();
    assert_eq!(changed(None), format!("tensor {name}: expected [16, 2] in {place}, found nothing"));
    let wide = HostTensor { shape: vec![16, 3], data: vec![0.0; 48] };
    assert_eq!(
        changed(Some(wide.clone())),
        format!("tensor {name}: expected [16, 2] in {place}, found [16, 3]")
    );
    let mut more = tensors.clone();
    more.insert(name.replace("q_proj", "k_proj"), wide);
    let found = error(&more);
    assert!(found.contains("k_proj.lora_B.weight: expected a tensor of the adapters"), "{found}");
    // PEFT's copy of a frozen weight tells one base from another.
    let mut more = tensors.clone();
    let frozen = parameters(&base)["lm_head.weight"].clone();
    more.insert("base_model.model.lm_head.base_layer.weight".into(), frozen);
    fs::write(&path, serialize(&more).expect("fits")).expect("written");
    assert!(base.load_adapter(dir.path(), &config).is_ok());
    let stranger = decoder(&config, 5, &devices()[0]).load_adapter(dir.path(), &config).expect_err("another");
    assert!(stranger.to_string().contains("an adapter of another base"), "{stranger}");
    for cut in [0, 7, 9, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("written");
        let found = base.load_adapter(dir.path(), &config).expect_err("refused").to_string();
        assert!(found.starts_with(&format!("{place}: ")), "cut at {cut}: {found}");
    }
    fs::remove_file(&path).expect("there");
    assert!(
        base.load_adapter(dir.path(), &config).expect_err("none").to_string().starts_with(&place.to_string())
    );
    let nowhere = Decoder::load_with_adapter(dir.path(), None, &devices()[0]).expect_err("none").to_string();
    assert!(
        nowhere.contains("adapter_config.json: base_model_name_or_path: expected the folder"),
        "{nowhere}"
    );
}
