"""What a graph needs of a variant's arithmetic: how it looks tokens up and multiplies activations by weights.

The residual stream and its norms are float32 in every variant. Between the products of a block, activations have the
arithmetic's working type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Operand:
    """Activations ready to be multiplied.

    Attributes:
        values: [tokens, features].
        scale: float32 [tokens, 1], by which raw products of `values` are still to be multiplied; None if there is none.
    """

    values: ir.Value
    scale: ir.Value | None


class Arithmetic(Protocol):
    """The arithmetic of a variant.

    Attributes:
        working: The type of activations between products, float32 or one of 16 bits.
    """

    working: ir.DataType

    def widened(self) -> Arithmetic:
        """Return the arithmetic of layers whose activations could overflow here, for weights in the same bases."""

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        """Look up rows of the table `name`: int64 [tokens] -> float32 [tokens, features]."""

    def enter(self, x: ir.Value) -> ir.Value:
        """Convert float32 to the working type."""

    def leave(self, x: ir.Value) -> ir.Value:
        """Convert the working type to float32."""

    def mix_channels(self, x: ir.Value, features: int) -> ir.Value:
        """Mix the channels of [tokens, features] as the variant's weights expect, before an operand is made of it."""

    def operand(self, x: ir.Value, rows: ir.Value, pending: ir.Value | None = None) -> Operand:
        """Make an operand, which all products of the same input share.

        Args:
            x: Working type, [tokens, features].
            rows: An input of the graph with as many rows, [tokens].
            pending: A scale, float32 [tokens, 1], that `x` itself still lacks.
        """

    def raw(self, name: str, x: Operand, sources: Sequence[str]) -> ir.Value:
        """Multiply `x.values @ stacked(weights).T`; the operand's scale is left out."""

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """Multiply `x @ stacked(weights).T (+ stacked(biases))`: working type, [tokens, outputs]."""
