#!/usr/bin/env python3
"""Do models saved by `rlhf` load in transformers, and say the same there?

For each folder: transformers loads it, the binary `rlhf` loads it, and both get the same token
batches, drawn from a seed.

* LlamaForCausalLM: `rlhf logits` against the logits of transformers at every position that is not
  padding, and `rlhf generate --greedy` against the greedy continuation, token for token.
* LlamaForSequenceClassification with one label: `rlhf score` against the logit of transformers.
* Both: the saved tokenizer loads, and its identifiers lie in the model's vocabulary.

Ends with 0 when all agree, 1 when something differs by more than the tolerance, 2 on wrong usage.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4
# (rows, longest row): one row alone, one token alone, rows of unequal length, a long one.
SHAPES = [(1, 1), (1, 7), (3, 12), (5, 24)]
TEXTS = ["The food is good.", "cheap and friendly, near the river", "  two  spaces\nand a line", "naïve café — 3½ ☕"]
MAX_NEW_TOKENS = 20


def batches(config, tokenizer, seed):
    """Right-padded batches `(input_ids, attention_mask)` as nested lists, without special tokens."""
    rng = random.Random(seed)
    special = set(tokenizer.all_special_ids if tokenizer else [])
    special |= {token for token in (pad_id(config), config.bos_token_id, config.eos_token_id) if isinstance(token, int)}
    words = [token for token in range(config.vocab_size) if token not in special]
    pad = pad_id(config)
    pad = pad if pad is not None else 0
    for rows, longest in SHAPES:
        longest = min(longest, config.max_position_embeddings)
        # The first row fills the batch; the others are shorter where they can be.
        lengths = [longest] + [rng.randint(1, longest) for _ in range(rows - 1)]
        ids = [[rng.choice(words) for _ in range(n)] + [pad] * (longest - n) for n in lengths]
        mask = [[1] * n + [0] * (longest - n) for n in lengths]
        yield ids, mask


def pad_id(config):
    """The padding token's identifier, or None."""
    return config.pad_token_id if isinstance(config.pad_token_id, int) and config.pad_token_id >= 0 else None


