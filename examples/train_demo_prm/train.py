"""Train the demo PRM: python train.py GSM8K_TRAIN.jsonl OUTPUT (about 90 minutes on 2 cores).

In: GSM8K's train.jsonl (https://github.com/openai/grade-school-math, MIT). Out: a checkpoint folder in the layout
of ReasonFlux-PRM-7B. Each step's label is whether the trace is right up to and including that step.

The step loss alone learns nothing in reasonable time, and with a next-symbol loss on the last layer's states the
digits are learned but wrong results are not found: what should come next is known too late to be compared with what
came. So the network is taught in stages: after SYMBOL_LAYERS layers it names the digit or operator that should come
next, one layer later it says whether a symbol is a slip, and the last layer judges the step. The two helping heads
are thrown away.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2Model

import arithmetic
import gsm8k
import stories
import tokenizer as demo_tokenizer

CONFIG = {
    "vocab_size": demo_tokenizer.VOCABULARY,
    "hidden_size": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "intermediate_size": 352,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
LENGTHS = (96, 128, 160, 192, 256)
TOKENS_A_BATCH = 10_240
IGNORE = -100
STEPS = 4500
SYMBOL_LAYERS = 4
SLIP_LAYERS = 5
LATER_ERROR_WEIGHT = 0.5
FIRST_ERROR_WEIGHT = 2.0
SLIP_WEIGHT = 4.0


@dataclass(frozen=True)
class Example:
    """`ids`: the rendered trace. `symbols`: at each position the class of the symbol that should come next, or
    IGNORE. `slips`: at each symbol 1 where it is not the one that should have come, 0 where it is, IGNORE elsewhere.
    `labels`: at each separator 1 for right, 0 for wrong, IGNORE elsewhere. `weights`: of the labels."""

    ids: list[int]
    symbols: list[int]
    slips: list[int]
    labels: list[int]
    weights: list[float]


class Encoder:
    """Traces to examples."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.separator = tokenizer.token_to_id("<extra_0>")
        names = [*"0123456789", "Ġ+", "Ġ-", "Ġ*", "Ġ/", "Ġ="]
        self.symbol_class = {tokenizer.token_to_id(name): i + 1 for i, name in enumerate(names)}
        self.digits = {tokenizer.token_to_id(d) for d in "0123456789"}

    def __call__(self, trace: arithmetic.Trace) -> Example:
        prompt = (
            f"<|im_start|>system\n{demo_tokenizer.SYSTEM}<|im_end|>\n"
            f"<|im_start|>user\n{trace.question}<|im_end|>\n<|im_start|>"
        )
        ids: list[int] = self.tokenizer.encode(prompt).ids
        symbols = [IGNORE] * len(ids)
        slips = [IGNORE] * len(ids)
        labels = [IGNORE] * len(ids)
        weights = [0.0] * len(ids)
        for i, step in enumerate(trace.steps):
            # The first step follows "assistant\n" without a special token between: they are encoded together.
            head = "" if i else "assistant\n"
            said = self.tokenizer.encode(head + step.text).ids
            right = self.tokenizer.encode(head + step.right).ids
            same = next((k for k, (x, y) in enumerate(zip(said, right, strict=False)) if x != y), len(said))
            for k in range(len(said)):
                target = right[k] if k <= same and k < len(right) else None
                symbols[-1] = self._symbol(target, ids[-1])
                slips.append(IGNORE if symbols[-1] == IGNORE else int(k == same))
                ids.append(said[k])
                symbols.append(IGNORE)
            ids.append(self.separator)
            symbols.append(IGNORE)
            slips.append(IGNORE)
            wrong = trace.first_error is not None and i >= trace.first_error
            labels += [IGNORE] * len(said) + [0 if wrong else 1]
            weight = FIRST_ERROR_WEIGHT if i == trace.first_error else LATER_ERROR_WEIGHT if wrong else 1.0
            weights += [0.0] * len(said) + [weight]
        return Example(ids, symbols, slips, labels, weights)

    def _symbol(self, target: int | None, previous: int) -> int:
        """The class of `target`; 0, "something else", counts only where a number may end."""
        if target is None:
            return IGNORE
        found = self.symbol_class.get(target, 0)
        return found if found or previous in self.digits else IGNORE


