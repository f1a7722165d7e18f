"""u8 x s8 integer products: W8A8.

One scale for each row (token) of the activations, computed when the graph runs, and one for each output channel of the
weights. A row's scale depends on nothing but the row, so a token's reward does not depend on what else is in the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from rfprm_export.graph.arithmetic import Operand
from rfprm_export.graph.floating import MixedArithmetic
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import FLOAT, Weights
from rfprm_export.quantize.integers import LARGEST

ZERO_POINT = 128
"""The unsigned 8-bit value that stands for an activation of 0."""
SMALLEST_ROW = 1e-20
"""Stands in for the largest value of a row of zeros, so that nothing is divided by zero."""


def lookup_s8(n: Nodes, weights: Weights, name: str, ids: ir.Value) -> ir.Value:
    """Look up rows of a table that is kept in s8: int64 [tokens] -> float32 [tokens, features]."""
    table, scales = (n.keep(value) for value in weights.table(name))
    rows = n.op("Cast", [n.op("Gather", [table, ids])], to=FLOAT)
    return n.op("Mul", [rows, n.op("Unsqueeze", [n.op("Gather", [scales, ids]), n.int64([1])])])


class Int8Arithmetic(MixedArithmetic):
    """u8 activations around a zero point of 128, s8 weights; float32 between products."""

    def __init__(self, nodes: Nodes, weights: Weights) -> None:
        super().__init__(nodes, weights)
        self._zero_points: dict[ir.Value, ir.Value] = {}

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        """Look up in an s8 table, and undo the mixing of its columns."""
        return self.unmixed(lookup_s8(self._nodes, self._weights, name, ids), features)

    def operand(self, x: ir.Value, rows: ir.Value, pending: ir.Value | None = None) -> Operand:
        """Quantise each row to u8 by its largest magnitude; see `Arithmetic`."""
        n = self._nodes
        features = n.int64([1])
        lowest, highest = (n.op(kind, [x, features], keepdims=0) for kind in ("ReduceMin", "ReduceMax"))
        # On [tokens], not [tokens, 1]: ONNX Runtime combines that with a scalar row by row.
        largest = n.op("Max", [highest, n.op("Neg", [lowest]), n.float32(SMALLEST_ROW)])
        scales = n.op("Mul", [largest, n.float32(1 / LARGEST)])
        values = n.op("QuantizeLinear", [x, scales, self._zero_points_of(rows)], axis=0)
        scale = n.op("Unsqueeze", [scales, features])
        return Operand(values, scale if pending is None else n.op("Mul", [scale, pending]))

    def _zero_points_of(self, rows: ir.Value) -> ir.Value:
        """One a row, uint8 [tokens]: one node for all operands of as many rows."""
        n = self._nodes
        if rows not in self._zero_points:
            self._zero_points[rows] = n.op("Expand", [n.small(np.array(ZERO_POINT, np.uint8)), n.op("Shape", [rows])])
        return self._zero_points[rows]

    def raw(self, name: str, x: Operand, sources: Sequence[str]) -> ir.Value:
        """Multiply u8 x s8 to float32, with the weights' scales and without the operand's."""
        n = self._nodes
        weight, scale = self._weights.quantised(name, [f"{s}.weight" for s in sources])
        inputs = [x.values, n.keep(weight), n.float32(1), n.keep(scale), n.small(np.array(ZERO_POINT, np.uint8))]
        return n.op("MatMulIntegerToFloat", inputs, domain="com.microsoft")

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """Multiply as `raw` does, and by the operand's scale.

        Raises:
            ValueError: The operand has no scale.
        """
        n = self._nodes
        if x.scale is None:
            raise ValueError("an INT8 operand has a scale")
        product = n.op("Mul", [self.raw(name, x, sources), x.scale])
        return self.add_bias(product, name, sources) if bias else product