def call(rlhf, *arguments):
    """Standard output of `rlhf ARGUMENTS`; a failure of it is a failure of this script."""
    command = [rlhf, *map(str, arguments)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if result.returncode != 0:
        raise Difference(f"`{' '.join(command)}` ended with {result.returncode}")
    return result.stdout


class Difference(Exception):
    """The two programs disagree."""


def json_lines(text):
    """The objects of a JSONL text."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def check_shape(what, expected, found):
    if expected != found:
        raise Difference(f"{what}: expected {expected}, found {found}")


def check_difference(what, difference):
    """Prints the figure; one above the tolerance, or no number, is a disagreement."""
    print(f"  {what}: max |difference| {difference:.2e}")
    if not difference <= TOLERANCE:
        raise Difference(f"{what}: expected at most {TOLERANCE:.0e}, found {difference:.2e}")


def check_logits(rlhf, folder, model, tokenizer, seed, scratch):
    """`rlhf logits` against transformers, at real positions."""
    for ids, mask in batches(model.config, tokenizer, seed):
        request = scratch / "logits.json"
        request.write_text(json.dumps({"input_ids": ids, "attention_mask": mask}))
        found = torch.tensor(json.loads(call(rlhf, "logits", "--model", folder, "--input", request))["logits"])
        with torch.no_grad():
            expected = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
        what = f"logits of {len(ids)} × {len(ids[0])}"
        check_shape(f"{what}: shape", list(expected.shape), list(found.shape))
        real = torch.tensor(mask, dtype=torch.bool)
        check_difference(what, (expected - found)[real].abs().max().item())


def check_scores(rlhf, folder, model, tokenizer, seed, scratch):
    """`rlhf score` against the one label of transformers, alone and, where there is a padding token, in a batch."""
    check_shape("labels", 1, model.config.num_labels)
    for ids, mask in batches(model.config, tokenizer, seed):
        rows = [row[: sum(real)] for row, real in zip(ids, mask)]
        request = scratch / "score.jsonl"
        request.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
        answers = json_lines(call(rlhf, "score", "--model", folder, "--input", request))
        what = f"rewards of {len(ids)} × {len(ids[0])}"
        check_shape(f"{what}: lines", len(rows), len(answers))
        found = torch.tensor([answer["reward"] for answer in answers], dtype=torch.float64)
        with torch.no_grad():
            alone = torch.stack([model(input_ids=torch.tensor([row])).logits[0, 0] for row in rows])
            check_difference(f"{what}, alone", (alone.double() - found).abs().max().item())
            if pad_id(model.config) is not None:
                batch = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits[:, 0]
                check_difference(f"{what}, padded", (batch.double() - found).abs().max().item())


def check_tokenizer(tokenizer, vocab_size):
    """The saved tokenizer makes identifiers that the model has."""
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        if not ids or max(ids) >= vocab_size:
            raise Difference(f"tokens of {text!r}: expected identifiers below {vocab_size}, found {ids}")
        again = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        note = "" if again == text else f", reads back as {again!r}"
        print(f"  tokens of {text!r}: {len(ids)}{note}")


def check_greedy(rlhf, folder, model, tokenizer):
    """`rlhf generate --greedy` against transformers, token for token.

    Where they part, the two candidates' logits say whether one of the programs is wrong: a gap within the
    tolerance is a tie that rounding decided.
    """
    room = model.config.max_position_embeddings
    for text in TEXTS[:2]:
        prompt = tokenizer(text, return_tensors="pt")
        length = prompt["input_ids"].shape[1]
        n_new = min(MAX_NEW_TOKENS, room - length)
        if n_new < 1:
            print(f"  greedy after {text!r}: no room for a token behind {length} of {room}")
            continue
        arguments = ["--model", folder, "--prompt", text, "--max-new-tokens", n_new, "--greedy"]
        answers = json_lines(call(rlhf, "generate", *arguments))
        check_shape(f"greedy after {text!r}: lines", 1, len(answers))
        found = answers[0]["token_ids"]
        with torch.no_grad():
            whole = model.generate(
                input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], do_sample=False,
                num_beams=1, max_new_tokens=n_new, pad_token_id=pad_id(model.config) or 0,
            )[0]
        expected = whole[length:].tolist()
        compare_tokens(f"greedy after {text!r}", model, whole[:length].tolist(), expected, found)


def compare_tokens(what, model, prompt, expected, found):
    """Two continuations of one prompt; the end token may be left out of either."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    expected, found = ([token for token in tokens if token not in ends] for tokens in (expected, found))
    if expected == found:
        print(f"  {what}: {len(found)} tokens, equal")
        return
    at = next((i for i, pair in enumerate(zip(expected, found)) if pair[0] != pair[1]), min(len(expected), len(found)))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + expected[:at]])).logits[0, -1]
    best = logits.max().item()
    taken = logits[found[at]].item() if at < len(found) else max(logits[end].item() for end in ends if end is not None)
    if best - taken > TOLERANCE:
        raise Difference(f"{what}: expected {expected}, found {found}: they part at token {at}, gap {best - taken:.2e}")
    print(f"  {what}: {at} tokens equal, then a tie (gap {best - taken:.1e})")


def check(rlhf, folder, seed, scratch):
    """One folder of either kind."""
    architectures = json.loads((folder / "config.json").read_text())["architectures"]
    tokenizer = AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer.json").exists() else None
    if architectures == ["LlamaForCausalLM"]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    elif architectures == ["LlamaForSequenceClassification"]:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    else:
        raise Difference(f"config.json: expected LlamaForCausalLM or LlamaForSequenceClassification, found {architectures}")
    print(f"{folder}: {architectures[0]}, {sum(p.numel() for p in model.parameters()):,} parameters")
    if tokenizer:
        check_tokenizer(tokenizer, model.config.vocab_size)
    if architectures == ["LlamaForCausalLM"]:
        check_logits(rlhf, folder, model, tokenizer, seed, scratch)
        if tokenizer:
            check_greedy(rlhf, folder, model, tokenizer)
    else:
        check_scores(rlhf, folder, model, tokenizer, seed, scratch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rlhf", required=True, help="the binary `rlhf`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the token batches")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL_DIR", help="a folder saved by rlhf")
    arguments = parser.parse_args()
    for folder in arguments.models:
        if not (folder / "config.json").is_file():
            parser.error(f"{folder}: expected a model folder with config.json, found none")
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder in arguments.models:
            try:
                check(arguments.rlhf, folder, arguments.seed, Path(scratch))
            except Difference as difference:
                failures += 1
                print(f"  FAILED {difference}")
    print(f"{len(arguments.models) - failures} of {len(arguments.models)} folders agree within {TOLERANCE:.0e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
