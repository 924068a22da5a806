#!/usr/bin/env python3
"""Random model folders of every family, as `transformers` saves them, for `check_load.py`.

Two or more configurations a family, with sizes and settings that real models have between them: grouped
queries 3:1, heads of another width than hidden / heads, tied and untied heads, biases, stretched rotary
positions, windows shorter than a row, partial rotation, sequential and parallel residuals, soft caps on and
off, lists of layer types, config keys of `transformers` 4; classifiers with one and with three labels;
weights as f32, bf16 and f16, in one file and in shards.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

VOCABULARY = 301
TEXT = ["the food is good and cheap", "friendly, near the river", "the river is near, the food is cheap"] * 3

# Sizes of the Llama-like families: three query heads share a key, and a head is wider than 60 / 6.
LIKE_LLAMA = {
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 14,
    "max_position_embeddings": 96,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}

# Qwen 2 has no key for the width of a head.
LIKE_QWEN2 = {key: value for key, value in LIKE_LLAMA.items() if key != "head_dim"}

# name: (model_type, settings, type on disk, largest shard, change of config.json or None)
MODELS = {
    "llama-biased": ("llama", {**LIKE_LLAMA, "attention_bias": True, "mlp_bias": True}, "float32", None, None),
    "llama-stretched": (
        "llama",
        {**LIKE_LLAMA, "num_key_value_heads": 1, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
        "bfloat16",
        None,
        None,
    ),
    "llama-linear": (
        "llama",
        {**LIKE_LLAMA, "head_dim": 10, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
        "float32",
        "40KB",
        "rope_of_4",
    ),
    "mistral-window": ("mistral", {**LIKE_LLAMA, "sliding_window": 5, "rms_norm_eps": 1e-5}, "float32", None, None),
    "mistral-plain": (
        "mistral",
        {**LIKE_LLAMA, "sliding_window": None, "tie_word_embeddings": True, "num_key_value_heads": 6},
        "float16",
        "30KB",
        None,
    ),
    "qwen2-window": (
        "qwen2",
        {**LIKE_QWEN2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        "float32",
        None,
        None,
    ),
    "qwen2-tied": (
        "qwen2",
        {**LIKE_QWEN2, "tie_word_embeddings": True, "num_key_value_heads": 3},
        "bfloat16",
        "30KB",
        None,
    ),
    "qwen3-types": (
        "qwen3",
        {
            **LIKE_LLAMA,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
        "float32",
        None,
        None,
    ),
    "qwen3-tied": ("qwen3", {**LIKE_LLAMA, "tie_word_embeddings": True, "head_dim": 22}, "bfloat16", None, None),
    "gpt2-by-layer": (
        "gpt2",
        {"n_embd": 60, "n_layer": 3, "n_head": 6, "n_inner": 50, "n_positions": 96, "scale_attn_by_inverse_layer_idx": True},
        "float32",
        None,
        None,
    ),
    "gpt2-untied": (
        "gpt2",
        {
            "n_embd": 36,
            "n_layer": 2,
            "n_head": 3,
            "n_positions": 96,
            "activation_function": "gelu",
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
        "float32",
        "30KB",
        None,
    ),
    "gpt_neox-sequential": (
        "gpt_neox",
        {
            "hidden_size": 72,
            "intermediate_size": 50,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "max_position_embeddings": 96,
            "use_parallel_residual": False,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        "float32",
        None,
        "neox_of_4",
    ),
    "gpt_neox-parallel": (
        "gpt_neox",
        {
            "hidden_size": 64,
            "intermediate_size": 90,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 96,
            "hidden_act": "gelu_new",
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e3, "partial_rotary_factor": 0.25},
        },
        "bfloat16",
        None,
        None,
    ),
    "gemma2-uncapped-scores": (
        "gemma2",
        {
            **LIKE_LLAMA,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": 2.5,
            "sliding_window": 4,
            "query_pre_attn_scalar": 17,
        },
        "float32",
        None,
        None,
    ),
    "gemma2-types": (
        "gemma2",
        {
            **LIKE_LLAMA,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": None,
            "sliding_window": 6,
            "attention_bias": True,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        },
        "bfloat16",
        "40KB",
        None,
    ),
    "gemma3-types": (
        "gemma3_text",
        {
            **LIKE_LLAMA,
            "sliding_window": 5,
            "query_pre_attn_scalar": 19,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 2e5, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 3e3},
            },
        },
        "float32",
        None,
        None,
    ),
    "gemma3-pattern": (
        "gemma3_text",
        {
            **LIKE_LLAMA,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "float16",
        None,
        "gemma3_of_4",
    ),
}


def rope_of_4(config):
    """`rope_theta` and `rope_scaling`, as transformers 4 wrote them."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}


def neox_of_4(config):
    rope = config.pop("rope_parameters")
    config["rotary_emb_base"] = rope["rope_theta"]
    config["rotary_pct"] = rope["partial_rotary_factor"]


def gemma3_of_4(config):
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"].pop("rope_theta")
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = rope["full_attention"]
    del config["layer_types"]
    config.pop("_sliding_window_pattern", None)
    config["sliding_window_pattern"] = 2


CHANGES = {"rope_of_4": rope_of_4, "neox_of_4": neox_of_4, "gemma3_of_4": gemma3_of_4}


def make_tokenizer():
    """A byte-level BPE with an end and a padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")


def fill(model, generator):
    """Weights that leave no part of the model without effect: norms and biases differ from their start."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.copy_(parameter + 0.2 * noise)
            else:
                parameter.copy_(0.16 * noise)


def make(folder, model_class, config, how, generator):
    """One folder."""
    disk_type, shard, change = how
    torch.manual_seed(generator.initial_seed())
    model = model_class.from_config(config).eval()
    fill(model, generator)
    model = model.to(getattr(torch, disk_type))
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    make_tokenizer().save_pretrained(folder)
    if change:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        CHANGES[change](config)
        path.write_text(json.dumps(config, indent=2))


def make_all(out, seed):
    """All folders; returns them in order."""
    folders = []
    first_of_family = set()
    for i, (name, (family, settings, *how)) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(seed * 1000 + i)
        special = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": [1, 299], "pad_token_id": 0}
        config = AutoConfig.for_model(family, **special, **settings)
        folder = out / name
        make(folder, AutoModelForCausalLM, config, how, generator)
        GenerationConfig(eos_token_id=[1, 298], pad_token_id=0, do_sample=False).save_pretrained(folder)
        folders.append(folder)
        # One label for the first configuration of a family, three for the second.
        labels = 3 if family in first_of_family else 1
        first_of_family.add(family)
        config = AutoConfig.for_model(family, **special, **settings, num_labels=labels)
        folder = out / f"{name}-{labels}-label"
        make(folder, AutoModelForSequenceClassification, config, how, generator)
        folders.append(folder)
    return folders


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("out", type=Path, help="the folder to fill")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    for folder in make_all(arguments.out, arguments.seed):
        print(folder)


if __name__ == "__main__":
    main()
