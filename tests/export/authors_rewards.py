"""How each family's authors make a reward of token ids, by transformers' own models and plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

Rewards = Callable[[Path, torch.Tensor], torch.Tensor]
"""A checkpoint and token ids -> the reward at each position."""


def hidden_states(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return AutoModel.from_pretrained(folder).float().eval()(input_ids=ids).last_hidden_state[0]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def mlp(last_step: Callable[[torch.Tensor], torch.Tensor]) -> Rewards:
    """A head of two layers with ReLU between them, in the shards."""

    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        head = tensors(folder)
        inner = (hidden_states(folder, ids) @ head["score.0.weight"].T + head["score.0.bias"]).relu()
        return last_step(inner @ head["score.2.weight"].T + head["score.2.bias"])

    return rewards


def good_class(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1)[:, 1]


def v_head(file: str | None, last_step: Callable[[torch.Tensor], torch.Tensor]) -> Rewards:
    """trl's value head, in the shards or in a file beside them."""

    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        head = tensors(folder) if file is None else torch.load(folder / file, weights_only=True)
        weight, bias = (head[f"v_head.summary.{part}"].float() for part in ("weight", "bias"))
        return last_step(hidden_states(folder, ids) @ weight.T + bias)[:, 0]

    return rewards


def pickled(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    head = torch.load(folder / "reward_head.pt", weights_only=True)
    return (hidden_states(folder, ids) @ head["weight"].T + head["bias"]).sigmoid()[:, 0]


def rows(good: str, bad: str) -> Rewards:
    """Two rows of the language model's logits, softmax, the good one's; each label's first token."""

    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in (good, bad)]
        model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
        return model(input_ids=ids).logits[0][:, labels].softmax(-1)[:, 0]

    return rewards


def token_classes(last_step: Callable[[torch.Tensor], torch.Tensor]) -> Rewards:
    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        model = AutoModelForTokenClassification.from_pretrained(folder).float().eval()
        return last_step(model(input_ids=ids).logits[0])

    return rewards


def sequence_class(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """One number of the whole text, wherever it is read."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
    return model(input_ids=ids).logits[0].expand(ids.shape[1])
