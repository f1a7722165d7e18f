"""What both examples train on: arithmetic stories whose first wrong step is known, and a base model of two layers."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config

ROOT = Path(__file__).parents[2]


def stories() -> list[dict[str, Any]]:
    """Problem, steps, and the index of the first wrong step, None if all are right."""
    lines = (ROOT / "tests" / "runtime" / "data" / "demo_heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def base() -> tuple[PreTrainedTokenizerBase, Qwen2Config]:
    """The demo's tokenizer, and a config for random weights. Yours is a model that knows more."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "examples" / "train_demo_prm" / "demo-prm")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,  # so that rewards differ after a few steps
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer, config


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """TRL's own predictions, which the bundle is to give as well."""
    lines = (json.dumps(row) + "\n" for row in rows)
    (out / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
