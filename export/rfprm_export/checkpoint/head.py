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

from rfprm_export.checkpoint.architecture import Architecture, Shape
from rfprm_export.checkpoint.tensors import Checkpoint, Outline
from rfprm_export.errors import CheckpointError, RecipeError
from rfprm_export.families.recipes import ExportRecipe

Tensors = dict[str, NDArray[np.float32]]

LM_HEAD = frozenset({"lm_head.weight"})
"""Never exported: a PRM needs no vocabulary logits."""


def check_head(outline: Outline, spec: ExportRecipe) -> dict[str, Shape]:
    """Check that the checkpoint holds the backbone, the recipe's head and nothing else.

    Args:
        outline: Of the checkpoint.
        spec: The recipe.

    Returns:
        The shapes of the head's tensors, by name.

    Raises:
        CheckpointError: A tensor or the head's file is missing or not as expected.
        RecipeError: The head's file holds another head.
    """
    shapes, backbone = _shapes(outline.architecture, spec), outline.architecture.backbone()
    if spec.head.file is None:
        outline.check_shapes(backbone | shapes, LM_HEAD)
    else:
        outline.check_shapes(backbone, LM_HEAD)
        _load_pickle(outline.folder / spec.head.file, spec, shapes)
    return shapes


def load_head(checkpoint: Checkpoint, spec: ExportRecipe) -> Tensors:
    """Load the head's tensors, float32 by name.

    Args:
        checkpoint: The source.
        spec: The recipe.

    Raises:
        CheckpointError: The head's file is missing or not as expected.
        RecipeError: It holds another head.
    """
    shapes = _shapes(checkpoint.architecture, spec)
    if spec.head.file is not None:
        return _load_pickle(checkpoint.folder / spec.head.file, spec, shapes)
    return {name: checkpoint.tensor(name) for name in shapes}


def _shapes(architecture: Architecture, spec: ExportRecipe) -> dict[str, Shape]:
    hidden, outputs = architecture.hidden_size, spec.recipe.head.outputs
    rows = [outputs] if spec.recipe.head.layers == "linear" else [hidden, outputs]
    shapes: dict[str, Shape] = {}
    for (weight, bias), size in zip(spec.head.names, rows, strict=True):
        shapes[weight], shapes[bias] = (size, hidden), (size,)
    return shapes


def _load_pickle(path: Path, spec: ExportRecipe, shapes: dict[str, Shape]) -> Tensors:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: without it the checkpoint is a language model, no PRM") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is no plain PyTorch file of tensors, so it was not loaded: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise CheckpointError(f"{path} holds no tensors by name")
    tensors = {str(name): tensor.float().numpy() for name, tensor in loaded.items()}
    if tensors.keys() != shapes.keys():
        raise RecipeError(f"{path.name} holds {sorted(tensors)}, {spec.recipe.name} expects {sorted(shapes)}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise RecipeError(f"{path.name}: {name} has shape {list(tensors[name].shape)}, not {list(shape)}")
    return tensors
