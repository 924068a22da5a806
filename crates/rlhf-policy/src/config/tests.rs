use super::*;
use crate::rope::{Rope, RopeScaling};

fn text(change: &str) -> String {
    let base = r#""vocab_size":8,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,
        "num_attention_heads":2,"max_position_embeddings":8"#;
    format!("{{\"model_type\":\"llama\",{base}{change}}}")
}

#[test]
fn rotary_settings_of_both_generations_are_read() {
    let five = DecoderConfig::parse(&text(
        r#","rope_parameters":{"rope_type":"llama3","rope_theta":5e5,"factor":8,"low_freq_factor":1,
        "high_freq_factor":4,"original_max_position_embeddings":32}"#,
    ))
    .expect("valid");
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 32.0 };
    assert_eq!(five.architecture().ropes, [Rope::new(4, 5e5, llama3)]);
    let four =
        DecoderConfig::parse(&text(r#","rope_theta":1e6,"rope_scaling":{"type":"linear","factor":2}"#))
            .expect("valid");
    assert_eq!(four.architecture().ropes, [Rope::new(4, 1e6, RopeScaling::Linear { factor: 2.0 })]);
}

#[test]
fn what_the_decoder_lacks_is_named() {
    let error = |change: &str| DecoderConfig::parse(&text(change)).expect_err("refused").to_string();
    assert!(error(r#","hidden_act":"mish""#).contains("hidden_act: expected silu, gelu"));
    assert!(error(r#","num_key_value_heads":3"#).contains("a divisor of num_attention_heads = 2, found 3"));
    assert!(error(r#","rope_scaling":{"rope_type":"yarn"}"#).contains("found yarn"));
    assert!(error(r#","rope_scaling":{"rope_type":"linear"}"#).contains("rope_parameters.factor"));
}

#[test]
fn sizes_beyond_any_model_are_refused_and_named() {
    let error = |change: &str| DecoderConfig::parse(&text(change)).expect_err("refused").to_string();
    for key in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "head_dim",
        "max_position_embeddings",
    ] {
        for size in ["1000000000000", "9223372036854775808", "18446744073709551615"] {
            let found = error(&format!(",\"{key}\":{size},\"num_key_value_heads\":1"));
            assert!(found.starts_with("config.json: "), "{found}");
            assert!(found.contains("expected at most") || found.contains("a multiple of"), "{found}");
        }
        for wrong in ["-1", "0.5", "\"8\"", "[8]", "true", "1e30"] {
            let found = error(&format!(",\"{key}\":{wrong}"));
            assert_eq!(
                found,
                format!(
                    "config.json: {key}: expected a positive number, found {}",
                    serde_json::from_str::<Value>(wrong).expect("JSON")
                )
            );
        }
    }
    // Each alone would do; together they are 2^55 numbers.
    let found = error(",\"vocab_size\":2147483648,\"hidden_size\":16777216,\"head_dim\":2");
    assert!(found.contains("(sizes): expected at most 1099511627776 parameters"), "{found}");
}

#[test]
fn end_tokens_are_those_of_the_generation_config_where_it_has_any() {
    let config = |change: &str, generation: Option<&str>| {
        let mut config = DecoderConfig::parse(&text(change)).expect("valid");
        config.generation = generation.map(|text| GenerationConfig::parse(text).expect("valid"));
        (config.eos_token_ids(), config.pad_token_id())
    };
    let of_config = r#","eos_token_id":[2,3],"pad_token_id":-1"#;
    assert_eq!(config(of_config, None), (vec![2, 3], None));
    assert_eq!(config(of_config, Some(r#"{"eos_token_id":5,"pad_token_id":7}"#)), (vec![5], Some(7)));
    assert_eq!(config(of_config, Some(r#"{"eos_token_id":null}"#)), (vec![2, 3], None));
    assert_eq!(config("", Some("{}")), (vec![], None));
    let error = GenerationConfig::parse(r#"{"eos_token_id":"</s>"}"#).expect_err("refused").to_string();
    assert!(error.contains("eos_token_id: expected a token id or a list of them, found \"</s>\""), "{error}");
}

#[test]
fn defaults_that_differ_between_families_are_those_of_transformers() {
    let of = |family: &str, change: &str| {
        let sizes = r#""vocab_size":8,"hidden_size":64,"intermediate_size":8,"num_hidden_layers":1,
            "num_attention_heads":32,"max_position_embeddings":8"#;
        let text = format!("{{\"model_type\":\"{family}\",{sizes}{change}}}");
        let it = DecoderConfig::parse(&text).expect("valid").architecture().clone();
        (it.num_key_value_heads, it.head_dim)
    };
    assert_eq!(of("llama", ""), (32, 2));
    assert_eq!(of("mistral", ""), (8, 2));
    assert_eq!(of("qwen2", ""), (32, 2));
    assert_eq!(of("qwen3", ""), (32, 128));
    assert_eq!(of("gemma2", ""), (4, 256));
    assert_eq!(of("gemma3_text", ""), (4, 256));
    assert_eq!(of("mistral", r#","num_key_value_heads":null"#), (32, 2));
}

#[test]
fn labels_and_kind_are_read() {
    let kind = |change: &str| DecoderConfig::parse(&text(change)).expect("valid").kind();
    let class = r#","architectures":["LlamaForSequenceClassification"]"#;
    assert_eq!(kind(r#","architectures":["LlamaForCausalLM"]"#), ModelKind::Causal);
    assert_eq!(kind(""), ModelKind::Causal);
    assert_eq!(kind(class), ModelKind::Classifier { labels: 2 });
    assert_eq!(kind(&format!("{class},\"id2label\":{{\"0\":\"good\"}}")), ModelKind::REWARD);
    assert_eq!(kind(&format!("{class},\"num_labels\":3")), ModelKind::Classifier { labels: 3 });
}

#[test]
fn one_map_of_queries_keys_and_values_has_as_many_heads_of_each() {
    for (family, names) in
        [("gpt_neox", ["hidden_size", "num_attention_heads"]), ("gpt2", ["n_embd", "n_head"])]
    {
        let [width, heads] = names;
        let text = format!(
            "{{\"model_type\":\"{family}\",\"vocab_size\":8,\"{width}\":32,\"{heads}\":4,\"num_hidden_layers\":1,
            \"intermediate_size\":8,\"max_position_embeddings\":8,\"num_key_value_heads\":1,\"head_dim\":64}}"
        );
        let it = DecoderConfig::parse(&text).expect("valid").architecture().clone();
        assert_eq!((it.num_key_value_heads, it.head_dim), (4, 8), "{family}");
    }
}

#[test]
fn classes_of_other_models_and_quantised_weights_are_refused() {
    let error = |change: &str| DecoderConfig::parse(&text(change)).expect_err("refused").to_string();
    assert_eq!(
        error(r#","architectures":["FooForCausalLM"]"#),
        "config.json: architectures: expected LlamaForCausalLM or LlamaForSequenceClassification, \
         found \"FooForCausalLM\""
    );
    assert!(error(r#","architectures":["MistralForCausalLM"]"#).contains("expected LlamaForCausalLM"));
    assert!(error(r#","quantization_config":{"bits":4}"#).contains("quantization_config: expected none"));
    for class in ["LlamaForCausalLM", "LlamaModel", "LlamaForSequenceClassification"] {
        DecoderConfig::parse(&text(&format!(",\"architectures\":[\"{class}\"]"))).expect("known");
    }
}

#[test]
fn gemma_3_caps_logits_and_never_scores() {
    let json = r#"{"model_type":"gemma3_text","vocab_size":8,"hidden_size":8,"intermediate_size":8,
        "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,
        "max_position_embeddings":8,"attn_logit_softcapping":5.0,"final_logit_softcapping":3.0}"#;
    let config = DecoderConfig::parse(json).expect("valid");
    assert_eq!(config.architecture().attention_softcap, None);
    assert_eq!(config.architecture().logit_softcap, Some(3.0));
}
