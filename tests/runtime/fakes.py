"""A fake engine, whose KV cache is a running hash: any wrong prefix changes every later reward."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.plan.budget import DEFAULT_BUDGET, RunBudget
from rfprm_lite.plan.cache import Store
from rfprm_lite.plan.call import UNLIMITED, Call, Unlimited
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.packing import ALWAYS, Packing
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.plan.sequence import SequenceRewards, TokenSequence

TOKEN_BYTES = 10


@dataclass(frozen=True)
class FakeBlock:
    """The hashes behind each of its tokens. Tokens before it are not in them, so that a block in a wrong place
    shows."""

    states: tuple[bytes, ...]

    @property
    def length(self) -> int:
        return len(self.states)

    @property
    def nbytes(self) -> int:
        return TOKEN_BYTES * self.length

    def split(self, tokens: int) -> tuple[FakeBlock, FakeBlock]:
        return FakeBlock(self.states[:tokens]), FakeBlock(self.states[tokens:])


class FakeCache:
    """states[n] is the hash of the first n tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.states = [b""]

    @property
    def length(self) -> int:
        return len(self.states) - 1

    def trim(self, length: int) -> None:
        assert 0 <= length <= self.length
        del self.states[length + 1 :]

    def keep(self, start: int, end: int) -> FakeBlock:
        assert 0 <= start < end <= self.length
        return FakeBlock(tuple(self.states[start + 1 : end + 1]))

    def restore(self, block: FakeBlock, start: int, end: int) -> None:
        assert 0 <= start < end <= block.length
        self.states += block.states[start:end]
        assert self.length <= self.capacity


@dataclass(frozen=True)
class FakeLanes:
    caches: list[FakeCache]


class FakeEngine:
    """Counts what it computes. runs: the lengths of each run's extensions."""

    def __init__(self, max_lanes: int = 1) -> None:
        self.max_lanes = max_lanes
        self.computed = 0
        self.runs: list[list[int]] = []

    def new_lanes(self, count: int, capacity: int) -> FakeLanes:
        assert 1 <= count <= self.max_lanes
        return FakeLanes([FakeCache(capacity) for _ in range(count)])

    def prefill(self, lanes: FakeLanes, chunks: Sequence[Chunk], cancel: Cancellation) -> list[NDArray[np.float32]]:
        cancel.check()
        assert len({chunk.lane for chunk in chunks}) == len(chunks) > 0
        self.runs.append([len(chunk.ids) for chunk in chunks])
        return [self._extend(lanes.caches[chunk.lane], chunk) for chunk in chunks]

    def _extend(self, cache: FakeCache, chunk: Chunk) -> NDArray[np.float32]:
        past = cache.length
        for token in chunk.ids.tolist():
            cache.states.append(extend(cache.states[-1], token))
        assert past < cache.length <= cache.capacity
        self.computed += len(chunk.ids)
        return np.array([reward(cache.states[past + 1 + read]) for read in chunk.read_at.tolist()], np.float32)


@dataclass(frozen=True)
class Lanes(Unlimited):
    """Admits so many lanes."""

    count: int

    def lanes(self, longest: int, most: int) -> int:
        return min(self.count, most)


def score_sequences(
    engine: FakeEngine,
    sequences: Sequence[TokenSequence],
    store: Store[FakeBlock] | None = None,
    *,
    lanes: int | None = None,
    packing: Packing = ALWAYS,
    cancel: Cancellation | None = None,
    budget: RunBudget = DEFAULT_BUDGET,
) -> list[SequenceRewards]:
    """By a call of its own. lanes: that may be used."""
    admission = UNLIMITED if lanes is None else Lanes(lanes)
    return Call(engine, store, admission=admission, packing=packing, cancel=cancel, budget=budget).rewards(sequences)


def extend(state: bytes, token: int) -> bytes:
    return hashlib.sha256(state + token.to_bytes(8, "little")).digest()


def reward(state: bytes) -> float:
    return int.from_bytes(state[:3], "little") / 2**24


def expected_rewards(ids: list[int], read_at: list[int]) -> list[float]:
    """What an engine without any reuse gives."""
    states = [b""]
    for token in ids:
        states.append(extend(states[-1], token))
    return [reward(states[read + 1]) for read in read_at]
