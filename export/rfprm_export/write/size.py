"""What an export will write, before anything is written.

In: an architecture, a recipe and a variant. Out: tensors and bytes, summed over what the writer will fill.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfprm_export.checkpoint.architecture import Architecture, Shape
from rfprm_export.checkpoint.tensors import Outline
from rfprm_export.errors import ExportError
from rfprm_export.families.family import ExportRecipe
from rfprm_export.variants import VariantSpec


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """The data file of a variant.

    Attributes:
        name: The variant's.
        tensors: How many it holds.
        bytes: Their sizes, without the padding between them.
    """

    name: str
    tensors: int
    bytes: int


def plan(
    architecture: Architecture, spec: ExportRecipe, head: Mapping[str, Shape], variant: VariantSpec
) -> VariantPlan:
    """Add up what a variant will hold.

    Args:
        architecture: The backbone.
        spec: The recipe.
        head: The shapes of the head's tensors, by name.
        variant: Which.
    """
    tensors = [tensor for weight in variant.graph(architecture, spec, head).weights for tensor in weight.tensors]
    return VariantPlan(variant.name, len(tensors), sum(tensor.nbytes for tensor in tensors))


def require_space(output: Path, plans: Sequence[VariantPlan], outline: Outline) -> None:
    """Check that `output` can be written, and that disks have room for it and for weights still to be downloaded.

    Args:
        output: The bundle's folder, which is not there yet.
        plans: Of its variants.
        outline: Of the checkpoint.

    Raises:
        ExportError: It can't, or there is no room.
    """
    existing = next(path for path in (output, *output.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise ExportError(f"{output} can't be written: {existing} is no folder that takes files")
    wanted = {existing: sum(p.bytes for p in plans), outline.folder: outline.still_to_come}
    for place in wanted:
        needed = sum(size for other, size in wanted.items() if _disk(other) == _disk(place))
        free = shutil.disk_usage(place).free
        if needed > free:
            download = f", the download {outline.still_to_come / 1e9:.1f} GB" if outline.still_to_come else ""
            raise ExportError(
                f"{', '.join(p.name for p in plans)} need {wanted[existing] / 1e9:.1f} GB{download}, {place} has "
                f"{free / 1e9:.1f} GB free: make room, choose another output or fewer --variants"
            )


def _disk(path: Path) -> int:
    return path.stat().st_dev
