"""What a plan asks of an engine and its KV caches. Tests put fakes in their places.

Nothing here knows what keys and values are, or where they live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.sequence import Rewards

B = TypeVar("B", bound="Kept")
C = TypeVar("C", bound="Cache[Any]")
C_co = TypeVar("C_co", bound="Cache[Any]", covariant=True)
L = TypeVar("L", bound="Lanes[Any]")


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Tokens to append to a lane's cache. ids: int64 [S], S >= 1. read_at: int64 [R], 0 <= position < S, ascending."""

    lane: int
    ids: NDArray[np.int64]
    read_at: NDArray[np.int64]


class Kept(Protocol):
    """Kept tokens."""

    @property
    def length(self) -> int:
        """Tokens kept."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""


class Cache(Protocol[B]):
    """The KV cache of a lane."""

    @property
    def length(self) -> int:
        """Tokens held."""

    def trim(self, length: int) -> None:
        """Roll back to the first `length` tokens."""

    def keep(self, start: int, end: int) -> B:
        """A copy of tokens [start, end)."""

    def restore(self, block: B, start: int, end: int) -> None:
        """Append tokens [start, end) of the block."""


class Lanes(Protocol[C_co]):
    """The lanes of one call."""

    @property
    def caches(self) -> Sequence[C_co]:
        """Of each lane, its own."""


class Prefill(Protocol[L]):
    """An engine."""

    @property
    def max_lanes(self) -> int:
        """Segments that one run can hold."""

    def new_lanes(self, count: int, capacity: int) -> L:
        """Lanes with empty caches for up to `capacity` tokens each."""

    def prefill(self, lanes: L, chunks: Sequence[Chunk], cancel: Cancellation) -> list[Rewards]:
        """Append each chunk to its lane's cache; the rewards at its read-outs."""
