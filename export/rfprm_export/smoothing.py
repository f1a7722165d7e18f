"""Moving outliers out of the activations and into the weights (SmoothQuant, arXiv 2211.10438).

In: activation statistics and weights. Out: a `Rescaling`, factors on rows and columns of tensors that cancel each
other, so that the network computes what it did, with inputs of products that an 8-bit scale a row describes better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rfprm_export.calibration import READERS, Statistics, Vector
from rfprm_export.checkpoint import Architecture

LEAST = 1e-5
"""Ranges below this count as this: channels that were always zero."""


@dataclass(frozen=True, slots=True)
class Rescaling:
    """Factors of tensors by name; a tensor that is not named stays as it is."""

    rows: Mapping[str, Vector] = field(default_factory=dict)
    columns: Mapping[str, Vector] = field(default_factory=dict)

    def apply(self, name: str, blocks: Iterable[NDArray[np.float32]]) -> Iterable[NDArray[np.float32]]:
        """The tensor's blocks of rows, rescaled."""
        at = 0
        for block in blocks:
            rows = self.rows.get(name, _ONE)
            own = rows[at : at + len(block)] if len(rows) > 1 else rows
            at += len(block)
            yield block * self.columns.get(name, _ONE) * own.reshape(-1, *[1] * (block.ndim - 1))


_ONE = np.ones(1, np.float32)
NONE = Rescaling()


def smooth(
    architecture: Architecture,
    statistics: Statistics,
    column_maxima: Callable[[str], Vector],
    strengths: Mapping[str, float],
) -> Rescaling:
    """Divide every channel of a product's input by range^strength / weight^(1 - strength), and multiply its weights.

    column_maxima: the largest magnitude of each column of a weight, by the tensor's name. strengths: from 0 to 1, by
    the keys of calibration.INPUTS.
    """
    groups = _shared_by_groups(architecture)
    rows: dict[str, Vector] = {}
    columns: dict[str, Vector] = {}
    for i, layer in enumerate(statistics):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        factors = {}
        for key, modules in READERS.items():
            names = [f"model.layers.{i}.{module}.weight" for module in modules]
            found, weights = layer.largest[key], np.max([column_maxima(name) for name in names], axis=0)
            if key == "o":
                found, weights = groups(found), groups(weights)
            factors[key] = _factors(found, weights, strengths[key])
            columns |= dict.fromkeys(names, factors[key])
        rows[f"model.layers.{i}.input_layernorm.weight"] = np.reciprocal(factors["qkv"])
        rows[f"model.layers.{i}.post_attention_layernorm.weight"] = np.reciprocal(factors["gate_up"])
        values = np.reciprocal(_of_kv_heads(architecture, factors["o"]))
        rows |= {f"{attention}.v_proj.weight": values, f"{attention}.v_proj.bias": values}
        rows[f"{mlp}.up_proj.weight"] = np.reciprocal(factors["down"])
    return Rescaling(rows, columns)


def _factors(found: Vector, weights: Vector, strength: float) -> Vector:
    """What each channel is divided by. found, weights: the largest magnitudes of a channel and of its column."""
    factors = np.maximum(found, LEAST) ** strength / np.maximum(weights, LEAST) ** (1 - strength)
    return factors.astype(np.float32)


def _shared_by_groups(a: Architecture) -> Callable[[Vector], Vector]:
    """All query heads of a group read the same values, so they share the largest of their maxima. [q_size] -> same."""
    shape = (a.num_kv_heads, a.num_heads // a.num_kv_heads, a.head_size)

    def shared(x: Vector) -> Vector:
        grouped = x.reshape(shape)
        return np.broadcast_to(grouped.max(axis=1, keepdims=True), shape).reshape(-1)

    return shared


def _of_kv_heads(a: Architecture, x: Vector) -> Vector:
    """[q_size], equal within a group -> [kv_size]."""
    return x.reshape(a.num_kv_heads, a.num_heads // a.num_kv_heads, a.head_size)[:, 0].reshape(-1)
