"""A small ONNX graph as bytes, without the package onnx: for what is timed on a machine that has only the runtime.

In: nodes and constants. Out: a serialised ModelProto. Fields are numbered as in onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
"""ONNX's numbers of the types of tensors, by numpy's names."""
OPSETS = {"": 18, "com.microsoft": 1}
IR_VERSION = 10
FLOAT_ATTRIBUTE, INT_ATTRIBUTE = 1, 2

Shape = tuple[int, ...]


class GraphBytes:
    """Collects nodes and constants; `model` serialises them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._values = 0

    def constant(self, value: NDArray[np.generic]) -> str:
        """Add a constant; returns its name."""
        name = self._name()
        dims = b"".join(_field(1, size) for size in value.shape)
        kind = _field(2, TYPES[value.dtype.name])
        self._parts.append(_field(5, dims + kind + _field(8, name) + _field(9, np.ascontiguousarray(value).tobytes())))
        return name

    def op(self, kind: str, inputs: Sequence[str], domain: str = "", **attributes: float) -> str:
        """Add a node with one output; returns its name."""
        return self.ops(kind, inputs, 1, domain, (), **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: int,
        domain: str = "",
        unused: Sequence[int] = (),
        **attributes: float,
    ) -> list[str]:
        """Add a node; returns the names of its outputs, empty for those that are not used."""
        names = ["" if i in unused else self._name() for i in range(outputs)]
        body = b"".join(_field(1, name) for name in inputs) + b"".join(_field(2, name) for name in names)
        body += _field(4, kind) + b"".join(_attribute(*item) for item in attributes.items()) + _field(7, domain)
        self._parts.append(_field(1, body))
        return names

    def model(self, inputs: Mapping[str, tuple[str, Shape]], outputs: Mapping[str, tuple[str, Shape]]) -> bytes:
        """Serialise.

        Args:
            inputs: The type, by numpy's name, and shape of each input.
            outputs: The same of each output.
        """
        graph = b"".join(self._parts) + _field(2, "graph")
        graph += b"".join(_field(11, _value(name, *typed)) for name, typed in inputs.items())
        graph += b"".join(_field(12, _value(name, *typed)) for name, typed in outputs.items())
        opsets = b"".join(_field(8, _field(1, domain) + _field(2, version)) for domain, version in OPSETS.items())
        return _field(1, IR_VERSION) + opsets + _field(7, graph)

    def _name(self) -> str:
        self._values += 1
        return f"v{self._values}"


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return _field(5, _field(1, name) + _field(3, value) + _field(20, INT_ATTRIBUTE))
    number = _varint(2 << 3 | 5) + np.float32(value).tobytes()  # four bytes
    return _field(5, _field(1, name) + number + _field(20, FLOAT_ATTRIBUTE))


def _value(name: str, kind: str, shape: Shape) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, TYPES[kind]) + _field(2, dims)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """A number as a varint; text and messages with their length before them."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & (1 << 64) - 1)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    done = bytearray()
    while value > 127:
        done.append(value & 127 | 128)
        value >>= 7
    return bytes([*done, value])
