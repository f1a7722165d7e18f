"""What the activations of a checkpoint are like, measured on texts.

In: the reference and token ids. Out: `LayerStatistics` of each layer, and the rewards. One layer is in memory at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.reference import Reference

PRODUCTS = (*(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down")))
"""The modules of a layer that multiply by weights."""
INNER = "mlp.down_proj"
"""Of these, the one whose input stands out."""

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Over all tokens. inner_mean_square: float32 [intermediate_size], of each channel that down_proj reads;
    inner_largest: the largest magnitude among them; outputs: that of each product, by its module."""

    inner_mean_square: Vector
    inner_largest: float
    outputs: dict[str, float]


Statistics = Sequence[LayerStatistics]


def measure(reference: Reference, ids: Sequence[NDArray[np.int64]]) -> tuple[Statistics, list[Vector]]:
    """ids: int64 [tokens] for each text. Returns a LayerStatistics a layer; and the rewards at every position of each
    text, float32 [tokens]."""
    layers: list[LayerStatistics] = []

    @contextmanager
    def watch(_index: int, layer: torch.nn.Module) -> Iterator[None]:
        inner, outputs = _Inner(), {module: _Largest() for module in PRODUCTS}
        hooks = [layer.get_submodule(INNER).register_forward_pre_hook(lambda _module, read: inner.see(read[0]))]
        hooks += [
            layer.get_submodule(module).register_forward_hook(lambda _module, _read, made, seen=seen: seen.see(made))
            for module, seen in outputs.items()
        ]
        yield
        for hook in hooks:
            hook.remove()
        mean_square = (inner.squares / inner.rows).float().numpy()
        largest = {module: seen.magnitude for module, seen in outputs.items()}
        layers.append(LayerStatistics(mean_square, inner.largest.magnitude, largest))

    rewards = reference.rewards([torch.from_numpy(text)[None] for text in ids], watch)
    return layers, rewards


class _Largest:
    """The largest magnitude seen."""

    def __init__(self) -> None:
        self.magnitude = 0.0

    def see(self, x: torch.Tensor) -> None:
        lowest, highest = torch.aminmax(x)
        self.magnitude = max(self.magnitude, -float(lowest), float(highest))


class _Inner:
    """Over all rows seen, the largest magnitude, and each column's sum of squares."""

    def __init__(self) -> None:
        self.rows = 0
        self.largest = _Largest()
        self.squares = torch.zeros(1, dtype=torch.float64)

    def see(self, x: torch.Tensor) -> None:
        rows = x.flatten(0, -2)
        self.rows += len(rows)
        self.largest.see(rows)
        self.squares = self.squares + rows.square().sum(0)
