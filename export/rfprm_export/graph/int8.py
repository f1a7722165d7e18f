"""u8 x s8 integer products: W8A8.

One scale for each row (token) of the activations, found when the graph runs, and one for each output channel of the
weights. A row's scale depends on nothing but the row, so a token's reward does not depend on what else is in the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.graph.arithmetic import FLOAT, Operand, Weights
from rfprm_export.graph.floating import MixedArithmetic
from rfprm_export.graph.nodes import Nodes
from rfprm_export.quantize.round import Round, nearest

ZERO_POINT = 128
LARGEST = 127
SMALLEST_ROW = 1e-20
"""Stands in for the largest value of a row of zeros, so that nothing is divided by zero."""
SMALLEST = np.float32(1e-30)
"""A row of weights without a larger value becomes zeros: its scale would leave the range in which float32 is exact."""


def row_scales(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scale of each row that maps its largest magnitude to 127. block: [rows, columns]; float32 [rows]."""
    largest = np.abs(block).max(axis=1, initial=0)
    return np.where(largest > SMALLEST, largest / LARGEST, 1).astype(np.float32)


def quantise_rows(
    block: NDArray[np.float32], rounding: Round = nearest
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows to -127 to 127 times a scale of their own. block: [rows, columns]; s8 and float32 [rows]."""
    scales = row_scales(block)
    return rounding(block, scales[:, None], -LARGEST, LARGEST), scales


def lookup_s8(n: Nodes, weights: Weights, name: str, ids: ir.Value) -> ir.Value:
    """Rows of a table that is kept in s8: int64 [tokens] -> float32 [tokens, features]."""
    table, scales = (n.keep(value) for value in weights.table(name))
    rows = n.op("Cast", [n.op("Gather", [table, ids])], to=FLOAT)
    return n.op("Mul", [rows, n.op("Unsqueeze", [n.op("Gather", [scales, ids]), n.int64([1])])])


class Int8Arithmetic(MixedArithmetic):
    """u8 activations around a zero point of 128, s8 weights; float32 between products."""

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        return self.mixed(lookup_s8(self._nodes, self._weights, name, ids), features)

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
        weight, scale = self._weights.quantised(name, [f"{s}.weight" for s in sources])
        inputs = [x.values, n.keep(weight), n.float32(1), n.keep(scale), n.small(np.array(ZERO_POINT, np.uint8))]
        return n.op("MatMulIntegerToFloat", inputs, domain="com.microsoft")

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        n = self._nodes
        if x.scale is None:
            raise ValueError("an INT8 operand has a scale")
        product = n.op("Mul", [self.raw(name, x, sources), x.scale])
        return self.biased(product, name, sources) if bias else product
