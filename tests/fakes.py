"""A fake engine, whose KV cache is a running hash: any wrong prefix changes every later reward."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


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


class FakeEngine:
    """Counts what it computes."""

    def __init__(self) -> None:
        self.computed = 0
        self.runs: list[int] = []

    def new_cache(self, capacity: int) -> FakeCache:
        return FakeCache(capacity)

    def prefill(self, cache: FakeCache, ids: NDArray[np.int64], reads: NDArray[np.int64]) -> NDArray[np.float32]:
        past = cache.length
        for token in ids.tolist():
            cache.states.append(extend(cache.states[-1], token))
        assert cache.length <= cache.capacity
        self.computed += len(ids)
        self.runs.append(len(ids))
        return np.array([reward(cache.states[past + 1 + read]) for read in reads.tolist()], np.float32)


def extend(state: bytes, token: int) -> bytes:
    return hashlib.sha256(state + token.to_bytes(8, "little")).digest()


def reward(state: bytes) -> float:
    return int.from_bytes(state[:3], "little") / 2**24


def expected_rewards(ids: list[int], reads: list[int]) -> list[float]:
    """What an engine without any reuse gives."""
    states = [b""]
    for token in ids:
        states.append(extend(states[-1], token))
    return [reward(states[read + 1]) for read in reads]
