"""The nodes and values of a graph while it is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape


class Nodes:
    """Collects nodes, with the graph's inputs, outputs and initializers."""

    def __init__(self) -> None:
        self.tape = Tape()
        self.initializers: list[ir.Value] = []
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self._constants: dict[str, ir.Value] = {}

    def op(self, kind: str, inputs: Sequence[ir.Value | None], *, domain: str = "", **attributes: object) -> ir.Value:
        """Add a node of one output."""
        return self.tape.op(kind, inputs, attributes, domain=domain)  # type: ignore[arg-type]

    def ops(
        self, kind: str, inputs: Sequence[ir.Value | None], count: int, *, domain: str = "", **attributes: object
    ) -> Sequence[ir.Value]:
        """Add a node of `count` outputs."""
        return self.tape.op_multi_out(kind, inputs, attributes, domain=domain, num_outputs=count)  # type: ignore[arg-type]

    def keep(self, value: ir.Value) -> ir.Value:
        """Add an initializer, and return it."""
        self.initializers.append(value)
        return value

    def int64(self, value: int | list[int]) -> ir.Value:
        """Return a constant of int64, a scalar or a vector."""
        return self.small(np.array(value, np.int64))

    def int32(self, value: int) -> ir.Value:
        """Return a scalar constant of int32."""
        return self.small(np.array(value, np.int32))

    def float32(self, value: float) -> ir.Value:
        """Return a scalar constant of float32."""
        return self.small(np.array(value, np.float32))

    def small(self, value: NDArray[np.generic]) -> ir.Value:
        """Return a constant inside the graph file, shared by all nodes that use the value."""
        name = f"{value.dtype}.{'_'.join(map(str, value.ravel().tolist()))}.{value.ndim}"
        if name not in self._constants:
            self._constants[name] = self.keep(ir.val(name, const_value=ir.tensor(value, name=name)))
        return self._constants[name]

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Add an input of the graph."""
        value = ir.val(name, dtype, ir.Shape(shape))
        self.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        """Make a value an output of the graph."""
        value.name, value.dtype, value.shape = name, dtype, ir.Shape(shape)
        self.outputs.append(value)
