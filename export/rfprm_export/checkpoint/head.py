"""The reward head of a checkpoint: from its shards, from a file beside them, or rows of the language model's head.

Out: float32 arrays under the names that every graph uses, `head.0.weight`, `head.0.bias` and so on, names and shapes
asserted. A pickle is loaded with `weights_only=True`, which runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from rfprm_export.checkpoint.architecture import Architecture, Shape
from rfprm_export.checkpoint.pickles import unpickled
from rfprm_export.checkpoint.shards import SAFETENSORS
from rfprm_export.checkpoint.tensors import Checkpoint, Outline
from rfprm_export.errors import CheckpointError, RecipeError
from rfprm_export.families.family import ExportRecipe, HeadTensors
from rfprm_lite.bundle.recipe import Head

Tensors = dict[str, NDArray[np.float32]]

LM_HEAD = "lm_head.weight"
"""Exported only as far as its rows are the reward head."""
EMBEDDINGS = "model.embed_tokens.weight"
"""What takes the place of the language model's head where both are tied."""


def head_names(head: Head) -> list[tuple[str, str]]:
    """Weight and bias of each linear layer, as graphs call them."""
    return [(f"head.{i}.weight", f"head.{i}.bias") for i in range(1 if head.layers == "linear" else 2)]


def head_shapes(architecture: Architecture, head: Head) -> dict[str, Shape]:
    """The shapes of the head's tensors, by the names that graphs use."""
    hidden = architecture.hidden_size
    rows = [head.outputs] if head.layers == "linear" else [hidden, head.outputs]
    shapes: dict[str, Shape] = {}
    for (weight, bias), size in zip(head_names(head), rows, strict=True):
        shapes[weight], shapes[bias] = (size, hidden), (size,)
    return shapes


def check_head(outline: Outline, head: Head, tensors: HeadTensors) -> None:
    """Check that the checkpoint holds the backbone, the head and nothing else.

    Args:
        outline: Of the checkpoint.
        head: The recipe's.
        tensors: Where it is.

    Raises:
        CheckpointError: A tensor or the head's file is missing or not as expected.
        RecipeError: The head's file holds another head.
    """
    backbone = outline.architecture.backbone()
    ignored = frozenset({LM_HEAD})
    if tensors.labels:
        outline.check_shapes(backbone, ignored)
    elif tensors.files:
        outline.check_shapes(backbone, ignored)
        _load_beside(outline.folder, tensors, _source_shapes(outline.architecture, head, tensors))
    else:
        outline.check_shapes(backbone | _source_shapes(outline.architecture, head, tensors), ignored)


def load_head(checkpoint: Checkpoint, spec: ExportRecipe) -> Tensors:
    """Load the head's tensors, float32, by the names that graphs use. A bias that there is not is zero.

    Args:
        checkpoint: The source.
        spec: The recipe.

    Raises:
        CheckpointError: The head's file is missing or not as expected.
        RecipeError: It holds another head.
    """
    head, tensors = spec.recipe.head, spec.head
    if spec.rows:
        return {"head.0.weight": _rows(checkpoint, spec.rows), "head.0.bias": np.zeros(len(spec.rows), np.float32)}
    shapes = _source_shapes(checkpoint.architecture, head, tensors)
    if tensors.files:
        sources = _load_beside(checkpoint.folder, tensors, shapes)
    else:
        sources = {name: checkpoint.tensor(name) for name in shapes}
    expected = head_shapes(checkpoint.architecture, head)
    loaded: Tensors = {}
    for names, ours in zip(tensors.layers, head_names(head), strict=True):
        for source, name in zip(names, ours, strict=True):
            loaded[name] = sources[source] if source else np.zeros(expected[name], np.float32)
    return loaded


def _rows(checkpoint: Checkpoint, rows: tuple[int, ...]) -> NDArray[np.float32]:
    """Rows of the language model's head."""
    name = LM_HEAD if LM_HEAD in checkpoint.tensors else EMBEDDINGS
    found: dict[int, NDArray[np.float32]] = {}
    start = 0
    for block in checkpoint.blocks(name):
        found |= {row: block[row - start].copy() for row in rows if start <= row < start + len(block)}
        start += len(block)
    missing = [row for row in rows if row not in found]
    if missing:
        raise CheckpointError(f"{name} has {start} rows, the label's token is {missing[0]}")
    return np.stack([found[row] for row in rows])


def _source_shapes(architecture: Architecture, head: Head, tensors: HeadTensors) -> dict[str, Shape]:
    """The shapes of the head's tensors, by the checkpoint's names."""
    expected = head_shapes(architecture, head)
    pairs = zip(tensors.layers, head_names(head), strict=True)
    return {source: expected[name] for names, ours in pairs for source, name in zip(names, ours, strict=True) if source}


def _load_beside(folder: Path, tensors: HeadTensors, shapes: Mapping[str, Shape]) -> Tensors:
    path = next((folder / file for file in tensors.files if (folder / file).is_file()), None)
    if path is None:
        names = " or ".join(str(folder / file) for file in tensors.files)
        raise CheckpointError(f"{names} is missing: without it the checkpoint is a language model, no PRM")
    held = _tensors(path)
    if missing := shapes.keys() - held.keys():
        raise RecipeError(f"{path.name} holds {sorted(held)}, the recipe expects {sorted(shapes)}: no {min(missing)}")
    for name, shape in shapes.items():
        if held[name].shape != shape:
            raise RecipeError(f"{path.name}: {name} has shape {list(held[name].shape)}, not {list(shape)}")
    return {name: held[name].float().numpy() for name in shapes}


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != SAFETENSORS:
        return unpickled(path)
    try:
        return dict(load_file(path))
    except Exception as error:  # besides its own error, those of PyTorch for a type that it lacks
        raise CheckpointError(f"{path} is no file of tensors, so it was not loaded: {error}") from error
