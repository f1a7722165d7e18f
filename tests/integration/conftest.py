"""A policy to train: two layers of random weights, and the demo model's tokenizer.

These tests need trainers that do not go together with what else is installed for development, and so an environment of
their own (`make integration`). They are no part of `make test`.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

TOKENIZER = Path(__file__).parents[2] / "examples" / "train_demo_prm" / "demo-prm" / "tokenizer.json"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_configure(config: pytest.Config) -> None:
    for category in ("DeprecationWarning", "FutureWarning"):  # the trainers' own
        config.addinivalue_line("filterwarnings", f"ignore::{category}")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER), eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    made.chat_template = CHAT
    return made


@pytest.fixture(scope="session")
def policy(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("policy")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
