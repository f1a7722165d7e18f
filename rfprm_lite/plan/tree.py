"""The prefix plan: every prefix that sequences share is computed once.

In: token sequences and the read-outs of each. Out: a `Plan`. Pure; knows nothing of ONNX, text or memory.

The distinct prefixes of all sequences form a radix tree. Sorting the sequences and walking them in that order is
the tree's depth-first walk: each sequence leaves the path of the one before it where they differ, and only the rest is
computed. The tokens computed are exactly the tree's distinct prefixes, and in this order one path at a time is
needed. A read-out inside a shared prefix is done when that prefix is computed, since a cached token has no hidden
state any more.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.plan.sequence import TokenSequence


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Tokens to compute on top of the first `start` tokens of their sequence.

    Attributes:
        sequence: The index of the planned sequence whose tokens these are.
        parent: The segment that has the token before `start`: an earlier one of the plan, which may go on behind. None
            where `start` is 0.
        start: Tokens before it, counted from the sequence's beginning.
        ids: int64 [num_tokens].
        read_at: int64 [num_readouts], ascending positions counted from the sequence's beginning,
            start <= position < start + num_tokens.
    """

    sequence: int
    parent: int | None
    start: int
    ids: NDArray[np.int64]
    read_at: NDArray[np.int64]

    @property
    def end(self) -> int:
        """The position behind its last token, counted from the sequence's beginning."""
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Readout:
    """The place of a wanted reward: a segment of the plan, and the index among its read-outs."""

    segment: int
    index: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All tokens to compute, and the places of all rewards.

    Attributes:
        segments: In the order to compute, a parent before its children.
        readouts: For each sequence, one for each of its `read_at`, in order.
    """

    segments: tuple[Segment, ...]
    readouts: tuple[tuple[Readout, ...], ...]

    @property
    def capacity(self) -> int:
        """Tokens of the longest sequence."""
        return max((segment.end for segment in self.segments), default=0)


def plan(sequences: Sequence[TokenSequence]) -> Plan:
    """The depth-first walk over the radix tree of all sequences."""
    # Big-endian bytes sort as the ids do, at 4 bytes a token; ids are below 2**32.
    keys = [s.ids.astype(">u4").tobytes() for s in sequences]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    del keys
    starts = _shared_lengths([sequences[i].ids for i in order])

    drafts: list[_Draft] = []
    path: list[int] = []  # the drafts that make up the current sequence, from its beginning on
    wanted: dict[int, list[tuple[int, int]]] = {}
    for i, start in zip(order, starts, strict=True):
        while path and drafts[path[-1]].start >= start:
            path.pop()
        if start < len(sequences[i].ids):
            drafts.append(_Draft(i, path[-1] if path else None, start))
            path.append(len(drafts) - 1)
        wanted[i] = _assign_readouts(sequences[i].read_at.tolist(), drafts, path)

    segments = [
        Segment(
            d.sequence, d.parent, d.start, sequences[d.sequence].ids[d.start :], np.array(sorted(d.read_at), np.int64)
        )
        for d in drafts
    ]
    index = [{int(p): k for k, p in enumerate(s.read_at)} for s in segments]
    readouts = tuple(
        tuple(Readout(segment, index[segment][position]) for segment, position in wanted[i])
        for i in range(len(sequences))
    )
    return Plan(tuple(segments), readouts)


@dataclass(slots=True)
class _Draft:
    sequence: int
    parent: int | None
    start: int
    read_at: set[int] = field(default_factory=set)


def _assign_readouts(read_at: list[int], drafts: list[_Draft], path: list[int]) -> list[tuple[int, int]]:
    """Give each position to the segment on the path that computes it: the last that starts at or before it."""
    assigned: list[tuple[int, int]] = []
    for position in read_at:
        draft = path[bisect_right(path, position, key=lambda i: drafts[i].start) - 1]
        drafts[draft].read_at.add(position)
        assigned.append((draft, position))
    return assigned


def _shared_lengths(ordered: list[NDArray[np.int64]]) -> list[int]:
    """The number of tokens that each sequence shares with the one before it."""
    return [0, *(shared_length(a, b) for a, b in itertools.pairwise(ordered))][: len(ordered)]


def shared_length(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """The number of tokens that both begin with."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
