"""What a graph needs of a variant's arithmetic: how it looks tokens up and multiplies activations by weights.

The residual stream and its norms are float32 in every variant. Between the products of a block, activations have the
arithmetic's working type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FLOAT = ir.DataType.FLOAT


class Weights(Protocol):
    """Tensors by name, as values that are not yet initializers of a graph."""

    def stacked(self, name: str, sources: Sequence[str], dtype: ir.DataType = FLOAT) -> ir.Value:
        """Tensors of the checkpoint one above the other, along their first axis, under a new name."""

    def quantised(self, name: str, sources: Sequence[str]) -> tuple[ir.Value, ir.Value]:
        """The transpose of that in s8, to be multiplied with, and the scale of each of its columns, float32."""

    def table(self, name: str) -> tuple[ir.Value, ir.Value]:
        """A tensor of the checkpoint in s8, to be looked up in, and the scale of each of its rows, float32 [rows]."""

    def blockwise(self, name: str, sources: Sequence[str]) -> tuple[tuple[int, int], ir.Value, ir.Value]:
        """The shape of the stack; in 4 bits, u8 [rows, blocks, bytes of a block]; the scale of each block, float32
        [rows, blocks]."""

    def constant(self, name: str, value: NDArray[np.float32], dtype: ir.DataType = FLOAT) -> ir.Value:
        """A tensor that no checkpoint holds."""


@dataclass(frozen=True, slots=True)
class Operand:
    """Activations ready to be multiplied. scale: float32 [tokens, 1], by which their raw products are still to be
    multiplied; None where there is none."""

    values: ir.Value
    scale: ir.Value | None


class Arithmetic(Protocol):
    """The arithmetic of a variant. working: float32 or float16."""

    working: ir.DataType

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        """Rows of a table: int64 [tokens] -> float32 [tokens, features]."""

    def enter(self, x: ir.Value) -> ir.Value:
        """float32 -> the working type."""

    def leave(self, x: ir.Value) -> ir.Value:
        """The working type -> float32."""

    def mixed(self, x: ir.Value, features: int) -> ir.Value:
        """What an operand is made from: [tokens, features], mixed as the variant's weights expect."""

    def operand(self, x: ir.Value, pending: ir.Value | None = None) -> Operand:
        """x: working type, [tokens, features]; products that share it share the operand. pending: a scale that x itself
        still lacks."""

    def raw(self, name: str, x: Operand, sources: Sequence[str]) -> ir.Value:
        """values @ stacked(weights).T, not multiplied by the operand's scale."""

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """x @ stacked(weights).T (+ stacked(biases)), working type, [tokens, outputs]."""
