"""How a variant looks tokens up and multiplies activations by weights.

`FloatArithmetic` in float32. `Int8Arithmetic` by u8 x s8 integer products: one scale for each row (token) of the
activations, found when the graph runs, and one for each output channel of the weights. A row's scale depends on nothing
but the row, so a token's reward does not depend on what else is in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.nodes import Nodes

ZERO_POINT = 128
LARGEST = 127
SMALLEST_ROW = 1e-20
"""Stands in for the largest value of a row of zeros, so that nothing is divided by zero."""


class Weights(Protocol):
    """Tensors by name, as initializers of a graph."""

    def stacked(self, name: str, sources: Sequence[str]) -> ir.Value:
        """Tensors of the checkpoint one above the other, along their first axis, under a new name."""

    def quantised(self, name: str, sources: Sequence[str], *, transposed: bool) -> tuple[ir.Value, ir.Value]:
        """The same in s8, or its transpose, and the scale of each of its rows, float32 [rows]."""

    def constant(self, name: str, value: NDArray[np.float32]) -> ir.Value:
        """A tensor that no checkpoint holds."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Activations ready to be multiplied. scale: float32 [tokens, 1], by which their raw products are still to be
    multiplied; None where there is none."""

    values: ir.Value
    scale: ir.Value | None


class Arithmetic(Protocol):
    """The arithmetic of a variant."""

    def lookup(self, name: str, ids: ir.Value) -> ir.Value:
        """Rows of a table: int64 [tokens] -> float32 [tokens, features]."""

    def operand(self, x: ir.Value, pending: ir.Value | None = None) -> Operand:
        """x: float32 [tokens, features]; products that share it share the operand. pending: a scale that x itself still
        lacks."""

    def raw(self, name: str, x: Operand, sources: Sequence[str]) -> ir.Value:
        """values @ stacked(weights).T, not multiplied by the operand's scale."""

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """x @ stacked(weights).T (+ stacked(biases)), float32 [tokens, outputs]."""


class FloatArithmetic:
    """float32 throughout; operands have no scale."""

    def __init__(self, nodes: Nodes, weights: Weights) -> None:
        self._nodes, self._weights = nodes, weights

    def lookup(self, name: str, ids: ir.Value) -> ir.Value:
        return self._nodes.op("Gather", [self._nodes.keep(self._weights.stacked(name, [name])), ids])

    def operand(self, x: ir.Value, pending: ir.Value | None = None) -> Operand:
        if pending is not None:
            raise ValueError("float32 operands have no scale")
        return Operand(x, None)

    def raw(self, name: str, x: Operand, sources: Sequence[str]) -> ir.Value:
        return self.linear(name, x, sources)

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        inputs = [x.values, self._nodes.keep(self._weights.stacked(f"{name}.weight", [f"{s}.weight" for s in sources]))]
        if bias:
            inputs.append(self._nodes.keep(self._weights.stacked(f"{name}.bias", [f"{s}.bias" for s in sources])))
        return self._nodes.op("Gemm", inputs, transB=1)


class Int8Arithmetic:
    """u8 activations around a zero point of 128, s8 weights."""

    def __init__(self, nodes: Nodes, weights: Weights) -> None:
        self._nodes, self._weights = nodes, weights

    def lookup(self, name: str, ids: ir.Value) -> ir.Value:
        n = self._nodes
        table, scales = (n.keep(value) for value in self._weights.quantised(name, [name], transposed=False))
        rows = n.op("Cast", [n.op("Gather", [table, ids])], to=ir.DataType.FLOAT)
        return n.op("Mul", [rows, n.op("Unsqueeze", [n.op("Gather", [scales, ids]), n.int64([1])])])

    def operand(self, x: ir.Value, pending: ir.Value | None = None) -> Operand:
        n = self._nodes
        features = n.int64([1])
        lowest, highest = (n.op(kind, [x, features], keepdims=1) for kind in ("ReduceMin", "ReduceMax"))
        largest = n.op("Max", [highest, n.op("Neg", [lowest]), n.float32(SMALLEST_ROW)])
        scale = n.op("Mul", [largest, n.float32(1 / LARGEST)])
        rows = n.op("Squeeze", [scale, features])
        zero_points = n.op("Expand", [n.small(np.array(ZERO_POINT, np.uint8)), n.op("Shape", [rows])])
        values = n.op("QuantizeLinear", [x, rows, zero_points], axis=0)
        return Operand(values, scale if pending is None else n.op("Mul", [scale, pending]))

    def raw(self, name: str, x: Operand, sources: Sequence[str]) -> ir.Value:
        n = self._nodes
        weight, scale = self._weights.quantised(name, [f"{s}.weight" for s in sources], transposed=True)
        inputs = [x.values, n.keep(weight), n.float32(1), n.keep(scale), n.small(np.array(ZERO_POINT, np.uint8))]
        return n.op("MatMulIntegerToFloat", inputs, domain="com.microsoft")

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        n = self._nodes
        if x.scale is None:
            raise ValueError("an INT8 operand has a scale")
        product = n.op("Mul", [self.raw(name, x, sources), x.scale])
        if bias:
            kept = n.keep(self._weights.stacked(f"{name}.bias", [f"{s}.bias" for s in sources]))
            product = n.op("Add", [product, kept])
        return product
