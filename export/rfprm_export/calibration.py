"""What the activations of a checkpoint are like, measured on texts.

In: a checkpoint and token ids. Out: for each product's input the largest magnitude of every channel. One layer is in
memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.checkpoint import Checkpoint
from rfprm_export.reference import through_layers

INPUTS = {"qkv": "self_attn.q_proj", "o": "self_attn.o_proj", "gate_up": "mlp.gate_proj", "down": "mlp.down_proj"}
"""A module that reads each of a layer's inputs."""

Ranges = list[dict[str, NDArray[np.float32]]]
"""For each layer, by the keys of INPUTS: float32 [features], the largest magnitude of each channel."""


def measure(checkpoint: Checkpoint, ids: Sequence[NDArray[np.int64]]) -> Ranges:
    """ids: int64 [tokens] for each text."""
    ranges: Ranges = []

    @contextmanager
    def watch(_index: int, layer: torch.nn.Module) -> Iterator[None]:
        found: dict[str, torch.Tensor] = {}
        with ExitStack() as hooks:
            for key, module in INPUTS.items():
                handle = layer.get_submodule(module).register_forward_pre_hook(_recorder(found, key))
                hooks.callback(handle.remove)
            yield
        ranges.append({key: value.numpy() for key, value in found.items()})

    through_layers(checkpoint, [torch.from_numpy(text)[None] for text in ids], watch)
    return ranges


def _recorder(found: dict[str, torch.Tensor], key: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor]], None]:
    def record(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        largest = inputs[0].flatten(0, -2).abs().amax(0)
        found[key] = torch.maximum(found.get(key, largest), largest)

    return record
