"""What a call takes in memory, told before it starts.

In: a model's sizes and a limit. Out: bytes beside the loaded model, and how many lanes keep within the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfprm_lite.errors import MemoryLimitError
from rfprm_lite.kv import SPARE, Layout
from rfprm_lite.manifest import Dimensions, Variant
from rfprm_lite.scorer import CHUNK_TOKENS, READ_SCORES

RUN_BYTES = 250
"""Of a run's own arrays, a token and a feature of the hidden states: measured (bench/memory.py, bench/LOG.md)."""
FLOAT = 4
MORE_BYTES = 2**31
"""What a call may keep besides where there is no limit."""
READ_COPIES, LAST_COPIES = 4, 4
"""Arrays of attention scores, and of the last layer's keys and values, that a run holds at once."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """limit: bytes, or None. cache_bytes: kept between calls."""

    layout: Layout
    dimensions: Dimensions
    max_lanes: int
    cache_bytes: int
    limit: int | None

    @classmethod
    def of(cls, dimensions: Dimensions, variant: Variant, cache_bytes: int, limit: int | None) -> Footprint:
        layout = Layout.of(dimensions, variant.kv_dtype)
        return cls(layout, dimensions, variant.lanes, cache_bytes, limit)

    def bytes(self, longest: int, lanes: int) -> int:
        """Of a call whose longest sequence has `longest` tokens: at most, the cache included.

        It grows with the tokens, never with their square: a lane's keys and values, those that lanes share, and what a
        run needs.
        """
        d = self.dimensions
        lane = (longest + SPARE) * self.layout.token_bytes
        shared = lane if lanes > 1 else 0
        layers = CHUNK_TOKENS * d.hidden_size * RUN_BYTES
        scores = min(READ_SCORES, CHUNK_TOKENS * longest) * d.num_heads * FLOAT * READ_COPIES
        joined = longest * d.num_kv_heads * d.head_size * FLOAT * LAST_COPIES
        return lanes * lane + shared + max(layers, scores + joined) + self.cache_bytes

    @property
    def most_kept(self) -> int:
        """Bytes that a call, or a growing trace, may keep besides: half of the limit."""
        return MORE_BYTES if self.limit is None else self.limit // 2

    def allows(self, longest: int, more: int) -> bool:
        """Whether a call may keep so many bytes besides."""
        return more <= self.most_kept and (self.limit is None or self.bytes(longest, 1) + more <= self.limit)

    def lanes(self, longest: int, more: int = 0) -> int:
        """The most lanes that keep within the limit, where the call keeps `more` bytes besides. Raises MemoryLimitError
        where one does not."""
        if self.limit is None:
            return self.max_lanes
        fitting = [n for n in range(1, self.max_lanes + 1) if self.bytes(longest, n) + more <= self.limit]
        if not fitting:
            raise MemoryLimitError(longest, self.bytes(longest, 1) + more, self.limit)
        return fitting[-1]
