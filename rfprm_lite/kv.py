"""The KV cache of one call: one buffer for each layer's keys and values, rolled back by length.

Knows the shapes that the graph reads and writes, nothing of sessions, tokens or plans.

In all layers but the last, the graph writes a chunk's keys and values into the buffer it reads from
(GroupQueryAttention with past and present shared): nothing is copied. The last layer attends only from the read
positions; its buffer is token-major, so that the cached part and the chunk's part are two contiguous views of it. The
graph joins them for its products, a copy of one layer's keys and values a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rfprm_lite.manifest import Dimensions

if TYPE_CHECKING:
    import onnxruntime as ort


class Cache(Protocol):
    """What a scorer needs of a cache."""

    @property
    def length(self) -> int:
        """Tokens held."""

    def trim(self, length: int) -> None:
        """Roll back to the first `length` tokens."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Shapes of the KV buffers for one capacity.

    inner: [1, num_kv_heads, capacity, head_size], each layer but the last, keys and values alike.
    last: [capacity, num_kv_heads * head_size].
    """

    num_layers: int
    num_kv_heads: int
    head_size: int
    dtype: np.dtype[np.floating]

    @classmethod
    def of(cls, dimensions: Dimensions, dtype: str) -> Layout:
        return cls(dimensions.num_layers, dimensions.num_kv_heads, dimensions.head_size, np.dtype(dtype))

    def inner_shape(self, capacity: int) -> list[int]:
        return [1, self.num_kv_heads, capacity, self.head_size]

    def last_shape(self, tokens: int) -> list[int]:
        return [tokens, self.num_kv_heads * self.head_size]


Allocate = Callable[[list[int], np.dtype[np.floating]], "ort.OrtValue"]


class KVCache:
    """Keys and values of up to `capacity` tokens. Owned by one call, used by one thread."""

    def __init__(self, layout: Layout, capacity: int, allocate: Allocate) -> None:
        self.layout = layout
        self.capacity = capacity
        self._length = 0
        inner = 2 * (layout.num_layers - 1)
        self.inner = [allocate(layout.inner_shape(capacity), layout.dtype) for _ in range(inner)]
        self.last = [allocate(layout.last_shape(capacity), layout.dtype) for _ in range(2)]

    @property
    def length(self) -> int:
        return self._length

    def trim(self, length: int) -> None:
        """Roll back to the first `length` tokens. Raises ValueError where fewer are held."""
        if not 0 <= length <= self._length:
            raise ValueError(f"can't roll a cache of {self._length} tokens back to {length}")
        self._length = length

    def advance(self, tokens: int) -> None:
        """`tokens` more are held."""
        if self._length + tokens > self.capacity:
            raise ValueError(f"{self._length} + {tokens} tokens exceed the cache's capacity of {self.capacity}")
        self._length += tokens

    def last_pointer(self, which: int, offset: int) -> int:
        """Address of token `offset` in the last layer's keys (0) or values (1)."""
        row = self.layout.num_kv_heads * self.layout.head_size * self.layout.dtype.itemsize
        return int(self.last[which].data_ptr()) + offset * row
