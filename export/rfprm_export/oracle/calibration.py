"""What the activations of a checkpoint are like, measured on texts, and the weights that they meet.

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

from rfprm_export.checkpoint.tensors import Architecture
from rfprm_export.oracle.reference import Reference

PRODUCTS = (*(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down")))
"""The modules of a layer that multiply by weights."""
NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""A layer's norms, and what reads them."""
INNER, ATTENDED = "mlp.down_proj", "self_attn.o_proj"

MOST_BYTES = 160 << 20
"""Of the residual stream of all texts, which stays in memory: 46,800 tokens at a hidden size of 896, 11,700 at
3,584."""

Statistic = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Input:
    """Of what products read. read: second moments; weights: the same of the weights that read it, summed over outputs.

    Of each channel alone float32 [channels], or within each head of keys and values, over all that share it, float32
    [num_kv_heads, head_size, head_size].
    """

    read: Statistic
    weights: Statistic


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Over all tokens. attention, mlp: behind each norm, rows of mean square 1, the norm's weights counted with the
    others. values: what o_proj reads, by heads. inner: what down_proj reads, inner_largest the largest magnitude among
    it; outputs: that of each product, by its module."""

    attention: Input
    mlp: Input
    values: Input
    inner: Input
    inner_largest: float
    outputs: dict[str, float]

    def is_finite(self) -> bool:
        inputs = (self.attention, self.mlp, self.values, self.inner)
        return all(np.isfinite(x.read).all() and np.isfinite(x.weights).all() for x in inputs)


Statistics = Sequence[LayerStatistics]


def measure(reference: Reference, ids: Sequence[NDArray[np.int64]]) -> tuple[Statistics, list[Statistic]]:
    """ids: int64 [tokens] for each text. Returns a LayerStatistics a layer; and the rewards at every position of each
    text, float32 [tokens]."""
    architecture = reference.checkpoint.architecture
    layers: list[LayerStatistics] = []

    @contextmanager
    def watch(_index: int, layer: torch.nn.Module) -> Iterator[None]:
        norms = {name: _Squares(architecture.norm_epsilon) for name in NORMS}
        inner, largest, attended = _Squares(), _Largest(), _HeadMoments(architecture)
        outputs = {module: _Largest() for module in PRODUCTS}
        hooks = [
            layer.get_submodule(name).register_forward_pre_hook(lambda _module, read, see=see: see(read[0]))
            for name, see in (
                *((name, seen.see) for name, seen in norms.items()),
                (INNER, inner.see),
                (INNER, largest.see),
                (ATTENDED, attended.see),
            )
        ]
        hooks += [
            layer.get_submodule(module).register_forward_hook(lambda _module, _read, made, seen=seen: seen.see(made))
            for module, seen in outputs.items()
        ]
        yield
        for hook in hooks:
            hook.remove()
        attention, mlp = (Input(seen.mean(), _norm_weights(layer, name)) for name, seen in norms.items())
        layers.append(
            LayerStatistics(
                attention=attention,
                mlp=mlp,
                values=Input(attended.mean(), attended.of(_weight(layer, ATTENDED))),
                inner=Input(inner.mean(), _weight(layer, INNER).square().sum(0).numpy()),
                inner_largest=largest.magnitude,
                outputs={module: seen.magnitude for module, seen in outputs.items()},
            )
        )

    rewards = reference.rewards([torch.from_numpy(text)[None] for text in ids], watch)
    return layers, rewards


def _weight(layer: torch.nn.Module, module: str) -> torch.Tensor:
    return layer.get_parameter(f"{module}.weight").detach()


def _norm_weights(layer: torch.nn.Module, norm: str) -> Statistic:
    squares = torch.stack([_weight(layer, module).square().sum(0) for module in NORMS[norm]]).sum(0)
    product: Statistic = (squares * _weight(layer, norm).square()).numpy()
    return product


class _Largest:
    """The largest magnitude seen."""

    def __init__(self) -> None:
        self.magnitude = 0.0

    def see(self, x: torch.Tensor) -> None:
        lowest, highest = torch.aminmax(x)
        self.magnitude = max(self.magnitude, -float(lowest), float(highest))


class _Mean:
    """Of what rows add up to, over all rows seen."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum = torch.zeros(1, dtype=torch.float64)

    def add(self, rows: int, sums: torch.Tensor) -> None:
        self._rows += rows
        self._sum = self._sum + sums

    def mean(self) -> Statistic:
        mean: Statistic = (self._sum / self._rows).float().numpy()
        return mean


class _Squares(_Mean):
    """Each column's mean square. epsilon: of the norm that rows pass first, where there is one."""

    def __init__(self, epsilon: float | None = None) -> None:
        super().__init__()
        self._epsilon = epsilon

    def see(self, x: torch.Tensor) -> None:
        squares = x.flatten(0, -2).square()
        if self._epsilon is not None:
            squares = squares / (squares.mean(-1, keepdim=True) + self._epsilon)
        self.add(len(squares), squares.sum(0))


class _HeadMoments(_Mean):
    """Second moments within heads, summed over the heads that share keys and values."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self._shape = (architecture.num_kv_heads, -1, architecture.head_size)

    def see(self, x: torch.Tensor) -> None:
        rows = x.flatten(0, -2)
        self.add(len(rows), torch.from_numpy(self.of(rows)))

    def of(self, rows: torch.Tensor) -> Statistic:
        """Summed over rows [rows, num_heads * head_size] and the heads that share."""
        shared = rows.reshape(len(rows), *self._shape).transpose(0, 1).flatten(1, 2)
        moments: Statistic = (shared.transpose(1, 2) @ shared).numpy()
        return moments
