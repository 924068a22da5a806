#!/usr/bin/env python3
"""Do `rlhf` and `transformers` say the same of a model folder, whoever wrote it?

For each folder, of any family, transformers and the binary `rlhf` load it and get the same token batches,
drawn from a seed.

* Language models: `rlhf logits` against the logits of transformers at every position that is not padding,
  rows padded on the right and on the left, and `rlhf generate --greedy` against the greedy continuation,
  token for token.
* Classifiers: `rlhf score` against the logits of transformers, one label or more.
* The way back: `rlhf convert` writes the folder anew, as f32 in one file, as f32 in small shards and as
  bf16; `rlhf init` makes a scratch model of the same config. transformers loads each without a missing or
  an unexpected key, and the f32 copies give its own logits to 1e-5.
* Both: the tokenizer loads, and its identifiers lie in the model's vocabulary.

Ends with 0 when all agree, 1 when something differs by more than the tolerance, 2 on wrong usage.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

TOLERANCE = 1e-4
# What transformers says of a folder and of its copy by rlhf.
COPY_TOLERANCE = 1e-5
# (rows, longest row): one row alone, one token alone, rows of unequal length, a long one.
SHAPES = [(1, 1), (1, 7), (3, 12), (5, 24)]
TEXTS = ["The food is good.", "cheap and friendly, near the river", "  two  spaces\nand a line", "naïve café — 3½ ☕"]
MAX_NEW_TOKENS = 20


def batches(config, tokenizer, seed):
    """Right-padded batches `(input_ids, attention_mask)` as nested lists, without special tokens."""
    rng = random.Random(seed)
    special = set(tokenizer.all_special_ids if tokenizer else [])
    for token in (pad_id(config), config.bos_token_id, config.eos_token_id):
        special |= set(token) if isinstance(token, list) else {token}
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


def flipped(ids, mask):
    """The same batch with the padding on the left."""
    turn = lambda row, real: row[sum(real):] + row[: sum(real)]
    return [turn(row, real) for row, real in zip(ids, mask)], [turn(real, real) for real in mask]


def pad_id(config):
    """The padding token's identifier, or None."""
    return config.pad_token_id if isinstance(config.pad_token_id, int) and config.pad_token_id >= 0 else None


def call(rlhf, *arguments):
    """Standard output of `rlhf ARGUMENTS`; a failure of it is a failure of this script."""
    command = [str(rlhf), *map(str, arguments)]
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


class Worst:
    """The largest difference of each kind, for one line a folder."""

    def __init__(self):
        self.figures = {}

    def add(self, what, difference, tolerance=TOLERANCE):
        """Keeps the figure; one above the tolerance, or no number, is a disagreement."""
        self.figures[what] = max(self.figures.get(what, 0.0), difference)
        if not difference <= tolerance:
            raise Difference(f"{what}: expected at most {tolerance:.0e}, found {difference:.2e}")

    def __str__(self):
        return ", ".join(f"{what} {figure:.1e}" for what, figure in self.figures.items())


def logits_of(model, ids, mask):
    """transformers' logits, with positions counted from the first real token."""
    mask = torch.tensor(mask)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), attention_mask=mask, position_ids=positions).logits


def check_logits(rlhf, folder, model, tokenizer, seed, scratch, worst):
    """`rlhf logits` against transformers, at real positions."""
    for right in batches(model.config, tokenizer, seed):
        for side, (ids, mask) in (("right", right), ("left", flipped(*right))):
            request = scratch / "logits.json"
            request.write_text(json.dumps({"input_ids": ids, "attention_mask": mask}))
            answer = call(rlhf, "logits", "--model", folder, "--input", request)
            found = torch.tensor(json.loads(answer)["logits"])
            expected = logits_of(model, ids, mask)
            check_shape(f"logits of {len(ids)} × {len(ids[0])}: shape", list(expected.shape), list(found.shape))
            real = torch.tensor(mask, dtype=torch.bool)
            worst.add(f"logits {side}", (expected - found)[real].abs().max().item())


def check_scores(rlhf, folder, model, tokenizer, seed, scratch, worst):
    """`rlhf score` against the labels of transformers, alone and, where there is a padding token, in a batch."""
    labels = model.config.num_labels
    for ids, mask in batches(model.config, tokenizer, seed):
        rows = [row[: sum(real)] for row, real in zip(ids, mask)]
        request = scratch / "score.jsonl"
        request.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
        answers = json_lines(call(rlhf, "score", "--model", folder, "--input", request))
        check_shape(f"rewards of {len(ids)} × {len(ids[0])}: lines", len(rows), len(answers))
        found = [[answer["reward"]] if labels == 1 else answer["logits"] for answer in answers]
        found = torch.tensor(found, dtype=torch.float64)
        with torch.no_grad():
            alone = torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])
            worst.add("scores alone", (alone.double() - found).abs().max().item())
            if pad_id(model.config) is not None:
                batch = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
                worst.add("scores padded", (batch.double() - found).abs().max().item())


def check_tokenizer(tokenizer, vocab_size):
    """The saved tokenizer makes identifiers that the model has."""
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        if not ids or max(ids) >= vocab_size:
            raise Difference(f"tokens of {text!r}: expected identifiers below {vocab_size}, found {ids}")


