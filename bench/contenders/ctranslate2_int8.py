"""CTranslate2 with INT8 weights, and activations quantised a row at a time.

Its generators give logits alone, so that the first layer of the PRM's head stands in the LM head's place. What it keeps
of a prompt serves generation only: every sequence is run in full, a few together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from contender import ModelPaths, Rewards
from contenders.numpy_head import NumpyHead, read_checkpoint
from workloads import Sequence


class CTranslate2:
    """batch: sequences that are run together, padded to the longest."""

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def load(self, model: ModelPaths, threads: int) -> None:
        folder = Path(model.converted) / "ctranslate2"
        if not (folder / "model.bin").exists():
            convert(model, folder)
        self._generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type="int8_float32", inter_threads=1, intra_threads=threads
        )
        self._head = NumpyHead(model)

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        rewards: Rewards = []
        for at in range(0, len(call), self._batch):
            rewards += self._together(call[at : at + self._batch])
        return rewards, sum(len(s.ids) for s in call)

    def _together(self, batch: list[Sequence]) -> Rewards:
        ids = np.zeros((len(batch), max(len(s.ids) for s in batch)), np.int32)
        for row, sequence in zip(ids, batch, strict=True):
            row[: len(sequence.ids)] = sequence.ids
        lengths = np.array([len(s.ids) for s in batch], np.int32)
        view = ctranslate2.StorageView.from_array
        inner = np.array(self._generator.forward_batch(view(ids), view(lengths)))
        return [self._head.behind_first_layer(row[s.reads]) for row, s in zip(inner, batch, strict=True)]


def convert(model: ModelPaths, folder: Path) -> None:
    import torch
    from ctranslate2.converters import TransformersConverter

    head = {name: value for name, value in read_checkpoint(model) if name.startswith("score.0.")}

    class Converter(TransformersConverter):
        def load_model(self, model_class: Any, model_name_or_path: str, **arguments: Any) -> Any:
            loaded = super().load_model(model_class, model_name_or_path, **arguments)
            loaded.lm_head = torch.nn.Linear(*head["score.0.weight"].shape[::-1])
            loaded.lm_head.load_state_dict({n.removeprefix("score.0."): torch.tensor(v) for n, v in head.items()})
            return loaded

    Converter(model.checkpoint).convert(str(folder), quantization="int8_float32", force=True)
