"""A PRM of the 7B layout in PyTorch, as the authors load it but from plain classes; no LM head is computed."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel

from contender import ModelPaths


class TorchPRM:
    def __init__(self, checkpoint: str, threads: int, dtype: str) -> None:
        torch.set_num_threads(threads)
        precision = getattr(torch, dtype)
        self.model = AutoModel.from_pretrained(checkpoint).to(precision).eval()
        hidden = self.model.config.hidden_size
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        tensors: dict[str, Tensor] = {}
        for shard in Path(checkpoint).glob("*.safetensors"):
            tensors |= {k.removeprefix("score."): v for k, v in load_file(shard).items() if k.startswith("score.")}
        self.head.load_state_dict(tensors)
        self.head.to(precision)

    def rewards(self, hidden: Tensor) -> list[float]:
        """hidden: [num_read, hidden_size]; softmax in float32."""
        found: list[float] = self.head(hidden).float().softmax(-1)[:, 1].tolist()
        return found


class TorchContender:
    """What the contenders that run this PRM share."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype

    def load(self, model: ModelPaths, threads: int) -> None:
        self._prm = TorchPRM(model.checkpoint, threads, self._dtype)
