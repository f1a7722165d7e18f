"""What the inputs of a checkpoint's products are like, measured on texts, and the weights that they meet.

In: texts on their way through the layers. Out: a `CalibratedLayer` for each layer in turn, with its weights still in
memory: so that one pass both measures a layer and writes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.checkpoint.tensors import BLOCK_BYTES
from rfprm_export.errors import CheckpointError
from rfprm_export.families.backbones import ATTENTION_NORM, MLP_NORM
from rfprm_export.oracle.device import to_numpy
from rfprm_export.oracle.layers import Layers, oracle_name

PRODUCTS = (*(f"self_attn.{part}_proj" for part in "qkvo"), *(f"mlp.{part}_proj" for part in ("gate", "up", "down")))
"""The modules of a layer that multiply by weights."""
NORMS = {
    ATTENTION_NORM: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    MLP_NORM: ("mlp.gate_proj", "mlp.up_proj"),
}
"""A layer's norms, and the modules behind each."""
INNER, ATTENDED = "mlp.down_proj", "self_attn.o_proj"
READERS = {**NORMS, ATTENDED: (ATTENDED,), INNER: (INNER,)}
"""Module whose input is recorded -> modules that share that input (behind a norm, up to the norm's weight)."""
BATCH, STRIP = 1_024, 1_024
"""Rows that are added to the moments at once; rows of the moments that are computed at once."""

Statistic = NDArray[np.float32]
Moments = list[torch.Tensor]
"""Second moments E[x^T x] of each group of columns, float32 [columns, columns], on the device of the pass."""


