"""Weights in 4 bits, in blocks of 32 along their inputs with a scale each.

On a CPU activations are float32, and ONNX Runtime's MatMulNBits quantises them to 8 bits itself, by row and block. On
CUDA they are bfloat16, and MatMulNBits makes weights of that type for its products: that saves memory, not time.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from rfprm_export.graph.arithmetic import Operand
from rfprm_export.graph.floating import MixedArithmetic
from rfprm_export.graph.int8 import lookup_s8
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import Weights
from rfprm_export.quantize.integers import BLOCK

INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level for 8-bit activations."""
AS_THEY_ARE = 0
"""MatMulNBits' accuracy_level for activations of their own type."""


class Int4Arithmetic(MixedArithmetic):
    """MatMulNBits; float32 between products."""

    accuracy_level = INT8_ACTIVATIONS

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        """Look up in an s8 table, and undo the mixing of its columns."""
        return self.unmixed(lookup_s8(self._nodes, self._weights, name, ids), features)

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """Multiply by a MatMulNBits; see `Arithmetic`."""
        n = self._nodes
        shape, values, scales = self._weights.blockwise(name, [f"{s}.weight" for s in sources], self.working)
        product = n.op(
            "MatMulNBits",
            [x.values, n.keep(values), n.keep(scales)],
            domain="com.microsoft",
            N=shape[0],
            K=shape[1],
            bits=4,
            block_size=BLOCK,
            accuracy_level=self.accuracy_level,
        )
        return self.add_bias(product, name, sources) if bias else product


class Int4BFloat16Arithmetic(Int4Arithmetic):
    """MatMulNBits; bfloat16 between products, which no outlier of the activations overflows."""

    accuracy_level = AS_THEY_ARE

    def __init__(self, nodes: Nodes, weights: Weights) -> None:
        super().__init__(nodes, weights, ir.DataType.BFLOAT16)
