"""Weights in 4 bits, in blocks of 32 along their inputs with a scale each; float32 activations.

ONNX Runtime's MatMulNBits quantises the activations to 8 bits itself, by row and block.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from rfprm_export.graph.arithmetic import Operand
from rfprm_export.graph.floating import MixedArithmetic
from rfprm_export.graph.int8 import lookup_s8
from rfprm_export.quantize.integers import BLOCK

INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level for 8-bit activations."""


class Int4Arithmetic(MixedArithmetic):
    """MatMulNBits; float32 between products."""

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        """Look up in an s8 table, and undo the mixing of its columns."""
        return self.mix_channels(lookup_s8(self._nodes, self._weights, name, ids), features)

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """Multiply by a MatMulNBits; see `Arithmetic`."""
        n = self._nodes
        shape, values, scales = self._weights.blockwise(name, [f"{s}.weight" for s in sources])
        product = n.op(
            "MatMulNBits",
            [x.values, n.keep(values), n.keep(scales)],
            domain="com.microsoft",
            N=shape[0],
            K=shape[1],
            bits=4,
            block_size=BLOCK,
            accuracy_level=INT8_ACTIVATIONS,
        )
        return self.add_bias(product, name, sources) if bias else product
