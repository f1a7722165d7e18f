"""The reward head of a checkpoint, from its shards or from a PyTorch pickle beside them.

Out: float32 arrays by name, their names and shapes asserted. A pickle is loaded with `weights_only=True`, which runs
no code.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.checkpoint import Checkpoint
from rfprm_export.errors import CheckpointError, RecipeError
from rfprm_export.recipes import ExportRecipe

Tensors = dict[str, NDArray[np.float32]]

LM_HEAD = frozenset({"lm_head.weight"})
"""Never exported: a PRM needs no vocabulary logits."""


def load_head(checkpoint: Checkpoint, spec: ExportRecipe) -> Tensors:
    """The head's tensors, after checking that the checkpoint holds the backbone, this head and nothing else.

    Raises CheckpointError, RecipeError.
    """
    shapes = _shapes(checkpoint, spec)
    backbone = checkpoint.architecture.backbone()
    if spec.head.file is None:
        checkpoint.check_shapes(backbone | shapes, LM_HEAD)
        return {name: checkpoint.tensor(name) for name in shapes}
    checkpoint.check_shapes(backbone, LM_HEAD)
    tensors = _load_pickle(checkpoint.folder / spec.head.file)
    if tensors.keys() != shapes.keys():
        raise RecipeError(f"{spec.head.file} holds {sorted(tensors)}, {spec.recipe.name} expects {sorted(shapes)}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise RecipeError(f"{spec.head.file}: {name} has shape {list(tensors[name].shape)}, not {list(shape)}")
    return tensors


def _shapes(checkpoint: Checkpoint, spec: ExportRecipe) -> dict[str, tuple[int, ...]]:
    hidden, outputs = checkpoint.architecture.hidden_size, spec.recipe.head.outputs
    rows = [outputs] if spec.recipe.head.layers == "linear" else [hidden, outputs]
    shapes: dict[str, tuple[int, ...]] = {}
    for (weight, bias), size in zip(spec.head.names, rows, strict=True):
        shapes[weight], shapes[bias] = (size, hidden), (size,)
    return shapes


def _load_pickle(path: Path) -> Tensors:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: without it the checkpoint is a language model, no PRM") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is no plain PyTorch file of tensors, so it was not loaded: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise CheckpointError(f"{path} holds no tensors by name")
    return {str(name): tensor.float().numpy() for name, tensor in loaded.items()}
