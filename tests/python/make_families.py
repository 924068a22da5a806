#!/usr/bin/env python3
"""Writes crates/rlhf-policy/tests/it/families.json: what `transformers` says of tiny models of every family.

Weights are not in the file: entry i of the k-th tensor by name is a hash of k and i, computed alike here and
in the Rust test, so that the test needs nothing else.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

TOKENS = [3, 16, 5, 9, 9, 1, 12, 7, 4, 10]
NEW = 6
VOCABULARY = 17
LIKE_LLAMA = {
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "max_position_embeddings": 32,
}
LIKE_QWEN2 = {key: value for key, value in LIKE_LLAMA.items() if key != "head_dim"}
GPT2 = {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 32}
NEOX = {
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 32,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 2e5, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 3e3},
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 3}
# (family, labels or 0 for a language model, settings)
CASES = [
    ("llama", 0, {**LIKE_LLAMA, "attention_bias": True, "mlp_bias": True}),
    ("llama", 3, {**LIKE_LLAMA, "rope_parameters": LLAMA3, "num_key_value_heads": 3}),
    ("mistral", 0, {**LIKE_LLAMA, "sliding_window": 4, "tie_word_embeddings": True}),
    ("mistral", 1, {**LIKE_LLAMA, "sliding_window": None}),
    ("qwen2", 0, {**LIKE_QWEN2, "tie_word_embeddings": True}),
    ("qwen2", 3, {**LIKE_QWEN2, **WINDOWS, "max_window_layers": 1}),
    ("qwen3", 0, {**LIKE_LLAMA, **WINDOWS, "layer_types": ["sliding_attention", "full_attention"]}),
    ("qwen3", 1, {**LIKE_LLAMA, "attention_bias": True}),
    ("gpt2", 0, {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", 3, {**GPT2, "n_inner": 10, "activation_function": "gelu"}),
    ("gpt_neox", 0, {**NEOX, "rope_parameters": PARTIAL}),
    ("gpt_neox", 1, {**NEOX, "rope_parameters": PARTIAL, "use_parallel_residual": False, "attention_bias": False}),
    ("gemma2", 0, {**LIKE_LLAMA, "sliding_window": 4, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.5}),
    ("gemma2", 3, {**LIKE_LLAMA, "sliding_window": 3, "attn_logit_softcapping": None, "query_pre_attn_scalar": 9}),
    (
        "gemma3_text",
        0,
        {
            **LIKE_LLAMA,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": GEMMA3_ROPE,
        },
    ),
    ("gemma3_text", 1, {**LIKE_LLAMA, "sliding_window": 4, "final_logit_softcapping": 2.0}),
]
KEPT_OUT = ("transformers_version", "id2label", "label2id", "dtype", "architectures", "use_cache")


def noise(k, shape):
    """Numbers in [−½, ½) from a hash of the tensor's place and the entry's."""
    i = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    h = (np.uint64(k) * np.uint64(0x9E3779B1) + i * np.uint64(0x85EBCA77)) & mask
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(0xC2B2AE3D)) & mask
    h ^= h >> np.uint64(13)
    return (h.astype(np.float64) / 2**32 - 0.5).reshape(shape)


def on_disk(family, name):
    """The name in a file: transformers 5 calls GPT-NeoX's head otherwise in memory."""
    return "embed_out.weight" if family == "gpt_neox" and name == "lm_head.weight" else name


def is_gain(name, shape):
    return len(shape) == 1 and name.endswith(".weight")


def case(family, labels, settings):
    special = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    more = {"num_labels": labels} if labels else {}
    config = AutoConfig.for_model(family, **special, **settings, **more)
    model = (AutoModelForSequenceClassification if labels else AutoModelForCausalLM).from_config(config).eval()
    parameters = {on_disk(family, name): p for name, p in model.named_parameters()}
    tensors = sorted((name, list(p.shape)) for name, p in parameters.items())
    offset = family.startswith("gemma")
    for k, (name, shape) in enumerate(tensors):
        x = noise(k, shape)
        x = (0.0 if offset else 1.0) + 0.4 * x if is_gain(name, shape) else 0.9 * x
        with torch.no_grad():
            parameters[name].copy_(torch.tensor(x.astype(np.float32)))
    ids = torch.tensor([TOKENS])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
        rounded = [round(float(x), 6) for x in logits.flatten()]
        result = {"labels": labels, "logits": rounded}
        if not labels:
            whole = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW, pad_token_id=0
            )
            result["greedy"] = whole[0, len(TOKENS):].tolist()
    kept = {key: value for key, value in config.to_dict().items() if key not in KEPT_OUT}
    if labels:
        kept["num_labels"] = labels
    return {"config": {**kept, "architectures": [type(model).__name__]}, "tensors": tensors, **result}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[2] / "crates/rlhf-policy/tests/it/families.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    cases = [case(*c) for c in CASES]
    lines = ",\n".join(json.dumps(c, separators=(",", ":"), sort_keys=True) for c in cases)
    arguments.out.write_text(f'{{"tokens":{json.dumps(TOKENS)},"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
