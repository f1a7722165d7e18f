"""Keys and values of a run of tokens: one array for all layers but the last, one for the last.

Knows the shapes that the graph reads and writes, nothing of sessions, tokens or plans.

A `KVCache` is what a graph appends to, and is rolled back by length. In all layers but the last, the graph writes a
run's keys and values into the buffer it reads from (GroupQueryAttention with past and present shared): nothing is
copied. The last layer attends only from the read positions; its buffer is token-major, so that the cached part and the
run's part are two contiguous views of it. The graph joins them for its products: a copy of one layer's keys and values
in each run.

A `Block` is what is kept of a cache when it goes on to something else: the same two arrays with room for just its
tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfprm_lite.engine.memory import Memory

SPARE = 1
"""A token that a run may put behind a cache's own."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Shapes of keys and values.

    inner: [2 * (num_layers - 1), num_kv_heads, capacity, head_size], keys and values of each layer but the last.
    last: [2, capacity, num_kv_heads * head_size].
    """

    num_layers: int
    num_kv_heads: int
    head_size: int
    dtype: np.dtype[np.floating]

    @classmethod
    def of(cls, num_layers: int, num_kv_heads: int, head_size: int, dtype: str) -> Layout:
        """dtype: of keys and values, by name."""
        return cls(num_layers, num_kv_heads, head_size, np.dtype(dtype))

    def inner_shape(self, capacity: int) -> list[int]:
        return [2 * (self.num_layers - 1), self.num_kv_heads, capacity, self.head_size]

    def last_shape(self, capacity: int) -> list[int]:
        return [2, capacity, self.num_kv_heads * self.head_size]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size * self.dtype.itemsize


class _Arrays:
    """The two arrays, with room for `capacity` tokens."""

    def __init__(self, layout: Layout, capacity: int, memory: Memory[Any]) -> None:
        self.layout = layout
        self.capacity = capacity
        self.memory = memory
        self.inner = memory.empty(layout.inner_shape(capacity), layout.dtype)
        self.last = memory.empty(layout.last_shape(capacity), layout.dtype)

    def copy(self, at: int, source: _Arrays, start: int, tokens: int) -> None:
        """Tokens [at, at + tokens) become those of the source from `start` on."""
        self.memory.copy(self.inner, at, source.inner, start, tokens)
        self.memory.copy(self.last, at, source.last, start, tokens)

    def part(self, start: int, end: int) -> Block:
        """A copy of tokens [start, end)."""
        part = _Arrays(self.layout, end - start, self.memory)
        part.copy(0, self, start, end - start)
        return Block(part)


class Block:
    """Keys and values of consecutive tokens, kept. Never changes."""

    def __init__(self, arrays: _Arrays) -> None:
        self.arrays = arrays

    @property
    def length(self) -> int:
        return self.arrays.capacity

    @property
    def nbytes(self) -> int:
        return self.arrays.capacity * self.arrays.layout.token_bytes

    def split(self, tokens: int) -> tuple[Block, Block]:
        """Copies of the first `tokens` tokens and of the others."""
        return self.arrays.part(0, tokens), self.arrays.part(tokens, self.length)


class KVCache:
    """Keys and values of up to `capacity` tokens. Owned by one call, used by one thread."""

    def __init__(self, layout: Layout, capacity: int, memory: Memory[Any]) -> None:
        self.arrays = _Arrays(layout, capacity + SPARE, memory)
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    @property
    def capacity(self) -> int:
        return self.arrays.capacity - SPARE

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

    def keep(self, start: int, end: int) -> Block:
        """A copy of tokens [start, end), which must be held."""
        if not 0 <= start <= end <= self._length:
            raise ValueError(f"tokens {start} to {end} are not among the {self._length} held")
        return self.arrays.part(start, end)

    def restore(self, block: Block, start: int, end: int) -> None:
        """Append tokens [start, end) of a block."""
        if not 0 <= start <= end <= block.length:
            raise ValueError(f"tokens {start} to {end} are not among the {block.length} of the block")
        at = self._length
        self.advance(end - start)
        self.arrays.copy(at, block.arrays, start, end - start)

    def inner_address(self, index: int) -> int:
        """Of the array [1, num_kv_heads, capacity, head_size] of a layer's keys (even) or values (odd)."""
        size = math.prod(self.arrays.layout.inner_shape(self.arrays.capacity)[1:]) * self.arrays.layout.dtype.itemsize
        return self.arrays.memory.address(self.arrays.inner) + index * size

    def last_address(self, index: int, token: int) -> int:
        """Of the last layer's keys (0) or values (1), from a token on."""
        _, capacity, features = self.arrays.layout.last_shape(self.arrays.capacity)
        row = features * self.arrays.layout.dtype.itemsize
        return self.arrays.memory.address(self.arrays.last) + (index * capacity + token) * row