class DemoPRM(nn.Module):
    """Qwen2 with the two-layer head of the 7B PRM, and the helping heads of training."""

    def __init__(self) -> None:
        super().__init__()
        hidden = CONFIG["hidden_size"]
        self.model = Qwen2Model(Qwen2Config(**CONFIG, use_cache=False))
        self.score = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        self.help_symbols = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, 16))
        self.help_slips = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, 2))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the step head, and of the helping heads."""
        states = self.model(input_ids=batch["ids"], output_hidden_states=True)
        at = batch["labels"] != IGNORE
        logits = self.score(states.last_hidden_state[at]).float()
        weights = batch["weights"][at]
        step = (cross_entropy(logits, batch["labels"][at], reduction="none") * weights).sum() / weights.sum()
        helping = {}
        for name, head, layers in (
            ("symbols", self.help_symbols, SYMBOL_LAYERS),
            ("slips", self.help_slips, SLIP_LAYERS),
        ):
            at = batch[name] != IGNORE
            weight = torch.tensor([1.0, SLIP_WEIGHT]) if name == "slips" else None
            helping[name] = cross_entropy(head(states.hidden_states[layers][at]).float(), batch[name][at], weight)
        return {"step": step, **helping}

    @torch.no_grad()
    def rewards(self, example: Example) -> Tensor:
        hidden = self.model(input_ids=torch.tensor([example.ids])).last_hidden_state[0]
        at = torch.tensor(example.labels) != IGNORE
        return self.score(hidden[at]).float().softmax(-1)[:, 1]


def examples(
    encoder: Encoder, rows: list[gsm8k.Row], rng: random.Random, progress: dict[str, float]
) -> Iterator[Example]:
    """Drills first, stories next, GSM8K among them from a fifth of the way on; without end."""
    while True:
        done = progress["done"]
        drills = max(0.1, 0.8 - 2.5 * done)
        draw = rng.random()
        if draw < drills:
            trace = arithmetic.sample_trace(arithmetic.drill(rng), rng, error_rate=0.6)
        elif done > 0.2 and draw < drills + 0.25 * (1 - drills):
            row = rng.choice(rows)
            trace = gsm8k.sample_trace(gsm8k.renumber(row, rng) if rng.random() < 0.7 else row, rng, error_rate=0.55)
        else:
            trace = arithmetic.sample_trace(stories.story(rng), rng, error_rate=0.55)
        yield encoder(trace)


def batches(source: Iterator[Example]) -> Iterator[dict[str, Tensor]]:
    """Examples of like length, padded on the right to one of LENGTHS; a longer one is left out."""
    bins: dict[int, list[Example]] = {length: [] for length in LENGTHS}
    for example in source:
        length = next((n for n in LENGTHS if n >= len(example.ids)), None)
        if length is None:
            continue
        bins[length].append(example)
        if len(bins[length]) == TOKENS_A_BATCH // length:
            yield collate(bins[length], length)
            bins[length] = []


def collate(items: list[Example], length: int) -> dict[str, Tensor]:
    def padded(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    return {
        "ids": padded([x.ids for x in items], 0),
        "symbols": padded([x.symbols for x in items], IGNORE),
        "slips": padded([x.slips for x in items], IGNORE),
        "labels": padded([x.labels for x in items], IGNORE),
        "weights": torch.tensor([x.weights + [0.0] * (length - len(x.weights)) for x in items]),
    }


def f1(model: DemoPRM, encoder: Encoder, traces: list[arithmetic.Trace]) -> dict[str, float]:
    """ProcessBench's measure: harmonic mean of the accuracy on wrong and on right traces at threshold 0.5."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for trace in traces:
        low = (model.rewards(encoder(trace)) < 0.5).tolist()
        found = low.index(True) if True in low else None
        hits[trace.first_error is None].append(found == trace.first_error)
    right, wrong = (sum(hits[k]) / max(1, len(hits[k])) for k in (True, False))
    return {"right": right, "wrong": wrong, "f1": 2 * right * wrong / max(1e-9, right + wrong)}


def save(model: DemoPRM, folder: Path) -> None:
    """The checkpoint in the layout of ReasonFlux-PRM-7B; the helping heads are left out."""
    tensors = {k: v.detach().contiguous() for k, v in model.state_dict().items() if not k.startswith("help_")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen2ForProcessRewardModel"],
        "model_type": "qwen2",
        **CONFIG,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    tokenizer = demo_tokenizer.train(options.gsm8k, options.seed)
    demo_tokenizer.save(tokenizer, options.output)
    encoder = Encoder(tokenizer)
    rows = gsm8k.load(options.gsm8k)
    rng = random.Random(options.seed + 1)
    held_out = random.Random(options.seed + 2)
    watch = [arithmetic.sample_trace(stories.story(held_out), held_out, error_rate=0.5) for _ in range(300)]

    prm = DemoPRM()
    plain, compiled = prm.model, torch.compile(prm.model, dynamic=False)  # the same parameters
    prm.model = compiled
    optimizer = torch.optim.AdamW(prm.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.05)
    progress = {"done": 0.0}
    source = batches(examples(encoder, rows, rng, progress))
    start = time.monotonic()
    seen = 0
    for step in range(options.steps):
        done = progress["done"] = step / options.steps
        rate = (
            options.rate
            * min(1.0, (step + 1) / 200)
            * (1.0 if done < 0.6 else math.cos((done - 0.6) / 0.4 * math.pi / 2))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = next(source)
        seen += batch["ids"].numel()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = prm.losses(batch)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(prm.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            print(f"{step} {time.monotonic() - start:.0f}s {seen / 1e6:.2f}M tokens, {shown}", flush=True)
        if step % 500 == 499 or step == options.steps - 1:
            prm.model = plain
            print(step, f1(prm, encoder, watch), flush=True)
            save(prm, options.output)
            prm.model = compiled


if __name__ == "__main__":
    main()
