"""How much one run of the graph computes, and what a call takes in memory, told before it starts.

In: a model's sizes and a limit, as numbers. Out: bytes beside the loaded model, and how many lanes keep within the
limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfprm_lite.errors import MemoryLimitError

RUN_BYTES = 250
"""Bytes of temporary arrays per token and hidden feature in one run; measured with bench/memory.py
(bench/log/2026-11-23-memory-prediction.md)."""
FLOAT_BYTES = 4
DEFAULT_EXTRA_BYTES = 2**31
"""Without memory_bytes, a call may retain this much KV in addition to the shared cache."""
SCORE_COPIES, LAST_LAYER_COPIES = 4, 4
"""Arrays of attention scores, and of the last layer's keys and values, that a run holds at once."""


@dataclass(frozen=True, slots=True)
class RunBudget:
    """The most that one run computes.

    Attributes:
        chunk_tokens: Usage of one run. What a run needs beside the caches grows with this, not with the traces.
        read_scores: Attention scores of one head in the last layer: the read-outs of a run times the tokens that they
            attend to.
    """

    chunk_tokens: int = 256
    read_scores: int = 64 * 4096


DEFAULT_BUDGET = RunBudget()


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The sizes that memory and copies depend on.

    Attributes:
        hidden_size: Features of the hidden states.
        num_heads: Query heads.
        kv_size: Features of one layer's keys: num_kv_heads * head_size.
        token_bytes: Bytes of one token's keys and values in all layers.
        spare_tokens: Usage that a lane has room for beyond its longest sequence.
    """

    hidden_size: int
    num_heads: int
    kv_size: int
    token_bytes: int
    spare_tokens: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """limit: bytes, or None. cache_bytes: kept between calls."""

    sizes: ModelSizes
    max_lanes: int
    cache_bytes: int
    limit: int | None
    budget: RunBudget = DEFAULT_BUDGET

    def bytes(self, longest: int, lanes: int) -> int:
        """Of a call whose longest sequence has `longest` tokens: at most, the cache included.

        It grows with the tokens, never with their square: a lane's keys and values, those that lanes share, and what a
        run needs.
        """
        sizes, budget = self.sizes, self.budget
        lane = (longest + sizes.spare_tokens) * sizes.token_bytes
        shared = lane if lanes > 1 else 0
        layers = budget.chunk_tokens * sizes.hidden_size * RUN_BYTES
        scores = min(budget.read_scores, budget.chunk_tokens * longest) * sizes.num_heads * FLOAT_BYTES * SCORE_COPIES
        joined = longest * sizes.kv_size * FLOAT_BYTES * LAST_LAYER_COPIES
        return lanes * lane + shared + max(layers, scores + joined) + self.cache_bytes

    @property
    def most_kept(self) -> int:
        """Bytes that a call, or a growing trace, may keep besides: half of the limit."""
        return DEFAULT_EXTRA_BYTES if self.limit is None else self.limit // 2

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
