"""The second moments of what a network's products read, measured on texts while its weights are written.

In: a checkpoint, token ids, and how the changed network reads. Out: for each weight of a layer, how to round it. One
layer is in memory at a time: layers have to be asked for in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.oracle.calibration import ATTENDED, INNER, NORMS
from rfprm_export.oracle.reference import Layers
from rfprm_export.quantize.gptq import with_feedback
from rfprm_export.quantize.passes import Reads
from rfprm_export.quantize.round import Round

READERS = {
    name: tuple(f"{module}.weight" for module in modules)
    for name, modules in {**NORMS, ATTENDED: (ATTENDED,), INNER: (INNER,)}.items()
}
"""Modules of a layer, and the weights that are multiplied with the same: what a norm gives, or what a product reads."""

MOST_COLUMNS = 5_120
"""Of a group of columns that make up for each other's errors: its moments and their factors are squares of that."""


class Moments:
    """ids: int64 [tokens] for each text. reads: of the changed network."""

    def __init__(self, checkpoint: Checkpoint, ids: Sequence[NDArray[np.int64]], reads: Reads) -> None:
        self._layers = Layers(checkpoint, [torch.from_numpy(text)[None] for text in ids])
        self._epsilon = checkpoint.architecture.norm_epsilon
        self._reads = reads
        self._rounds: dict[str, Round] = {}

    def round(self, weight: str) -> Round:
        """How to round a weight of a layer, by its name in the checkpoint."""
        layer = int(weight.split(".")[2])
        if layer < self._layers.passed - 1:
            raise ValueError(f"{weight} comes too late: layer {self._layers.passed - 1} was reached already")
        while self._layers.passed <= layer:
            self._rounds.clear()
            self._layers.advance(self._watch)
        return self._rounds[weight]

    @contextmanager
    def _watch(self, index: int, layer: torch.nn.Module) -> Iterator[None]:
        seen = {module: _Seen(self._turned(index, module)) for module in READERS}
        hooks = [layer.get_submodule(module).register_forward_pre_hook(own.see) for module, own in seen.items()]
        yield
        for hook in hooks:
            hook.remove()
        while seen:  # what one is made of is let go of before the next
            module, own = seen.popitem()
            rounding = with_feedback(own.moments)
            self._rounds |= {f"model.layers.{index}.{weight}": rounding for weight in READERS[module]}

    def _turned(self, index: int, module: str) -> Callable[[torch.Tensor], torch.Tensor]:
        weight = f"model.layers.{index}.{READERS[module][0]}"

        def turned(x: torch.Tensor) -> torch.Tensor:
            if module in NORMS:
                x = x * (x.square().mean(-1, keepdim=True) + self._epsilon).rsqrt()
            return torch.from_numpy(self._reads(weight, x.numpy()))

        return turned


class _Seen:
    """The second moments of all rows seen, in groups of columns."""

    def __init__(self, turned: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._turned = turned
        self.moments: list[torch.Tensor] = []

    def see(self, _module: torch.nn.Module, read: tuple[torch.Tensor, ...]) -> None:
        groups = [group.contiguous() for group in self._split(self._turned(read[0].flatten(0, -2)))]
        if not self.moments:
            self.moments = [torch.zeros(group.shape[1], group.shape[1]) for group in groups]
        for moment, group in zip(self.moments, groups, strict=True):
            moment.addmm_(group.T, group)

    def _split(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rows.tensor_split(-(-rows.shape[1] // MOST_COLUMNS), dim=1)
