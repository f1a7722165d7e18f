"""What both examples train on: arithmetic stories whose first wrong step is known, and a base model of two layers."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config

ROOT = Path(__file__).parents[2]
HELD_OUT = 16
"""Rows that nothing is trained on."""


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


def train(trainer: Any, config: Any, model: Any, tokenizer: Any, out: Path, rows: list[Any], **settings: Any) -> Any:
    """Train on all rows but the first 16, which are held out for evaluation, and save the model."""
    args = config(
        str(out / "checkpoints"),
        learning_rate=1e-3,
        per_device_train_batch_size=8,
        logging_steps=8,
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        **settings,
    )
    held_out, train_rows = Dataset.from_list(rows[:HELD_OUT]), Dataset.from_list(rows[HELD_OUT:])
    trained = trainer(model, args, processing_class=tokenizer, train_dataset=train_rows, eval_dataset=held_out)
    trained.train()
    trained.save_model(str(out / "model"))
    return trained


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """TRL's own predictions, which the bundle is to give as well."""
    lines = (json.dumps(row) + "\n" for row in rows)
    (out / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
