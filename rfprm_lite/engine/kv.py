"""Keys and values of consecutive tokens: one array for all layers but the last, one for the last.

It knows the shapes of the graph's inputs and outputs, nothing of sessions, tokens or plans.

The graph appends to a `KVCache`, which is rolled back by length. In all layers but the last, the graph writes a run's
keys and values into the buffer that holds the past (GroupQueryAttention with past and present shared), so that nothing
is copied. The last layer attends only from the read-outs; its buffer is token-major, so that the cached part and the
run's part are two contiguous views of it. The graph joins them for its products: a copy of one layer's keys and values
in each run.

A `Block` holds tokens that are kept when their cache goes on to something else: the same two arrays with room for just
its tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SPARE = 1
"""Spare tokens of a buffer: the engine may append one padding token to a run (engine._not_one_row). It is behind the
cache's length, so that nobody sees it and the next run overwrites it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The shapes of keys and values.

    The inner array is [2 * (num_layers - 1), num_kv_heads, capacity, head_size], keys and values of each layer but the
    last in turn. The last array is [2, capacity, num_kv_heads * head_size].

    Attributes:
        num_layers: Decoder layers.
        num_kv_heads: Key and value heads of a layer.
        head_size: Features of a head.
        dtype: The type of keys and values.
    """

    num_layers: int
    num_kv_heads: int
    head_size: int
    dtype: np.dtype[np.floating]

    @classmethod
    def of(cls, num_layers: int, num_kv_heads: int, head_size: int, dtype: str) -> Layout:
        """The layout whose keys and values are of a type given by its name, such as "float32"."""
        return cls(num_layers, num_kv_heads, head_size, np.dtype(dtype))

    def inner_shape(self, capacity: int) -> list[int]:
        """The shape of the inner array with room for `capacity` tokens."""
        return [2 * (self.num_layers - 1), self.num_kv_heads, capacity, self.head_size]

    def last_shape(self, capacity: int) -> list[int]:
        """The shape of the last layer's array with room for `capacity` tokens."""
        return [2, capacity, self.num_kv_heads * self.head_size]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size * self.dtype.itemsize


class _Arrays:
    """The two arrays, with room for `capacity` tokens."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        self.capacity = capacity
        self.inner = np.empty(layout.inner_shape(capacity), layout.dtype)
        self.last = np.empty(layout.last_shape(capacity), layout.dtype)

    def copy(self, at: int, source: _Arrays, start: int, tokens: int) -> None:
        """Overwrite tokens [at, at + tokens) with those of the source from `start` on."""
        self.inner[..., at : at + tokens, :] = source.inner[..., start : start + tokens, :]
        self.last[:, at : at + tokens] = source.last[:, start : start + tokens]

    def part(self, start: int, end: int) -> Block:
        """A copy of tokens [start, end)."""
        part = _Arrays(self.layout, end - start)
        part.copy(0, self, start, end - start)
        return Block(part)


class Block:
    """Keys and values of consecutive tokens, kept. Never changes.

    So several threads may restore from one, and it lives on for a call that holds it when the cache drops it.
    """

    def __init__(self, arrays: _Arrays) -> None:
        self.arrays = arrays

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.arrays.capacity

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.arrays.capacity * self.arrays.layout.token_bytes

    def split(self, tokens: int) -> tuple[Block, Block]:
        """Copies of the first `tokens` tokens and of the others."""
        return self.arrays.part(0, tokens), self.arrays.part(tokens, self.length)


class KVCache:
    """Keys and values of up to `capacity` tokens. Owned by one call, used by one thread."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.arrays = _Arrays(layout, capacity + SPARE)
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        return self._length

    @property
    def capacity(self) -> int:
        """The most tokens that it can hold."""
        return self.arrays.capacity - SPARE

    def trim(self, length: int) -> None:
        """Roll back to the first `length` tokens. What is behind them is overwritten by the next run.

        Raises:
            ValueError: If it holds fewer.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"can't roll a cache of {self._length} tokens back to {length}")
        self._length = length

    def advance(self, tokens: int) -> None:
        """Count tokens as held that a run is about to write.

        Raises:
            ValueError: If there is no room for them.
        """
        if self._length + tokens > self.capacity:
            raise ValueError(f"{self._length} + {tokens} tokens exceed the cache's capacity of {self.capacity}")
        self._length += tokens

    def keep(self, start: int, end: int) -> Block:
        """A copy of tokens [start, end).

        Raises:
            ValueError: If they are not all held.
        """
        if not 0 <= start <= end <= self._length:
            raise ValueError(f"tokens {start} to {end} are not among the {self._length} held")
        return self.arrays.part(start, end)

    def restore(self, block: Block, start: int, end: int) -> None:
        """Append tokens [start, end) of a block.

        Raises:
            ValueError: If the block has not all of them, or if there is no room.
        """
        if not 0 <= start <= end <= block.length:
            raise ValueError(f"tokens {start} to {end} are not among the {block.length} of the block")
        at = self._length
        self.advance(end - start)
        self.arrays.copy(at, block.arrays, start, end - start)

    def inner_address(self, index: int) -> int:
        """The address of the array [1, num_kv_heads, capacity, head_size] of an inner layer's keys or values.

        Args:
            index: 2 * layer for keys, 2 * layer + 1 for values.
        """
        size = math.prod(self.arrays.layout.inner_shape(self.arrays.capacity)[1:]) * self.arrays.layout.dtype.itemsize
        return self.arrays.inner.ctypes.data + index * size

    def last_address(self, index: int, token: int) -> int:
        """The address of the last layer's keys or values from a token on: [tokens, num_kv_heads * head_size].

        Args:
            index: 0 for keys, 1 for values.
            token: The first token.
        """
        _, capacity, features = self.arrays.layout.last_shape(self.arrays.capacity)
        row = features * self.arrays.layout.dtype.itemsize
        return self.arrays.last.ctypes.data + (index * capacity + token) * row