@dataclass(frozen=True, slots=True)
class Input:
    """Second moments of a product's input and of the weights that it is multiplied with.

    Either of each channel alone, float32 [channels]; or within each head of keys and values, over all heads that share
    it, float32 [num_kv_heads, head_size, head_size].

    Attributes:
        activations: The mean over rows.
        weights: The sum over outputs.
    """

    activations: Statistic
    weights: Statistic


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The inputs of a layer's products.

    Attributes:
        attention: Behind the attention's norm: rows of mean square 1; the norm's weight counts with the others.
        mlp: Likewise behind the MLP's norm.
        values: Of o_proj, by heads.
        inner: Of down_proj.
    """

    attention: Input
    mlp: Input
    values: Input
    inner: Input


@dataclass(frozen=True, slots=True)
class LayerRanges:
    """The largest magnitude of each channel in a layer, over all tokens.

    Attributes:
        inner: Of down_proj's input, float32 [intermediate_size].
        outputs: Of each product, by its module, float32 [outputs].
    """

    inner: Statistic
    outputs: dict[str, Statistic]


@dataclass(frozen=True, slots=True)
class CalibratedLayer:
    """A layer that all texts have passed.

    Attributes:
        index: Which layer.
        architecture: Of the checkpoint.
        module: The layer in PyTorch, with its weights. The next layer takes their place.
        moments: Of the input of each module that was asked for, by the module; behind a norm, of rows of mean square 1.
        ranges: None unless asked for.
    """

    index: int
    architecture: Architecture
    module: torch.nn.Module
    moments: dict[str, Moments]
    ranges: LayerRanges | None

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Give a tensor of the layer, by our name, in blocks of at most BLOCK_BYTES."""
        tensor = self._parameter(name.removeprefix(f"model.layers.{self.index}."))
        for rows in torch.split(tensor, max(1, BLOCK_BYTES // (4 * tensor[0].numel()))):
            yield to_numpy(rows)

    def norm_input(self, norm: str) -> Input:
        """Tell the input behind a norm; squares of the norm's weight count with the weights behind it."""
        squares = sum(self._parameter(f"{module}.weight").square().sum(0) for module in NORMS[norm])
        weights = squares * self._parameter(f"{norm}.weight").square()
        return Input(self._mean_squares(norm), to_numpy(weights))

    def statistics(self) -> LayerStatistics:
        """Tell all inputs, from moments of all modules in `READERS`."""
        architecture = self.architecture
        size, heads = architecture.head_size, architecture.num_heads
        (attended,) = self.moments[ATTENDED]
        weight = self._parameter(f"{ATTENDED}.weight")
        slices = [slice(head * size, (head + 1) * size) for head in range(heads)]
        shared = (architecture.num_kv_heads, heads // architecture.num_kv_heads, size, size)
        activations = torch.stack([attended[head, head] for head in slices])
        weights = torch.stack([weight[:, head].T @ weight[:, head] for head in slices])
        inner = self._parameter(f"{INNER}.weight").square().sum(0)
        attention, mlp = (self.norm_input(norm) for norm in NORMS)
        return LayerStatistics(
            attention=attention,
            mlp=mlp,
            values=Input(*(to_numpy(heads.reshape(shared).sum(1)) for heads in (activations, weights))),
            inner=Input(self._mean_squares(INNER), to_numpy(inner)),
        )

    def _parameter(self, name: str) -> torch.Tensor:
        parameter = self.module.get_parameter(oracle_name(self.architecture, name)).detach()
        offset = self.architecture.offset(f"model.layers.{self.index}.{name}")
        return parameter + offset if offset else parameter

    def _mean_squares(self, module: str) -> Statistic:
        return to_numpy(torch.cat([moment.diagonal() for moment in self.moments[module]]))


def calibrated_layers(
    layers: Layers,
    modules: Collection[str],
    groups: Mapping[str, Sequence[slice]] | None = None,
    *,
    ranges: bool = False,
) -> Iterator[CalibratedLayer]:
    """Push texts through all layers, and measure each.

    Args:
        layers: The texts, before the first layer.
        modules: Whose inputs' second moments are taken, keys of `READERS`.
        groups: Columns whose moments are taken, for a module whose columns are not one group.
        ranges: Whether the largest magnitudes are taken, too.

    Raises:
        CheckpointError: A layer gives NaN or infinity.
    """
    architecture = layers.checkpoint.architecture
    epsilon = architecture.norm_epsilon
    for index in range(architecture.num_layers):
        layer = layers.load()

        def submodule(ours: str, layer: torch.nn.Module = layer) -> torch.nn.Module:
            return layer.get_submodule(architecture.kind.of_oracle.theirs(ours))

        moments = {
            module: _SecondMoments((groups or {}).get(module), epsilon if module in NORMS else None)
            for module in modules
        }
        inner, outputs = _Largest(), {module: _Largest() for module in (PRODUCTS if ranges else ())}
        hooks = [
            *(submodule(module).register_forward_pre_hook(m.record) for module, m in moments.items()),
            *(submodule(module).register_forward_hook(m.record_output) for module, m in outputs.items()),
            *([submodule(INNER).register_forward_pre_hook(inner.record)] if ranges else ()),
        ]
        layers.run()
        for hook in hooks:
            hook.remove()
        measured = {module: m.means() for module, m in moments.items()}
        _require_finite(index, layers.hidden, measured)
        largest = (
            LayerRanges(inner.magnitudes(), {module: m.magnitudes() for module, m in outputs.items()})
            if ranges
            else None
        )
        yield CalibratedLayer(index, architecture, layer, measured, largest)


def _require_finite(index: int, hidden: Sequence[torch.Tensor], moments: dict[str, Moments]) -> None:
    diagonals = [moment.diagonal() for groups in moments.values() for moment in groups]
    if not all(bool(x.isfinite().all()) for x in (*hidden, *diagonals)):
        raise CheckpointError(
            f"what model.layers.{index} computes is no number any more: its weights, or those below it, hold NaN "
            "or infinity, or are too large for float32"
        )


class _Largest:
    """The largest magnitude of each channel among what a hook sees."""

    def __init__(self) -> None:
        self._largest: torch.Tensor | None = None

    def record(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest = torch.linalg.vector_norm(inputs[0].flatten(0, -2), ord=math.inf, dim=0)
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def record_output(self, module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        self.record(module, (output,))

    def magnitudes(self) -> Statistic:
        if self._largest is None:
            raise RuntimeError("no text passed")
        return to_numpy(self._largest)


class _SecondMoments:
    """The second moments of a module's input, over all tokens of all texts.

    epsilon: of the norm that rows pass; None where there is none.
    """

    def __init__(self, groups: Sequence[slice] | None, epsilon: float | None) -> None:
        self._groups, self._epsilon = groups or [slice(None)], epsilon
        self._waiting: list[torch.Tensor] = []
        self._sums: Moments = []
        self._rows = 0

    def record(self, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2)
        if self._epsilon is not None:
            rows = rows * (rows.square().mean(-1, keepdim=True) + self._epsilon).rsqrt()
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= BATCH:
            self._add()

    @torch.inference_mode()
    def _add(self) -> None:
        """Add x^T x of the rows that wait: of a symmetric matrix, what lies on and right of the diagonal strips."""
        rows = torch.cat(self._waiting)
        self._waiting.clear()
        self._rows += len(rows)
        groups = [rows[:, group] for group in self._groups]
        self._sums = self._sums or [group.new_zeros(group.shape[1], group.shape[1]) for group in groups]
        for total, group in zip(self._sums, groups, strict=True):
            for start in range(0, len(total), STRIP):
                total[start : start + STRIP, start:].addmm_(group[:, start : start + STRIP].T, group[:, start:])

    @torch.inference_mode()
    def means(self) -> Moments:
        if self._waiting:
            self._add()
        for total in self._sums:
            total /= self._rows
            for start in range(0, len(total), STRIP):
                end = start + STRIP
                total[end:, start:end] = total[start:end, end:].T
        return self._sums
