"""Products in float32, in 16 bits between casts, or on weights in mixed bases."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from rfprm_export.graph.arithmetic import Operand
from rfprm_export.graph.nodes import Nodes
from rfprm_export.graph.weights import FLOAT, Weights
from rfprm_export.quantize.mixing import hadamard, mixed_channels


class FloatArithmetic:
    """Weights and activations of one floating type; operands have no scale. An `Arithmetic`."""

    def __init__(self, nodes: Nodes, weights: Weights, working: ir.DataType = FLOAT) -> None:
        self._nodes, self._weights, self.working = nodes, weights, working

    def widened(self) -> FloatArithmetic:
        """Return float32; see `Arithmetic`."""
        return FloatArithmetic(self._nodes, self._weights)

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:  # noqa: ARG002
        """Gather rows in the working type; see `Arithmetic`."""
        return self.leave(self._nodes.op("Gather", [self._initializer(name, [name]), ids]))

    def enter(self, x: ir.Value) -> ir.Value:
        """Convert float32 to the working type."""
        return x if self.working == FLOAT else self._nodes.op("Cast", [x], to=self.working)

    def leave(self, x: ir.Value) -> ir.Value:
        """Convert the working type to float32."""
        return x if self.working == FLOAT else self._nodes.op("Cast", [x], to=FLOAT)

    def mix_channels(self, x: ir.Value, features: int) -> ir.Value:  # noqa: ARG002
        """Return `x`: these weights are in the checkpoint's bases."""
        return x

    def operand(self, x: ir.Value, rows: ir.Value, pending: ir.Value | None = None) -> Operand:  # noqa: ARG002
        """Return `x` as an operand.

        Raises:
            ValueError: A scale is pending.
        """
        if pending is not None:
            raise ValueError("floating operands have no scale")
        return Operand(x, None)

    def raw(self, name: str, x: Operand, sources: Sequence[str]) -> ir.Value:
        """Multiply as `linear` does, since there is no scale to leave out."""
        return self.linear(name, x, sources)

    def linear(self, name: str, x: Operand, sources: Sequence[str], *, bias: bool = False) -> ir.Value:
        """Multiply by a Gemm; see `Arithmetic`."""
        inputs = [x.values, self._initializer(f"{name}.weight", [f"{s}.weight" for s in sources])]
        if bias:
            inputs.append(self._bias(name, sources))
        return self._nodes.op("Gemm", inputs, transB=1)

    def add_bias(self, product: ir.Value, name: str, sources: Sequence[str]) -> ir.Value:
        """Add the stacked biases to a product."""
        return self._nodes.op("Add", [product, self._bias(name, sources)])

    def _bias(self, name: str, sources: Sequence[str]) -> ir.Value:
        return self._initializer(f"{name}.bias", [f"{s}.bias" for s in sources])

    def _initializer(self, name: str, sources: Sequence[str]) -> ir.Value:
        return self._nodes.keep(self._weights.stacked(name, sources, self.working))


class Float16Arithmetic(FloatArithmetic):
    """float16, for CUDA."""

    def __init__(self, nodes: Nodes, weights: Weights) -> None:
        super().__init__(nodes, weights, ir.DataType.FLOAT16)


class BFloat16Arithmetic(FloatArithmetic):
    """bfloat16, for CUDA: it has float32's range and 8 bits of precision."""

    def __init__(self, nodes: Nodes, weights: Weights) -> None:
        super().__init__(nodes, weights, ir.DataType.BFLOAT16)


class MixedArithmetic(FloatArithmetic):
    """Activations of a floating type on weights whose columns are mixed (rfprm_export.quantize.bases)."""

    def __init__(self, nodes: Nodes, weights: Weights, working: ir.DataType = FLOAT) -> None:
        super().__init__(nodes, weights, working)
        self._kept = working  # the type of what is in the data file
        self._mixing: dict[int, ir.Value] = {}

    def lookup(self, name: str, ids: ir.Value, features: int) -> ir.Value:
        """Gather rows, and undo the mixing of the table's columns."""
        return self.unmixed(super().lookup(name, ids, features), features)

    def unmixed(self, rows: ir.Value, features: int) -> ir.Value:
        """Undo the mixing of a table's rows, float32; the matrix is its own inverse."""
        return self.leave(self.mix_channels(self.enter(rows), features))

    def mix_channels(self, x: ir.Value, features: int) -> ir.Value:
        """Multiply groups of neighbouring channels by a Hadamard matrix."""
        n = self._nodes
        size = mixed_channels(features)
        if size not in self._mixing:
            self._mixing[size] = n.keep(self._weights.constant(f"mixing.{size}", hadamard(size), self._kept))
        groups = n.op("Reshape", [x, n.int64([-1, size])])
        mixed = n.op("MatMul", [groups, self._as_working(self._mixing[size])])
        return n.op("Reshape", [mixed, n.int64([-1, features])])

    def _as_working(self, kept: ir.Value) -> ir.Value:
        """What is in the data file, in the working type."""
        return kept if self._kept == self.working else self._nodes.op("Cast", [kept], to=self.working)
