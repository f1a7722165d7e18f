"""The protocols by which a plan uses an engine and its KV caches. Tests put fakes in their places.

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
    """Tokens to append to a lane's cache.

    Attributes:
        lane: The lane's number.
        ids: int64 [S], S >= 1.
        read_at: int64 [R], ascending positions in `ids` whose rewards are wanted.
    """

    lane: int
    ids: NDArray[np.int64]
    read_at: NDArray[np.int64]


class Kept(Protocol):
    """A block of kept tokens."""

    @property
    def length(self) -> int:
        """Its tokens."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""


class Cache(Protocol[B]):
    """The KV cache of a lane."""

    @property
    def length(self) -> int:
        """Tokens that it holds."""

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
        """The KV cache of each lane."""


class Prefill(Protocol[L]):
    """An engine."""

    @property
    def max_lanes(self) -> int:
        """Segments that one run can hold."""

    def new_lanes(self, count: int, capacity: int) -> L:
        """Lanes with empty caches for up to `capacity` tokens each."""

    def prefill(self, lanes: L, chunks: Sequence[Chunk], cancel: Cancellation) -> list[Rewards]:
        """Append each chunk to its lane's cache.

        Args:
            lanes: The lanes of the call.
            chunks: At least one, at most one a lane.
            cancel: Ends the run from another thread.

        Returns:
            The rewards at each chunk's read-outs.
        """
