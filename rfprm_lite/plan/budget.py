"""The limits of one run of the graph, and the memory that a call takes, told before it starts.

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
"""Bytes of a float32."""
DEFAULT_PINNED_BYTES = 2**31
"""Without memory_bytes, live traces, races and lazy calls may pin this much KV beside the shared cache."""
SCORE_COPIES, LAST_LAYER_COPIES = 4, 4
"""Arrays of attention scores, and of the last layer's keys and values, that a run holds at once."""


@dataclass(frozen=True, slots=True)
class RunBudget:
    """The most that one run computes.

    Attributes:
        chunk_tokens: Tokens of one run. What a run needs beside the caches grows with this, not with the traces.
        read_scores: Attention scores of one head in the last layer: the read-outs of a run times the tokens that they
            attend to.
        least_readouts: Read-outs that a run computes at least for a segment that has any.
    """

    chunk_tokens: int = 256
    read_scores: int = 64 * 4096
    least_readouts: int = 1

    def scores(self, readouts: int, tokens: int) -> int:
        """Attention scores of one head for some read-outs, each of which attends to at most `tokens` tokens."""
        return max(readouts, self.least_readouts) * tokens if readouts else 0

    def most_scores(self, tokens: int, lanes: int) -> int:
        """The most attention scores of one head in a run of so many lanes with at most `tokens` tokens each.

        Its lanes have `read_scores` at most; or one lane has one read-out, which is computed in any case. Where tokens
        are few, all of a chunk may be read out: the most are computed when all lanes but one have one read-out.
        """
        others = min(lanes, self.chunk_tokens) - 1
        readouts = others * self.least_readouts + max(self.chunk_tokens - others, self.least_readouts)
        return max(self.scores(1, tokens), min(self.read_scores, readouts * tokens))


