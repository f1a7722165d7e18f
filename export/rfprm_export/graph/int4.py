"""Weights in 4 bits, in blocks of 32 along their inputs with a scale each; float32 activations.

ONNX Runtime's MatMulNBits quantises the activations to 8 bits itself, by row and block. A block's scale is the one that
leaves the least squared error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.graph.arithmetic import Operand
from rfprm_export.graph.floating import MixedArithmetic
from rfprm_export.graph.int8 import SMALLEST, lookup_s8
from rfprm_export.quantize.round import Round, nearest

BLOCK = 32
ZERO = 8
"""What stands for 0 among 0 to 15, MatMulNBits' default."""
RANGE = (-ZERO, ZERO - 1)
SHRINKINGS = np.arange(0.8, 1.06, 0.05, dtype=np.float32)
"""Scales that are tried, as parts of the one that maps a block's largest magnitude to the end of the range."""
INT8_ACTIVATIONS = 4


def quantise_blocks(
    rows: NDArray[np.float32], rounding: Round = nearest
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """4-bit values, two in a byte (the first in its low half), and scales.

    rows: [rows, columns]. Returns u8 [rows, blocks, BLOCK / 2] and float32 [rows, blocks]; a last block that is not
    full is filled with zeros.
    """
    padding = ((0, 0), (0, -rows.shape[1] % BLOCK))
    blocks = np.pad(rows, padding).reshape(len(rows), -1, BLOCK)
    ends = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    # The largest magnitude goes to -8, the end that has no counterpart.
    widest = np.where(np.abs(ends) > SMALLEST, ends / -ZERO, 1).astype(np.float32)
    scales, least = widest, np.full(widest.shape, np.inf, np.float32)
    for shrinking in SHRINKINGS:
        tried = widest * shrinking
        # The best scale for the values that the tried one rounds to.
        values = np.clip(np.rint(blocks / tried), *RANGE)
        square = (values * values).sum(-1, keepdims=True)
        fitted = np.where(square > 0, (values * blocks).sum(-1, keepdims=True) / np.maximum(square, SMALLEST), tried)
        error = ((blocks - fitted * values) ** 2).sum(-1, keepdims=True)
        scales, least = np.where(error < least, fitted, scales), np.minimum(error, least)
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    values = rounding(rows, np.repeat(scales[..., 0], BLOCK, axis=1)[:, : rows.shape[1]], *RANGE)
    nibbles = (np.pad(values, padding).reshape(blocks.shape) + ZERO).astype(np.uint8)
    return np.bitwise_or(nibbles[..., 0::2], np.left_shift(nibbles[..., 1::2], 4, dtype=np.uint8)), scales[..., 0]


class Int4Arithmetic(MixedArithmetic):
    """MatMulNBits; float32 between products."""

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        return self.mixed(lookup_s8(self._nodes, self._weights, name, ids), features)

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
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
        return self.biased(product, name, sources) if bias else product
