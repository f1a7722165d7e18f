"""The files of a bundle.

In: a checkpoint, its head and recipe. Out: the tokenizer, a graph with its external data, and their `File` entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export import graph
from rfprm_export.arithmetic import LARGEST
from rfprm_export.checkpoint import Checkpoint, read_json
from rfprm_export.head import Tensors
from rfprm_export.recipes import ExportRecipe
from rfprm_export.smoothing import NONE, Rescaling
from rfprm_export.variants import VariantRecipe
from rfprm_export.weights import WeightFile
from rfprm_lite.bundle import sha256
from rfprm_lite.manifest import File


class CheckpointWeights:
    """A checkpoint's tensors and its head's, streamed into a data file as the graph asks for them."""

    def __init__(self, checkpoint: Checkpoint, head: Tensors, file: WeightFile, rescaling: Rescaling) -> None:
        self._checkpoint, self._head, self._file, self._rescaling = checkpoint, head, file, rescaling

    def stacked(self, name: str, sources: Sequence[str]) -> ir.Value:
        """The sources one above the other, along their first axis."""
        shapes = [self._shape(source) for source in sources]
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
        return self._file.add(name, shape, (block for source in sources for block in self._blocks(source)))

    def quantised(self, name: str, sources: Sequence[str], *, transposed: bool) -> tuple[ir.Value, ir.Value]:
        """The sources stacked and in s8, or the transpose of that; and the scale of each row of the stack."""
        parts = [quantise_rows(block) for source in sources for block in self._blocks(source)]
        values, scales = (np.concatenate(part) for part in zip(*parts, strict=True))
        if transposed:
            values = np.ascontiguousarray(values.T)
        weight = self._file.add(f"{name}.weight_s8", values.shape, [values], ir.DataType.INT8)
        return weight, self._file.add(f"{name}.scale", scales.shape, [scales])

    def constant(self, name: str, value: NDArray[np.float32]) -> ir.Value:
        return self._file.add(name, value.shape, [value])

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._head[name].shape if name in self._head else self._checkpoint.shape(name)

    def _blocks(self, name: str) -> Iterable[NDArray[np.float32]]:
        blocks = iter([self._head[name]]) if name in self._head else self._checkpoint.blocks(name)
        return self._rescaling.apply(name, blocks)


SMALLEST = np.float32(1e-30)
"""A row without a larger value becomes zeros: its scale would leave the range in which float32 is exact."""


def quantise_rows(block: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows to the nearest of -127 to 127 times a scale of their own. block: [rows, columns]; s8 and float32 [rows]."""
    largest = np.abs(block).max(axis=1, initial=0)
    scales = np.where(largest > SMALLEST, largest / LARGEST, 1).astype(np.float32)
    return np.rint(block / scales[:, None]).astype(np.int8), scales


def write_variant(
    folder: Path,
    variant: VariantRecipe,
    checkpoint: Checkpoint,
    spec: ExportRecipe,
    head: Tensors,
    rescaling: Rescaling = NONE,
    written: Callable[[int], None] = lambda _bytes: None,
) -> tuple[File, ...]:
    """model.onnx and model.onnx.data in a folder of the variant's name below `folder`. written: told the bytes."""
    (folder / variant.name).mkdir()
    path = folder / variant.name / "model.onnx"
    data = path.with_name("model.onnx.data")
    with WeightFile(data, written) as file:
        weights = CheckpointWeights(checkpoint, head, file, rescaling)
        model = graph.build(checkpoint.architecture, spec.recipe.head, spec.head.names, weights, variant.arithmetic)
    ir.save(model, path)
    return entry(folder, path), entry(folder, data)


def write_tokenizer(folder: Path, checkpoint: Checkpoint) -> File:
    """tokenizer.json, in which every added token is marked as special.

    The runtime encodes text with special tokens switched off. Qwen2.5 adds some (`<tool_call>`, `<|fim_prefix|>`) that
    it does not call special, and a checkpoint may do so with its separator: text could forge them.
    """
    tokenizer = read_json(checkpoint.folder / "tokenizer.json")
    for added in tokenizer.get("added_tokens", []):
        added["special"] = True
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return entry(folder, path)


def entry(folder: Path, path: Path) -> File:
    """The manifest's entry of a file in `folder`."""
    return File(path.relative_to(folder).as_posix(), sha256(path), path.stat().st_size)
