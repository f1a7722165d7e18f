"""Which tensors a graph needs, declared before any is written.

In: the shapes of a checkpoint's tensors. Out: values for the graph, and the `WeightSpec`s that say what to fill the
data file with. The plan of an export adds up their sizes, the writer fills them: both know the same list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.quantize.integers import BLOCK

FLOAT = ir.DataType.FLOAT
Shape = tuple[int, ...]
Kind = Literal["stacked", "quantised", "table", "blockwise", "constant"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a variant's data file.

    Attributes:
        name: The initializer's name in the graph.
        shape: Its shape.
        dtype: Its type.
    """

    name: str
    shape: Shape
    dtype: ir.DataType

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        return int(np.prod(self.shape) * self.dtype.itemsize)


@dataclass(frozen=True, slots=True, eq=False)
class WeightSpec:
    """What one weight of the graph is filled from.

    Attributes:
        kind: How the sources become tensors; see the methods of `Weights`.
        sources: Names of the checkpoint's tensors, stacked along their first axis; none for a constant.
        tensors: The values, then the scales where there are any.
        constant: The value of a constant, float32.
    """

    kind: Kind
    sources: tuple[str, ...]
    tensors: tuple[TensorSpec, ...]
    constant: NDArray[np.float32] | None = None

    @property
    def layer(self) -> int | None:
        """The layer that the sources belong to; None for what lies outside the layers."""
        name = self.sources[0] if self.sources else ""
        return int(name.split(".")[2]) if name.startswith("model.layers.") else None


class Weights:
    """Declares tensors as the graph asks for them.

    Attributes:
        specs: What was declared, in the order of the data file.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        """`shapes`: of the checkpoint's tensors and its head's, by name."""
        self._shapes = shapes
        self.specs: list[WeightSpec] = []

    def stacked(self, name: str, sources: Sequence[str], dtype: ir.DataType = FLOAT) -> ir.Value:
        """Declare the sources one above the other, along their first axis."""
        (value,) = self._declare("stacked", sources, TensorSpec(name, self._stack(sources), dtype))
        return value

    def quantised(self, name: str, sources: Sequence[str]) -> tuple[ir.Value, ir.Value]:
        """Declare the transpose of the stack in s8 [columns, rows], and the scale of each row, float32 [rows]."""
        rows, columns = self._stack(sources)
        values = TensorSpec(f"{name}.weight_s8", (columns, rows), ir.DataType.INT8)
        weight, scale = self._declare("quantised", sources, values, TensorSpec(f"{name}.scale", (rows,), FLOAT))
        return weight, scale

    def table(self, name: str) -> tuple[ir.Value, ir.Value]:
        """Declare a tensor to look up in, s8 [rows, columns], and the scale of each row, float32 [rows]."""
        shape = self._shapes[name]
        values = TensorSpec(f"{name}.weight_s8", shape, ir.DataType.INT8)
        weight, scale = self._declare("table", [name], values, TensorSpec(f"{name}.scale", shape[:1], FLOAT))
        return weight, scale

    def blockwise(
        self, name: str, sources: Sequence[str], bits: int, dtype: ir.DataType
    ) -> tuple[tuple[int, int], ir.Value, ir.Value]:
        """Declare the stack in 4 or 8 bits, in blocks along its columns.

        Returns:
            The stack's shape; the values, u8 [rows, blocks, BLOCK * bits / 8]; each block's scale, `dtype`
            [rows, blocks].
        """
        rows, columns = self._stack(sources)
        blocks = -(-columns // BLOCK)
        values = TensorSpec(f"{name}.weight_u{bits}", (rows, blocks, BLOCK * bits // 8), ir.DataType.UINT8)
        scales = TensorSpec(f"{name}.scale", (rows, blocks), dtype)
        weight, scale = self._declare("blockwise", sources, values, scales)
        return (rows, columns), weight, scale

    def constant(self, name: str, value: NDArray[np.float32], dtype: ir.DataType = FLOAT) -> ir.Value:
        """Declare a tensor that no checkpoint holds."""
        (declared,) = self._declare("constant", (), TensorSpec(name, value.shape, dtype), constant=value)
        return declared

    def _stack(self, sources: Sequence[str]) -> Shape:
        shapes = [self._shapes[source] for source in sources]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _declare(
        self, kind: Kind, sources: Sequence[str], *tensors: TensorSpec, constant: NDArray[np.float32] | None = None
    ) -> list[ir.Value]:
        self.specs.append(WeightSpec(kind, tuple(sources), tensors, constant))
        return [ir.Value(name=t.name, type=ir.TensorType(t.dtype), shape=ir.Shape(t.shape)) for t in tensors]