def check_greedy(rlhf, folder, model, tokenizer):
    """`rlhf generate --greedy` against transformers, token for token.

    Where they part, the two candidates' logits say whether one of the programs is wrong: a gap within the
    tolerance is a tie that rounding decided.
    """
    room = model.config.max_position_embeddings
    equal = 0
    for text in TEXTS[:2]:
        prompt = tokenizer(text, return_tensors="pt")
        length = prompt["input_ids"].shape[1]
        n_new = min(MAX_NEW_TOKENS, room - length)
        if n_new < 1:
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
        equal += compare_tokens(f"greedy after {text!r}", model, whole[:length].tolist(), expected, found)
    print(f"  greedy: {equal} tokens equal")


def compare_tokens(what, model, prompt, expected, found):
    """Two continuations of one prompt, end token included; how many tokens are equal."""
    if expected == found:
        return len(found)
    at = next((i for i, pair in enumerate(zip(expected, found)) if pair[0] != pair[1]), min(len(expected), len(found)))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + expected[:at]])).logits[0, -1]
    best = logits.max().item()
    taken = logits[found[at]].item() if at < len(found) else float("-inf")
    if best - taken > TOLERANCE:
        raise Difference(f"{what}: expected {expected}, found {found}: they part at token {at}, gap {best - taken:.2e}")
    print(f"  {what}: {at} tokens equal, then a tie (gap {best - taken:.1e})")
    return at


def load(folder):
    """transformers' model of a folder, in f32; keys that are missing or too many are a disagreement."""
    architectures = json.loads((folder / "config.json").read_text())["architectures"]
    kind = AutoModelForCausalLM
    if architectures[0].endswith("ForSequenceClassification"):
        kind = AutoModelForSequenceClassification
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            raise Difference(f"{folder}: {key}: expected none, found {sorted(info[key])}")
    check_shape(f"{folder}: architectures", [type(model).__name__], architectures)
    return model.eval()


def outputs(model, tokenizer, seed):
    """Logits of every batch at real positions, or every label's logit."""
    every = []
    for ids, mask in batches(model.config, tokenizer, seed):
        if model.config.architectures[0].endswith("ForSequenceClassification"):
            rows = [torch.tensor([row[: sum(real)]]) for row, real in zip(ids, mask)]
            with torch.no_grad():
                every += [model(input_ids=row).logits.flatten() for row in rows]
        else:
            every.append(logits_of(model, ids, mask)[torch.tensor(mask, dtype=torch.bool)].flatten())
    return torch.cat(every)


def check_copies(rlhf, folder, model, tokenizer, seed, scratch, worst):
    """Folders that rlhf writes, in transformers."""
    expected = outputs(model, tokenizer, seed)
    copy = scratch / "copy"
    for what, arguments in (
        ("copy", []),
        ("copy in shards", ["--max-shard-size", "20000"]),
        ("copy as bf16", ["--dtype", "bf16"]),
    ):
        shutil.rmtree(copy, ignore_errors=True)
        call(rlhf, "convert", "--model", folder, "--out", copy, *arguments)
        back = load(copy)
        if what == "copy as bf16":
            # Rounded once more only where the original was not bf16 already.
            named = dict(model.named_parameters())
            rounded = [(p, named[name].bfloat16().float()) for name, p in back.named_parameters()]
            worst.add(what, max((a - b).abs().max().item() for a, b in rounded), 0.0)
        else:
            worst.add(what, (outputs(back, tokenizer, seed) - expected).abs().max().item(), COPY_TOLERANCE)
        if (folder / "generation_config.json").exists() and hasattr(back, "generation_config"):
            ends = [m.generation_config.eos_token_id for m in (model, back)]
            check_shape(f"{what}: generation_config eos_token_id", ends[0], ends[1])


def check_scratch(rlhf, folder, tokenizer, seed, scratch, worst):
    """A scratch model of the same config: loads in transformers and says the same there."""
    made = scratch / "init"
    shutil.rmtree(made, ignore_errors=True)
    call(rlhf, "init", "--config", folder / "config.json", "--seed", seed, "--out", made)
    model = load(made)
    if model.config.architectures[0].endswith("ForSequenceClassification"):
        scratch_worst = Worst()
        check_scores(rlhf, made, model, None, seed, scratch, scratch_worst)
    else:
        scratch_worst = Worst()
        check_logits(rlhf, made, model, None, seed, scratch, scratch_worst)
    worst.add("init", max(scratch_worst.figures.values()), COPY_TOLERANCE)


def check(rlhf, folder, seed, scratch):
    """One folder of either kind."""
    tokenizer = AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer.json").exists() else None
    model = load(folder)
    print(f"{folder}: {type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters")
    if tokenizer:
        check_tokenizer(tokenizer, model.config.vocab_size)
    worst = Worst()
    try:
        if type(model).__name__.endswith("ForSequenceClassification"):
            check_scores(rlhf, folder, model, tokenizer, seed, scratch, worst)
        else:
            check_logits(rlhf, folder, model, tokenizer, seed, scratch, worst)
            if tokenizer:
                check_greedy(rlhf, folder, model, tokenizer)
        check_copies(rlhf, folder, model, tokenizer, seed, scratch, worst)
        check_scratch(rlhf, folder, tokenizer, seed, scratch, worst)
    finally:
        print(f"  {worst}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rlhf", required=True, help="the binary `rlhf`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the token batches")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL_DIR", help="a model folder")
    arguments = parser.parse_args()
    for folder in arguments.models:
        if not (folder / "config.json").is_file():
            parser.error(f"{folder}: expected a model folder with config.json, found none")
    logging.disable_progress_bar()
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