DEFAULT_BUDGET = RunBudget()


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """The sizes that memory and copies depend on.

    Attributes:
        hidden_size: Features of the hidden states.
        num_heads: Query heads.
        kv_size: Features of one layer's keys: num_kv_heads * head_size.
        token_bytes: Bytes of one token's keys and values in all layers.
        spare_tokens: Tokens that a lane has room for beyond its longest sequence.
    """

    hidden_size: int
    num_heads: int
    kv_size: int
    token_bytes: int
    spare_tokens: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that calls may take beside the loaded model.

    Attributes:
        sizes: The model's.
        max_lanes: Lanes of the graph.
        cache_bytes: KV that is kept between calls without a lease, at most.
        limit: Bytes of one call, what is kept included; None for no limit.
        budget: The most that one run computes.
    """

    sizes: ModelSizes
    max_lanes: int
    cache_bytes: int
    limit: int | None
    budget: RunBudget = DEFAULT_BUDGET

    def bytes(self, longest: int, lanes: int) -> int:
        """The most bytes of a call whose longest sequence has `longest` tokens, the shared cache included.

        It grows with the tokens, never with their square: a lane's keys and values, those that lanes share, and what a
        run needs.
        """
        sizes, budget = self.sizes, self.budget
        shared = (longest + sizes.spare_tokens) * sizes.token_bytes if lanes > 1 else 0
        layers = budget.chunk_tokens * sizes.hidden_size * RUN_BYTES
        one_head = budget.most_scores(longest, self.max_lanes)
        scores = one_head * sizes.num_heads * FLOAT_BYTES * SCORE_COPIES
        joined = longest * sizes.kv_size * FLOAT_BYTES * LAST_LAYER_COPIES
        return self.lane_bytes(longest, lanes) + shared + max(layers, scores + joined) + self.cache_bytes

    def lane_bytes(self, longest: int, lanes: int) -> int:
        """Bytes of the keys and values of lanes with room for `longest` tokens each."""
        idle = 1  # the token that lanes without a segment are bound to
        return (lanes * (longest + self.sizes.spare_tokens) + idle) * self.sizes.token_bytes

    def room(self, longest: int, lanes: int) -> int:
        """Bytes that may be pinned beside a call with so many lanes; below 0 where these alone exceed the limit."""
        return self.pin_capacity if self.limit is None else self.limit - self.bytes(longest, lanes)

    @property
    def pin_capacity(self) -> int:
        """Bytes that all live traces, races and lazy calls may pin together: half of the limit."""
        return DEFAULT_PINNED_BYTES if self.limit is None else self.limit // 2

    def may_pin(self, longest: int, nbytes: int) -> bool:
        """Whether a call whose longest sequence has `longest` tokens may pin `nbytes` bytes besides."""
        return nbytes <= self.pin_capacity and (self.limit is None or self.bytes(longest, 1) + nbytes <= self.limit)

    def lanes(self, longest: int) -> int:
        """The most lanes that keep within the limit if nothing is pinned.

        Raises:
            MemoryLimitError: If not one lane does.
        """
        return self.admit(longest, 0, self.max_lanes)[0]

    def admit(self, longest: int, pinned: int, most: int) -> tuple[int, int]:
        """The lanes that a call may use beside what is pinned, and the bytes that may be pinned while it runs.

        Pins yield to a call that needs their room: what they held is computed again when it is needed.

        Args:
            longest: Tokens of the call's longest sequence.
            pinned: Bytes that are pinned now, or that the call will pin.
            most: Lanes that are of use, at least one.

        Raises:
            MemoryLimitError: If not one lane keeps within the limit without any pins.
        """
        if self.limit is not None and self.room(longest, 1) < 0:
            raise MemoryLimitError(longest, self.bytes(longest, 1), self.limit)
        pinned = min(pinned, self.room(longest, 1))
        lanes = max(n for n in range(1, min(most, self.max_lanes) + 1) if self.room(longest, n) >= pinned)
        return lanes, self.room(longest, lanes)


GPU_CHUNKS = (8192, 4096, 2048, 1024, 512)
"""Tokens of one run on a GPU, from what fills it to what fits beside little memory."""
GPU_RUN_BYTES = 160
"""Bytes of temporary arrays per token and hidden feature in one run on a GPU. Reckoned, not measured: in Qwen2's MLP
45 live at once in 16 bits, 80 where it is float32, and twice that for what the allocator rounds up."""
GPU_READ_SCORES = 2**62
"""On a GPU the last layer attends from every token, by the kernel of the other layers: scores are never held."""


def gpu_budget(hidden_size: int, room: int) -> RunBudget:
    """The most that one run computes on a GPU: as many tokens as take at most a quarter of the room, 512 at least.

    Args:
        hidden_size: Features of the hidden states.
        room: Bytes for runs, keys and values.
    """
    fitting = (tokens for tokens in GPU_CHUNKS if 4 * gpu_run_bytes(hidden_size, tokens) <= room)
    return RunBudget(next(fitting, GPU_CHUNKS[-1]), GPU_READ_SCORES)


def gpu_run_bytes(hidden_size: int, tokens: int) -> int:
    """Bytes of temporary arrays in one run of so many tokens on a GPU."""
    return hidden_size * tokens * GPU_RUN_BYTES


def pages_of_call(longest: int, lanes: int, page_tokens: int) -> int:
    """Pages that a call holds: those of its lanes, and as many for the paths that wait for their branches.

    Each path may begin in the middle of a page, which is then its own.
    """
    of_path = -(-longest // page_tokens) + 1
    return of_path * lanes * 2 if lanes > 1 else of_path


@dataclass(frozen=True, slots=True)
class PagedFootprint(Footprint):
    """The memory that calls may take of an engine's pages, which are there from the beginning; see `Footprint`.

    Attributes:
        page_tokens: Tokens of a page.
    """

    page_tokens: int = 1

    def bytes(self, longest: int, lanes: int) -> int:
        """The most bytes of pages that a call takes, what is kept included. A run's own arrays are not in pages."""
        return self.lane_bytes(longest, lanes) + self.cache_bytes

    def lane_bytes(self, longest: int, lanes: int) -> int:
        """Bytes of the pages of lanes with room for `longest` tokens each."""
        return pages_of_call(longest, lanes, self.page_tokens) * self.page_tokens * self.sizes.token_bytes
