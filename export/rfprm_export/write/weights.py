"""The external data of a graph, written a block at a time, in any order.

In: the tensors' specs, then blocks of each tensor. Out: a data file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.errors import RangeError
from rfprm_export.graph.weights import TensorSpec

PAGE = 4096
"""Where large tensors begin, so that they can be mapped."""
LINE = 64
"""Where small tensors begin: at a cache line."""
LARGE = 1 << 20

Written = Callable[[int, int], None]
"""Told how many tensors were ended and how many bytes written, after each block."""


class WeightFile:
    """A context manager over the data file of one graph."""

    def __init__(self, path: Path, tensors: Sequence[TensorSpec], written: Written) -> None:
        """Lay the tensors out, one behind the other.

        Args:
            path: The file, which is made.
            tensors: What it will hold.
            written: Told of progress.
        """
        self._path, self._written = path, written
        self._tensors: dict[str, tuple[TensorSpec, int]] = {}
        end = 0
        for tensor in tensors:
            start = end + -end % (PAGE if tensor.nbytes >= LARGE else LINE)
            self._tensors[tensor.name] = tensor, start
            end = start + tensor.nbytes
        self._missing = set(self._tensors)
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def write(self, name: str, blocks: Iterable[NDArray[Any]]) -> None:
        """Write a tensor's blocks, one after another.

        Raises:
            ValueError: They have another size than the tensor's.
            RangeError: A value does not fit the tensor's type.
        """
        tensor, start = self._tensors[name]
        self._file.seek(start)
        for block in blocks:
            try:
                with np.errstate(over="raise"):
                    values = np.ascontiguousarray(block, tensor.dtype.numpy())
            except FloatingPointError as error:
                raise RangeError(f"{name}: a value is too large for {tensor.dtype.name}") from error
            # As bytes: bfloat16 is no type of Python's buffers.
            self._written(0, self._file.write(values.reshape(-1).view(np.uint8).data))
        length = self._file.tell() - start
        if length != tensor.nbytes:
            raise ValueError(f"{name}: {length} bytes were written for shape {list(tensor.shape)}")
        self._missing.remove(name)
        self._written(1, 0)

    def attach(self, model: ir.Model) -> None:
        """Point the graph's initializers into the file.

        Raises:
            ValueError: A tensor was not written.
        """
        if self._missing:
            raise ValueError(f"{min(self._missing)} was not written")
        for name, (tensor, start) in self._tensors.items():
            model.graph.initializers[name].const_value = ir.ExternalTensor(
                self._path.name,
                start,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape),
                name=name,
                base_dir=self._path.parent,
            )
