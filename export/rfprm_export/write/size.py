"""What an export will write, before anything is written.

In: an architecture, a recipe and a variant. Out: tensors, bytes, and the most bytes of tensors held at once. The graph
is built as for the export, by weights that only count.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.checkpoint.tensors import BLOCK_BYTES, Architecture, Outline, Shape
from rfprm_export.errors import ExportError
from rfprm_export.families.recipes import ExportRecipe
from rfprm_export.graph import network
from rfprm_export.graph.arithmetic import FLOAT
from rfprm_export.graph.int4 import BLOCK
from rfprm_export.oracle.calibration import MOST_BYTES
from rfprm_export.oracle.rotary import rotary_tables
from rfprm_export.quantize.moments import MOST_COLUMNS, READERS
from rfprm_export.variants import VariantRecipe

INT8, UINT8 = ir.DataType.INT8, ir.DataType.UINT8


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """tensors, bytes: of the data file, without the padding between tensors. held_bytes: of tensors in memory at once,
    at most: PyTorch's layer in float32, the residual stream of the texts, what weights are rounded by, and a weight on
    its way. Neither the process itself is in it, nor activations within a layer, nor a variant loaded as a whole to
    measure its parity."""

    name: str
    tensors: int
    bytes: int
    held_bytes: int


def plan(architecture: Architecture, spec: ExportRecipe, head: dict[str, Shape], variant: VariantRecipe) -> VariantPlan:
    """head: the shapes of the head's tensors, by name."""
    weights = _Counter(architecture.backbone() | head)
    network.build(
        architecture,
        spec.recipe.head,
        spec.head.names,
        weights,
        variant.arithmetic,
        variant.lanes,
        rotary_tables(architecture),
    )
    shapes = architecture.backbone()
    layer = 4 * sum(int(np.prod(shape)) for name, shape in shapes.items() if name.startswith("model.layers.0."))
    writing = weights.held_bytes
    if weights.rounded:
        columns = [shapes[f"model.layers.0.{readers[0]}"][1] for readers in READERS.values()]
        writing = sum(map(_moments_bytes, columns)) + max(writing, *map(_factor_bytes, columns))
    return VariantPlan(variant.name, weights.tensors, weights.bytes, layer + MOST_BYTES + writing)


def require_space(output: Path, plans: Sequence[VariantPlan], outline: Outline) -> None:
    """Raise ExportError unless `output` can be written, and disks have room for the variants and for weights that are
    still to be downloaded."""
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


class _Counter:
    """Weights that know shapes alone."""

    def __init__(self, shapes: dict[str, Shape]) -> None:
        self._shapes = shapes
        self.tensors = self.bytes = self.held_bytes = 0
        self.rounded = False

    def stacked(self, name: str, sources: Sequence[str], dtype: ir.DataType = FLOAT) -> ir.Value:
        return self._add(name, self._stack(sources), dtype, held=3 * BLOCK_BYTES)

    def quantised(self, name: str, sources: Sequence[str]) -> tuple[ir.Value, ir.Value]:
        rows, columns = self._stack(sources)
        self.rounded = True
        # In its new basis, what is still to be rounded of it, and in s8 twice.
        held = 4 * BLOCK_BYTES + 10 * rows * columns
        weight = self._add(f"{name}.weight_s8", (columns, rows), INT8, held)
        return weight, self._add(f"{name}.scale", (rows,), FLOAT, held=0)

    def table(self, name: str) -> tuple[ir.Value, ir.Value]:
        shape = self._shapes[name]
        weight = self._add(f"{name}.weight_s8", shape, INT8, held=4 * BLOCK_BYTES)
        return weight, self._add(f"{name}.scale", shape[:1], FLOAT, held=0)

    def blockwise(self, name: str, sources: Sequence[str]) -> tuple[tuple[int, int], ir.Value, ir.Value]:
        rows, columns = self._stack(sources)
        self.rounded = True
        blocks = -(-columns // BLOCK)
        # A block in float32 and what its scales are sought with; the whole, changed, and in 4 bits twice.
        held = 8 * BLOCK_BYTES + 5 * rows * columns
        values = self._add(f"{name}.weight_u4", (rows, blocks, BLOCK // 2), UINT8, held)
        return (rows, columns), values, self._add(f"{name}.scale", (rows, blocks), FLOAT, held=0)

    def constant(self, name: str, value: NDArray[np.float32], dtype: ir.DataType = FLOAT) -> ir.Value:
        return self._add(name, value.shape, dtype, held=2 * value.nbytes)

    def _stack(self, sources: Sequence[str]) -> Shape:
        shapes = [self._shapes[source] for source in sources]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _add(self, name: str, shape: Shape, dtype: ir.DataType, held: int) -> ir.Value:
        self.tensors += 1
        self.bytes += int(np.prod(shape) * dtype.itemsize)
        self.held_bytes = max(self.held_bytes, held)
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _moments_bytes(columns: int) -> int:
    """Of what the columns of a weight are rounded by."""
    return 4 * columns * min(columns, MOST_COLUMNS)


def _factor_bytes(columns: int) -> int:
    """Of one group of these while it is made, in float64."""
    return 3 * 8 * min(columns, MOST_COLUMNS) ** 2
