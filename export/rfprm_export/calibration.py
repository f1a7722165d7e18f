"""What the activations of a checkpoint are like, measured on texts.

In: a checkpoint and token ids. Out: `LayerStatistics` of each layer. One layer is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.checkpoint import Checkpoint
from rfprm_export.reference import through_layers

INPUTS = {"qkv": "self_attn.q_proj", "o": "self_attn.o_proj", "gate_up": "mlp.gate_proj", "down": "mlp.down_proj"}
"""A module that reads each of a layer's inputs."""
READERS = {
    "qkv": tuple(f"self_attn.{part}_proj" for part in "qkv"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""All modules that read it."""

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """largest, mean_square: by the keys of INPUTS, float32 [features], over all tokens. outputs: the largest magnitude
    of each product, by its module."""

    largest: dict[str, Vector]
    mean_square: dict[str, Vector]
    outputs: dict[str, float]


Statistics = Sequence[LayerStatistics]


def measure(checkpoint: Checkpoint, ids: Sequence[NDArray[np.int64]]) -> Statistics:
    """ids: int64 [tokens] for each text."""
    layers: list[LayerStatistics] = []

    @contextmanager
    def watch(_index: int, layer: torch.nn.Module) -> Iterator[None]:
        inputs = {key: _Columns() for key in INPUTS}
        outputs = {module: _Columns() for modules in READERS.values() for module in modules}
        hooks = [
            layer.get_submodule(module).register_forward_pre_hook(
                lambda _module, read, seen=inputs[key]: seen.see(read[0])
            )
            for key, module in INPUTS.items()
        ]
        hooks += [
            layer.get_submodule(module).register_forward_hook(lambda _module, _read, made, seen=seen: seen.see(made))
            for module, seen in outputs.items()
        ]
        yield
        for hook in hooks:
            hook.remove()
        layers.append(
            LayerStatistics(
                {key: seen.largest.numpy() for key, seen in inputs.items()},
                {key: (seen.squares / seen.rows).float().numpy() for key, seen in inputs.items()},
                {module: float(seen.largest.max()) for module, seen in outputs.items()},
            )
        )

    through_layers(checkpoint, [torch.from_numpy(text)[None] for text in ids], watch)
    return layers


class _Columns:
    """Over all rows seen, each column's largest magnitude and sum of squares."""

    def __init__(self) -> None:
        self.rows = 0
        self.largest = torch.zeros(1)
        self.squares = torch.zeros(1, dtype=torch.float64)

    def see(self, x: torch.Tensor) -> None:
        rows = x.flatten(0, -2)
        self.rows += len(rows)
        self.largest = torch.maximum(self.largest, rows.abs().amax(0))
        self.squares = self.squares + rows.square().sum(0)
