"""A Hugging Face checkpoint: the shapes of its tensors, and these in blocks of rows.

In: a folder with config.json and shards. Out: an `Outline` and float32 blocks, by our names
(rfprm_export.checkpoint.names), of which each means what Llama's does. Runs no code of the checkpoint; never holds more
than a block of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_export.checkpoint.adapter import Adapter
from rfprm_export.checkpoint.architecture import Architecture, Shape
from rfprm_export.checkpoint.names import Rows, blocks_of, find_rows
from rfprm_export.checkpoint.shards import find_files, listed, load_json, read, shapes_in
from rfprm_export.errors import CheckpointError
from rfprm_export.families.recognise import require_supported

__all__ = ["BLOCK_BYTES", "Checkpoint", "Outline", "load_architecture", "load_json"]

BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a checkpoint before its weights are there.

    Attributes:
        folder: With its config and tokenizer at least.
        architecture: The backbone.
        shapes: Of its tensors, by our names.
        still_to_come: Bytes of weights that are not on this machine.
        base: Of the checkpoint that an adapter in `folder` adds to; None where `folder` has all weights.
    """

    folder: Path
    architecture: Architecture
    shapes: dict[str, Shape]
    still_to_come: int = 0
    base: Outline | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says; an adapter's base has it."""
        return load_json((self.base or self).folder / "config.json")

    @classmethod
    def of_files(
        cls, folder: Path, architecture: Architecture, shapes: Mapping[str, Shape], still_to_come: int = 0
    ) -> Outline:
        """Make an outline of shapes by their names in the files.

        Raises:
            CheckpointError: See `find_rows`.
        """
        rows = find_rows(shapes, architecture)
        return cls(folder, architecture, {name: found.shape for name, found in rows.items()}, still_to_come)

    def with_adapter(self, folder: Path) -> Outline:
        """Outline this checkpoint with the adapter in a folder, whose tokenizer counts.

        Raises:
            CheckpointError: See `Adapter.open`.
        """
        shapes = {**self.shapes, **Adapter.open(folder, self.architecture, self.shapes).shapes}
        return Outline(folder, self.architecture, shapes, self.still_to_come, self)

    def check_shapes(self, expected: dict[str, Shape], ignored: frozenset[str]) -> None:
        """Check the tensors' names and shapes.

        Args:
            expected: What the checkpoint must hold.
            ignored: What it may hold besides.

        Raises:
            CheckpointError: It lacks a tensor, holds another, or one has another shape.
        """
        missing = sorted(expected.keys() - self.shapes.keys())
        if missing:
            raise CheckpointError(f"the checkpoint lacks {listed(missing)}; it has {listed(sorted(self.shapes))}")
        surplus = sorted(self.shapes.keys() - expected.keys() - ignored)
        if surplus:
            raise CheckpointError(f"the checkpoint holds tensors that no recipe accounts for: {listed(surplus)}")
        for name, shape in expected.items():
            actual = self.shapes[name]
            if actual != shape:
                raise CheckpointError(f"{name} has shape {list(actual)}, the recipe and config.json say {list(shape)}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        folder: With its tokenizer.
        config_folder: With its config.json.
        architecture: The backbone.
        tensors: The file of each tensor, and its rows there, by our names.
        adapter: What adds to them.
    """

    folder: Path
    config_folder: Path
    architecture: Architecture
    tensors: dict[str, tuple[Path, Rows]]
    adapter: Adapter | None = None

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a folder.

        Raises:
            CheckpointError: A file is missing or not as expected.
        """
        architecture, files = load_architecture(folder), find_files(folder)
        shapes = {path: shapes_in(path) for path in sorted(set(files.values()))}
        rows = find_rows({name: shapes[path][name] for name, path in files.items()}, architecture)
        return cls(folder, folder, architecture, {name: (files[found.name], found) for name, found in rows.items()})

    def outline(self) -> Outline:
        """Tell what the checkpoint holds."""
        plain = Outline(self.folder, self.architecture, {name: rows.shape for name, (_, rows) in self.tensors.items()})
        if self.adapter is None:
            return plain
        return replace(plain, shapes={**plain.shapes, **self.adapter.shapes})

    def with_adapter(self, folder: Path) -> Checkpoint:
        """Give this checkpoint with the adapter in a folder, whose tokenizer counts.

        Raises:
            CheckpointError: See `Adapter.open`.
        """
        return replace(self, folder=folder, adapter=Adapter.open(folder, self.architecture, self.outline().shapes))

    def shape(self, name: str) -> Shape:
        """Tell the shape of a tensor."""
        own = self.adapter.shapes if self.adapter else {}
        return own[name] if name in own else self.tensors[name][1].shape

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Load a tensor in float32, in blocks of at most BLOCK_BYTES along its first axis.

        Raises:
            CheckpointError: A value is no number.
        """
        for block in self._blocks(name):
            # 8-bit products hide a NaN: rewards would be finite, and wrong.
            if wrong := block.size - int(np.isfinite(block).sum()):
                raise CheckpointError(f"{name} has {wrong} values or more that are no numbers but NaN or infinity")
            yield block

    def _blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        if self.adapter and name in self.adapter.own:
            yield self.adapter.tensor(name)
            return
        path, rows = self.tensors[name]
        most = max(1, BLOCK_BYTES // (4 * max(1, int(np.prod(rows.shape[1:])))))
        offset = np.float32(self.architecture.offset(name))
        for start, end in blocks_of(rows.runs, most):
            block = read(path, rows.name, start, end)
            if self.adapter:
                block = self.adapter.add(name, block, start, end)
            yield block + offset if offset else block

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Load a whole tensor in float32."""
        return np.concatenate(list(self.blocks(name)))


def load_architecture(folder: Path) -> Architecture:
    """Load the architecture of a checkpoint's folder.

    Raises:
        CheckpointError: config.json is missing or not as expected.
        RecipeError: It is a kind of model that is known and can't be exported.
    """
    config = load_json(folder / "config.json")
    require_supported(config)
    return Architecture.from_config(config)
