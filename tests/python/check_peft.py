#!/usr/bin/env python3
"""Do adapters of PEFT mean the same to `rlhf`, and adapters of `rlhf` the same to PEFT?

Without folders: small random models of every family are made with transformers, given random adapters
with PEFT and saved; `rlhf logits` (or `rlhf score`) on the adapter's folder is compared with PEFT.

Each folder given is an adapter saved by `rlhf`: PEFT loads it on the base that its
`base_model_name_or_path` names, and its logits are compared with those of `rlhf`, and with those of
the folder `merged` beside it, if there is one, in transformers.

Ends with 0 when all agree, 1 when something differs by more than the tolerance, 2 on wrong usage.
"""

import argparse
import contextlib
import io
import json
import math
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

# Of the largest logit, which is 1 or more.
TOLERANCE = 1e-5
VOCABULARY = 300
LENGTHS = [11, 1, 6]
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.15,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0,
}
WINDOW = {"sliding_window": 4, "head_dim": 8, "query_pre_attn_scalar": 8}
TIED = {"tie_word_embeddings": True}
# Name, model_type, settings of the model, settings of the adapter.
CASES = [
    ("llama", "llama", {}, {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    ("llama all-linear rslora", "llama", {}, {"target_modules": "all-linear", "use_rslora": True}),
    ("llama embeddings and head", "llama", {}, {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    ("llama tied: embeddings", "llama", TIED, {"target_modules": ["embed_tokens", "q_proj"]}),
    ("llama tied: head", "llama", TIED, {"target_modules": ["lm_head"]}),
    ("llama tied: both", "llama", TIED, {"target_modules": ["embed_tokens", "lm_head"]}),
    ("llama tied: together", "llama", TIED, {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
    ("llama modules_to_save", "llama", {}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    ("llama tied modules_to_save", "llama", TIED,
     {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    ("llama patterns", "llama", {}, {
        "target_modules": ["q_proj", "k_proj", "up_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 6},
        "alpha_pattern": {"k_proj": 1, "^model.layers.0.mlp.up_proj": 11}, "exclude_modules": ["layers.2.mlp.up_proj"],
    }),
    ("llama layers", "llama", {}, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]}),
    ("llama dora", "llama", {}, {"target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head"], "use_dora": True}),
    ("llama tied dora", "llama", TIED, {"target_modules": ["v_proj", "embed_tokens"], "use_dora": True}),
    ("mistral", "mistral", {"sliding_window": 4}, {"target_modules": "all-linear"}),
    ("qwen2", "qwen2", TIED, {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
    ("qwen2 modules_to_save", "qwen2", {}, {"target_modules": ["gate_proj"], "modules_to_save": ["q_proj"]}),
    ("qwen3", "qwen3", {"head_dim": 8}, {"target_modules": "all-linear"}),
    ("gpt2", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64}, {"target_modules": ["c_attn"]}),
    ("gpt2 all-linear", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64}, {"target_modules": "all-linear"}),
    ("gpt2 embeddings", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64},
     {"target_modules": ["wte", "wpe", "c_proj", "lm_head"]}),
    ("gpt2 dora", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64},
     {"target_modules": ["c_attn", "c_fc"], "use_dora": True}),
    ("gpt2 modules_to_save", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64},
     {"target_modules": ["c_attn"], "modules_to_save": ["c_fc"]}),
    ("gpt_neox", "gpt_neox", {}, {"target_modules": ["query_key_value"]}),
    ("gpt_neox all-linear", "gpt_neox", {}, {"target_modules": "all-linear"}),
    ("gpt_neox embeddings", "gpt_neox", {}, {"target_modules": ["embed_in", "lm_head", "dense"]}),
    ("gemma2", "gemma2", WINDOW, {"target_modules": ["q_proj", "gate_proj", "embed_tokens"]}),
    ("gemma3", "gemma3_text", WINDOW, {"target_modules": ["v_proj", "o_proj", "embed_tokens"]}),
    ("llama classifier", "llama", {}, {"target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_CLS"}),
    ("gpt2 classifier", "gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64},
     {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
]


class Difference(Exception):
    """The two programs disagree."""


@contextlib.contextmanager
def quiet():
    """Without the notes of the libraries."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def rows(vocabulary, seed):
    """Rows of random tokens."""
    rng = random.Random(seed)
    return [[rng.randrange(vocabulary) for _ in range(n)] for n in LENGTHS]


def call(rlhf, *arguments):
    """Standard output of `rlhf ARGUMENTS`; a failure of it is a failure of this script."""
    command = [rlhf, *map(str, arguments)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8")
    if result.returncode != 0:
        raise Difference(f"`{' '.join(command)}` ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def ours(rlhf, folder, classifier, ids, scratch):
    """Logits of every position, or scores, as `rlhf` has them, in one list a row."""
    request = scratch / "request.json"
    if classifier:
        request.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
        answers = call(rlhf, "score", "--model", folder, "--input", request).splitlines()
        return [torch.tensor([json.loads(answer)["reward"]]) for answer in answers]
    longest = max(map(len, ids))
    padded = [row + [0] * (longest - len(row)) for row in ids]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
    request.write_text(json.dumps({"input_ids": padded, "attention_mask": mask}))
    answer = json.loads(call(rlhf, "logits", "--model", folder, "--input", request))["logits"]
    return [torch.tensor(logits[: len(row)]) for logits, row in zip(answer, ids)]


def theirs(model, ids):
    """The same of a model of PEFT."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0] for row in ids]


def compare(expected, found):
    """The largest difference, as a part of the largest number."""
    most, size = 0.0, 1.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            raise Difference(f"expected shape {list(a.shape)}, found {list(b.shape)}")
        most = max(most, (a - b).abs().max().item())
        size = max(size, a.abs().max().item())
    if not most <= TOLERANCE * size:
        raise Difference(f"expected a difference of at most {TOLERANCE:.0e} of {size:.1f}, found {most:.1e}")
    return f"max |difference| {most:.1e} of {size:.1f}"


def tokenizer(folder):
    """A byte-level tokenizer, which `rlhf score` reads beside the model."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = ["<|endoftext|>", "<|padding|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([], trainers.BpeTrainer(vocab_size=258, special_tokens=names, initial_alphabet=alphabet))
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": names[0], "pad_token": names[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def make(kind, model_settings, adapter_settings, folder):
    """A random model with a random adapter; both saved."""
    classifier = adapter_settings.get("task_type") == "SEQ_CLS"
    settings = {**SIZES, **model_settings, **({"num_labels": 1} if classifier else {})}
    if kind in ("gpt2", "gpt_neox"):
        settings = {k: v for k, v in settings.items() if k != "num_key_value_heads"}
    if kind == "gpt2":
        renamed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        settings = {k: v for k, v in settings.items() if k not in renamed}
    config = AutoConfig.for_model(kind, **settings)
    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    base = auto.from_config(config, dtype=torch.float32).eval()
    base.save_pretrained(folder / "base")
    tokenizer(folder / "base")
    base.name_or_path = base.config._name_or_path = "../base"
    adapter_settings = {"task_type": "CAUSAL_LM", **adapter_settings}
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, **adapter_settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            elif parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "adapter")
    return model, classifier


def check_theirs(rlhf, case, scratch):
    """An adapter made by PEFT."""
    _, kind, model_settings, adapter_settings = case
    with quiet():
        model, classifier = make(kind, model_settings, adapter_settings, scratch)
        ids = rows(VOCABULARY, 1)
        expected = theirs(model, ids)
        with model.disable_adapter():
            base = theirs(model, ids)
    change = max((a - b).abs().max().item() for a, b in zip(expected, base))
    if not (math.isfinite(change) and change > 0.01):
        raise Difference(f"expected an adapter that changes logits, found a change of {change:.1e}")
    return compare(expected, ours(rlhf, scratch / "adapter", classifier, ids, scratch))


def check_ours(rlhf, folder, scratch):
    """An adapter made by `rlhf`."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    named = Path(settings["base_model_name_or_path"])
    places = [folder / named, named]
    base_folder = next((place for place in places if (place / "config.json").is_file()), None)
    if base_folder is None:
        raise Difference(f"base_model_name_or_path: expected a model's folder, found {named}")
    classifier = settings["task_type"] == "SEQ_CLS"
    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    more = {"num_labels": 1} if classifier else {}
    with quiet():
        base = auto.from_pretrained(base_folder, dtype=torch.float32, **more)
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(base, folder).eval()
        left = [str(note.message) for note in notes if "missing adapter keys" in str(note.message)]
        if left:
            raise Difference(left[0])
        ids = rows(base.config.vocab_size, 2)
        expected = theirs(model, ids)
        merged = folder.parent / "merged"
        if merged.is_dir():
            whole, report = auto.from_pretrained(merged, dtype=torch.float32, output_loading_info=True)
            if report["missing_keys"] or report["unexpected_keys"]:
                raise Difference(f"{merged}: missing {report['missing_keys']}, unexpected {report['unexpected_keys']}")
            compare(expected, theirs(whole.eval(), ids))
    if classifier and not (base_folder / "tokenizer.json").exists():
        tokenizer(base_folder)
    return compare(expected, ours(rlhf, folder, classifier, ids, scratch))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rlhf", required=True, help="the binary `rlhf`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random models")
    parser.add_argument("folders", nargs="*", type=Path, metavar="ADAPTER_DIR", help="an adapter saved by rlhf")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        if not (folder / "adapter_config.json").is_file():
            parser.error(f"{folder}: expected a folder with adapter_config.json, found none")
    rlhf = arguments.rlhf
    if arguments.folders:
        checks = [(str(f), lambda scratch, f=f: check_ours(rlhf, f, scratch)) for f in arguments.folders]
    else:
        checks = [(case[0], lambda scratch, case=case: check_theirs(rlhf, case, scratch)) for case in CASES]
    failures = 0
    for name, check in checks:
        torch.manual_seed(arguments.seed)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                print(f"{name}: {check(Path(scratch))}")
            except Difference as difference:
                failures += 1
                print(f"{name}: FAILED {difference}")
    print(f"{len(checks) - failures} of {len(checks)} adapters agree within {TOLERANCE:.0e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
