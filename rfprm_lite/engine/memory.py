"""The memory that keys and values live in: arrays of a device, and copies of tokens between them.

In: shapes. Out: arrays whose last two axes are tokens and features, their addresses, and copies of token ranges from
one to another that stay on the device. It knows nothing of layers or models.
"""

from __future__ import annotations

import math
from importlib import resources
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.session import open_session

if TYPE_CHECKING:
    import onnxruntime as ort

A = TypeVar("A")

Shape = list[int]
Dtype = np.dtype[np.floating]


class Memory(Protocol[A]):
    """A device's memory, whose arrays are of the type A."""

    def empty(self, shape: Shape, dtype: Dtype) -> A:
        """An array of undefined contents."""

    def address(self, array: A) -> int:
        """The address of an array's first element."""

    def copy(self, target: A, at: int, source: A, start: int, tokens: int) -> None:
        """Set target[..., at : at + tokens, :] to source[..., start : start + tokens, :]."""


class HostMemory:
    """The CPU's memory, as numpy arrays."""

    def empty(self, shape: Shape, dtype: Dtype) -> NDArray[np.floating]:
        """An array of undefined contents."""
        return np.empty(shape, dtype)

    def address(self, array: NDArray[np.floating]) -> int:
        """The address of an array's first element."""
        return array.ctypes.data

    def copy(
        self, target: NDArray[np.floating], at: int, source: NDArray[np.floating], start: int, tokens: int
    ) -> None:
        """Copy tokens; see `Memory.copy`."""
        target[..., at : at + tokens, :] = source[..., start : start + tokens, :]


class DeviceMemory:
    """The memory of any device of ONNX Runtime, as OrtValues. On CUDA it was never run.

    ONNX Runtime's Python API has no call that copies a part of an OrtValue on its device. So a copy is a run of a graph
    of one Identity, whose input and output are bound to addresses within the two arrays.
    """

    def __init__(self, device: DeviceSpec) -> None:
        self._device = device
        self._copiers: dict[str, ort.InferenceSession] = {}

    def empty(self, shape: Shape, dtype: Dtype) -> ort.OrtValue:
        """An array of undefined contents."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device.kind, self._device.index)

    def address(self, array: ort.OrtValue) -> int:
        """The address of an array's first element."""
        return int(array.data_ptr())

    def copy(self, target: ort.OrtValue, at: int, source: ort.OrtValue, start: int, tokens: int) -> None:
        """Copy tokens, a run of the copying graph for each contiguous piece; see `Memory.copy`."""
        if not tokens:
            return
        dtype = _dtype(source)
        binding = self._copier(dtype).io_binding()
        features = source.shape()[-1]
        place = (self._device.kind, self._device.index, dtype, [tokens * features])
        for origin, goal in zip(_pieces(source, start), _pieces(target, at), strict=True):
            binding.bind_input("x", *place, origin)
            binding.bind_output("y", *place, goal)
            self._copier(dtype).run_with_iobinding(binding)

    def _copier(self, dtype: Dtype) -> ort.InferenceSession:
        if dtype.name not in self._copiers:
            graph = resources.files("rfprm_lite.engine") / f"copy_{dtype.name}.onnx"  # by packaging/make_copy_graph.py
            self._copiers[dtype.name] = open_session(graph.read_bytes(), self._device, threads=1)
        return self._copiers[dtype.name]


def _dtype(array: ort.OrtValue) -> Dtype:
    return np.dtype(np.float16 if "float16" in array.data_type() else np.float32)


def _pieces(array: ort.OrtValue, start: int) -> list[int]:
    """The addresses of array[..., start, :], each the beginning of contiguous tokens.

    Tokens are contiguous within an index of the outer axes: within a head in the inner array, within keys or values in
    the last layer's.
    """
    *outer, capacity, features = array.shape()
    row = features * _dtype(array).itemsize
    first = int(array.data_ptr()) + start * row
    return [first + i * capacity * row for i in range(math.prod(outer))]
