"""The files that hold a checkpoint's tensors: safetensors, or PyTorch's own `.bin`.

In: a folder. Out: which file each tensor is in, shapes, and rows in float32. A `.bin` is loaded with
`weights_only=True`, which runs no code, and mapped, so that only what is asked for is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rfprm_export.checkpoint.architecture import Shape
from rfprm_export.checkpoint.pickles import unpickled
from rfprm_export.errors import CheckpointError

SAFETENSORS, PYTORCH = ".safetensors", ".bin"
SINGLES = ("model.safetensors", "pytorch_model.bin")
"""Files that hold all tensors; the first one that is there counts."""
INDEXES = tuple(f"{single}.index.json" for single in SINGLES)
"""Files that name the shard of each tensor, likewise, before any single file."""


def shards_of(folder: Path) -> dict[str, set[str]]:
    """Tell the files of a folder's tensors, and which tensors each has to hold; none are named where no index does.

    Raises:
        CheckpointError: There is no such file.
    """
    for index in INDEXES:
        if (folder / index).is_file():
            shards: dict[str, set[str]] = {}
            for name, file in _weight_map(folder / index).items():
                shards.setdefault(file, set()).add(name)
            return shards
    for single in SINGLES:
        if (folder / single).is_file():
            return {single: set()}
    raise CheckpointError(f"{folder} has none of {', '.join((*INDEXES, *SINGLES))}")


def find_files(folder: Path) -> dict[str, Path]:
    """Find the file of each tensor, by name.

    Raises:
        CheckpointError: A file is missing or not as expected.
    """
    files: dict[str, Path] = {}
    for file, named in shards_of(folder).items():
        held = shapes_in(folder / file).keys()
        if absent := sorted(named - held):
            raise CheckpointError(f"{folder / file} lacks {listed(absent)}, which the index says it holds")
        files |= dict.fromkeys(named or held, folder / file)
    return files


def shapes_in(path: Path) -> dict[str, Shape]:
    """Tell the shapes of a file's tensors, by name.

    Raises:
        CheckpointError: The file is missing or can't be read.
    """
    if path.suffix == PYTORCH:
        return {name: tuple(tensor.shape) for name, tensor in _mapped(path).items()}
    try:
        with safe_open(path, framework="pt") as shard:
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118  # no dict
    except FileNotFoundError as error:
        raise CheckpointError(f"the shard {path} is missing") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the shard {path} can't be read, it may be truncated: {error}") from error


def read(path: Path, name: str, start: int, end: int) -> NDArray[np.float32]:
    """Read rows of a tensor, float32."""
    # Opened anew for each block: a mapped shard counts as resident memory as far as it was read.
    if path.suffix == PYTORCH:
        rows: NDArray[np.float32] = _mapped(path)[name][start:end].float().numpy()
        return rows
    with safe_open(path, framework="pt") as shard:
        values: NDArray[np.float32] = shard.get_slice(name)[start:end].float().numpy()
        return values


def load_json(path: Path) -> dict[str, Any]:
    """Load a JSON object.

    Raises:
        CheckpointError: The file is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def listed(names: list[str], most: int = 6) -> str:
    """Say names in words, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, both by name."""
    weight_map = load_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file.isprintable() or Path(file).name != file or not file:
            raise CheckpointError(f"{index}: {name} is in {file!r}, which is no file beside it")
    return weight_map


def _mapped(path: Path) -> dict[str, torch.Tensor]:
    """A file of PyTorch's, of which only the names are read."""
    try:
        return unpickled(path, mapped=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"the shard {path} is missing") from error
