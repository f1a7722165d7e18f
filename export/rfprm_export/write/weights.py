"""The external data of a graph, written a block at a time.

In: blocks of a tensor. Out: a data file, and an initializer that points into it for each tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.errors import RangeError

PAGE = 4096
LINE = 64


class WeightFile:
    """A context manager over the data file of one graph. written: told how many tensors were ended and how many bytes
    written, after each block."""

    def __init__(self, path: Path, written: Callable[[int, int], None] = lambda _tensors, _bytes: None) -> None:
        self._path, self._written = path, written
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def add(
        self, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]], dtype: ir.DataType = ir.DataType.FLOAT
    ) -> ir.Value:
        """Write the blocks, one after another, as one tensor of `shape`. Raises ValueError on a wrong size, RangeError
        where a value does not fit the type."""
        size = int(np.prod(shape)) * dtype.itemsize
        start = self._align(int(size))
        for block in blocks:
            try:
                with np.errstate(over="raise"):
                    values = np.ascontiguousarray(block, dtype.numpy())
            except FloatingPointError as error:
                raise RangeError(f"{name}: a value is too large for {dtype.name}") from error
            self._written(0, self._file.write(values.data))
        length = self._file.tell() - start
        if length != size:
            raise ValueError(f"{name}: {length} bytes were written for shape {list(shape)}")
        self._written(1, 0)
        tensor = ir.ExternalTensor(
            self._path.name,
            start,
            length,
            dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._path.parent,
        )
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)

    def _align(self, length: int) -> int:
        """Large tensors begin at a page, so that they can be mapped; small ones at a cache line."""
        to = PAGE if length >= 1 << 20 else LINE
        self._file.write(b"\0" * (-self._file.tell() % to))
        return self._file.tell()
