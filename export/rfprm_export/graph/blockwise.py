"""Weights in 4 or 8 bits, in blocks of 32 along their inputs with a scale each.

On a CPU activations are float32, and ONNX Runtime's MatMulNBits quantises them to 8 bits itself, by row and block. On
CUDA they have 16 bits, and MatMulNBits makes weights of their type for its products: that saves memory, not time.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from rfprm_export.graph.arithmetic import Operand
from rfprm_export.graph.floating import MixedArithmetic
from rfprm_export.graph.int8 import lookup_s8
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import FLOAT, Weights
from rfprm_export.quantize.integers import BLOCK

INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level for 8-bit activations."""
AS_THEY_ARE = 0
"""MatMulNBits' accuracy_level for activations of their own type."""
HALF, BRAIN = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


class BlockArithmetic(MixedArithmetic):
    """MatMulNBits; the working type between products."""

    def __init__(self, nodes: Nodes, weights: Weights, bits: int, working: ir.DataType = FLOAT) -> None:
        """An arithmetic.

        Args:
            nodes: Of the graph.
            weights: Of the graph.
            bits: Of a weight, 4 or 8.
            working: The type between products.
        """
        super().__init__(nodes, weights, working)
        self._bits = bits

    def widened(self) -> BlockArithmetic:
        """The same weights to the bit, with activations of bfloat16: those of float16 could overflow.

        MatMulNBits has float32 on CUDA, too, but at a tenth of the speed, and bfloat16's range is as large.
        """
        wide = BlockArithmetic(self._nodes, self._weights, self._bits, BRAIN)
        wide._kept, wide._mixing = self._kept, self._mixing
        return wide

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        """Look up in an s8 table, and undo the mixing of its columns."""
        return self.unmixed(lookup_s8(self._nodes, self._weights, name, ids), features)

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """Multiply by a MatMulNBits; see `Arithmetic`."""
        n = self._nodes
        shape, values, scales = self._weights.blockwise(name, [f"{s}.weight" for s in sources], self._bits, self._kept)
        product = n.op(
            "MatMulNBits",
            [x.values, n.keep(values), self._as_working(n.keep(scales))],
            domain="com.microsoft",
            N=shape[0],
            K=shape[1],
            bits=self._bits,
            block_size=BLOCK,
            accuracy_level=INT8_ACTIVATIONS if self.working == FLOAT else AS_THEY_ARE,
        )
        return self.add_bias(product, name, sources) if bias else product


def int4(nodes: Nodes, weights: Weights) -> BlockArithmetic:
    """4-bit weights, for CPUs."""
    return BlockArithmetic(nodes, weights, 4)


def int4_float16(nodes: Nodes, weights: Weights) -> BlockArithmetic:
    """4-bit weights and float16 between products, for CUDA."""
    return BlockArithmetic(nodes, weights, 4, HALF)


def int4_bfloat16(nodes: Nodes, weights: Weights) -> BlockArithmetic:
    """4-bit weights and bfloat16 between products, which no outlier of the activations overflows, for CUDA."""
    return BlockArithmetic(nodes, weights, 4, BRAIN)


def int8_float16(nodes: Nodes, weights: Weights) -> BlockArithmetic:
    """8-bit weights and float16 between products, for CUDA."""
    return BlockArithmetic(nodes, weights, 8, HALF)
