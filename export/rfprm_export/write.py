"""The files of a bundle.

In: a checkpoint, its head and recipe. Out: the tokenizer, a graph with its external data, and their `File` entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export import graph
from rfprm_export.checkpoint import Checkpoint, read_json
from rfprm_export.head import Tensors
from rfprm_export.recipes import ExportRecipe
from rfprm_export.weights import WeightFile
from rfprm_lite.bundle import sha256
from rfprm_lite.manifest import File


class CheckpointWeights:
    """A checkpoint's tensors and its head's, streamed into a data file as the graph asks for them."""

    def __init__(self, checkpoint: Checkpoint, head: Tensors, file: WeightFile) -> None:
        self._checkpoint, self._head, self._file = checkpoint, head, file

    def stacked(self, name: str, sources: Sequence[str]) -> ir.Value:
        """The sources one above the other, along their first axis."""
        shapes = [self._shape(source) for source in sources]
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
        return self._file.add(name, shape, (block for source in sources for block in self._blocks(source)))

    def constant(self, name: str, value: NDArray[np.float32]) -> ir.Value:
        return self._file.add(name, value.shape, [value])

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._head[name].shape if name in self._head else self._checkpoint.shape(name)

    def _blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        return iter([self._head[name]]) if name in self._head else self._checkpoint.blocks(name)


def write_fp32(folder: Path, checkpoint: Checkpoint, spec: ExportRecipe, head: Tensors) -> tuple[File, ...]:
    """fp32/model.onnx and fp32/model.onnx.data below `folder`."""
    (folder / "fp32").mkdir()
    path = folder / "fp32" / "model.onnx"
    data = path.with_name("model.onnx.data")
    with WeightFile(data) as file:
        weights = CheckpointWeights(checkpoint, head, file)
        model = graph.build(checkpoint.architecture, spec.recipe.head, spec.head.names, weights)
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
