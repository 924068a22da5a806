use super::*;

#[test]
fn names_on_disk_and_inside_are_inverse() {
    let inner = [
        "model.embed_tokens.weight",
        "model.layers.11.input_layernorm.weight",
        "model.layers.11.self_attn.o_proj.weight",
        "model.layers.11.post_attention_layernorm.weight",
        "model.layers.11.mlp.up_proj.bias",
        "model.layers.11.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
        "score.weight",
    ];
    for family in Family::ALL {
        for name in inner {
            assert_eq!(family.inner_name(&family.disk_name(name)), name, "{family:?}");
        }
    }
}

#[test]
fn names_on_disk_are_those_of_transformers() {
    let cases = [
        (Family::Gpt2, "model.layers.3.self_attn.qkv_proj.weight", "transformer.h.3.attn.c_attn.weight"),
        (Family::Gpt2, "model.layers.3.self_attn.o_proj.bias", "transformer.h.3.attn.c_proj.bias"),
        (Family::Gpt2, "model.layers.3.mlp.down_proj.weight", "transformer.h.3.mlp.c_proj.weight"),
        (Family::Gpt2, "model.layers.3.post_attention_layernorm.bias", "transformer.h.3.ln_2.bias"),
        (Family::Gpt2, "model.embed_positions.weight", "transformer.wpe.weight"),
        (Family::Gpt2, "model.norm.weight", "transformer.ln_f.weight"),
        (
            Family::GptNeox,
            "model.layers.0.self_attn.qkv_proj.weight",
            "gpt_neox.layers.0.attention.query_key_value.weight",
        ),
        (Family::GptNeox, "model.layers.0.mlp.up_proj.bias", "gpt_neox.layers.0.mlp.dense_h_to_4h.bias"),
        (Family::GptNeox, "lm_head.weight", "embed_out.weight"),
        (Family::GptNeox, "model.norm.bias", "gpt_neox.final_layer_norm.bias"),
        (Family::Gemma3, "model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
    ];
    for (family, inner, disk) in cases {
        assert_eq!(family.disk_name(inner), disk);
        assert_eq!(family.inner_name(disk), inner);
    }
}

#[test]
fn only_gpt2_turns_its_maps() {
    assert!(Family::Gpt2.is_turned("model.layers.0.mlp.up_proj.weight"));
    assert!(!Family::Gpt2.is_turned("lm_head.weight"));
    assert!(!Family::Gpt2.is_turned("model.embed_tokens.weight"));
    assert!(!Family::GptNeox.is_turned("model.layers.0.mlp.up_proj.weight"));
}
