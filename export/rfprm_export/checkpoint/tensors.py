"""A Hugging Face checkpoint: the shapes of its tensors, and these in blocks of rows.

In: a folder with config.json and safetensors shards. Out: an `Outline` and float32 blocks. Runs no code of the
checkpoint; never holds more than a block of a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rfprm_export.checkpoint.architecture import Architecture, Shape
from rfprm_export.errors import CheckpointError

BLOCK_BYTES = 64 << 20
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Where tensors are: in one file, or in those that the index names."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a checkpoint before its weights are there.

    Attributes:
        folder: With its config and tokenizer at least.
        architecture: The backbone.
        shapes: Of its tensors, by name.
        still_to_come: Bytes of weights that are not on this machine.
    """

    folder: Path
    architecture: Architecture
    shapes: dict[str, Shape]
    still_to_come: int = 0

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
            raise CheckpointError(f"the checkpoint lacks {_listed(missing)}; it has {_listed(sorted(self.shapes))}")
        surplus = sorted(self.shapes.keys() - expected.keys() - ignored)
        if surplus:
            raise CheckpointError(f"the checkpoint holds tensors that no recipe accounts for: {_listed(surplus)}")
        for name, shape in expected.items():
            actual = self.shapes[name]
            if actual != shape:
                raise CheckpointError(f"{name} has shape {list(actual)}, the recipe and config.json say {list(shape)}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        folder: Where it is.
        architecture: The backbone.
        shards: The safetensors file of each tensor.
    """

    folder: Path
    architecture: Architecture
    shards: dict[str, Path]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a folder.

        Raises:
            CheckpointError: A file is missing or not as expected.
        """
        return cls(folder, load_architecture(folder), _find_shards(folder))

    def outline(self) -> Outline:
        """Tell what the checkpoint holds."""
        return Outline(self.folder, self.architecture, {name: self.shape(name) for name in self.shards})

    def shape(self, name: str) -> Shape:
        """Tell the shape of a tensor."""
        with self._opened(name) as shard:
            return tuple(shard.get_slice(name).get_shape())

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Load a tensor in float32, in blocks of at most BLOCK_BYTES along its first axis."""
        shape = self.shape(name)
        rows = max(1, BLOCK_BYTES // (4 * max(1, int(np.prod(shape[1:])))))
        for start in range(0, shape[0], rows):
            # Opened anew for each block: a mapped shard counts as resident memory as far as it was read.
            with self._opened(name) as shard:
                yield shard.get_slice(name)[start : start + rows].float().numpy()

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Load a whole tensor in float32."""
        return np.concatenate(list(self.blocks(name)))

    def _opened(self, name: str) -> safe_open:
        return safe_open(self.shards[name], framework="pt")


def load_architecture(folder: Path) -> Architecture:
    """Load the architecture of a checkpoint's folder.

    Raises:
        CheckpointError: config.json is missing or not as expected.
    """
    return Architecture.from_config(load_json(folder / "config.json"))


def load_json(path: Path) -> dict[str, Any]:
    """Load a JSON object.

    Raises:
        CheckpointError: The file is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def load_shards(index: Path) -> dict[str, str]:
    """Load from an index the file of each tensor, both by name.

    Raises:
        CheckpointError: The index is not as expected.
    """
    weight_map = load_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index}: {name} is in {file!r}, which is no file beside it")
    return weight_map


def _find_shards(folder: Path) -> dict[str, Path]:
    if (folder / INDEX).is_file():
        shards = {name: folder / file for name, file in load_shards(folder / INDEX).items()}
    elif (folder / SINGLE).is_file():
        shards = dict.fromkeys(_names(folder / SINGLE), folder / SINGLE)
    else:
        raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}")
    for path in sorted(set(shards.values())):
        named = {name for name, where in shards.items() if where == path}
        absent = named - _names(path)
        if absent:
            raise CheckpointError(f"{path} lacks {_listed(sorted(absent))}, which the index says it holds")
    return shards


def _names(path: Path) -> set[str]:
    try:
        with safe_open(path, framework="pt") as shard:
            return set(shard.keys())
    except FileNotFoundError as error:
        raise CheckpointError(f"the shard {path} is missing") from error
    except SafetensorError as error:
        raise CheckpointError(f"the shard {path} can't be read, it may be truncated: {error}") from error


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
