"""Token sequences to rewards: plan, schedule, collect.

In: token sequences. Out: the reward at each of their read-outs, and the tokens that it took. Knows nothing of text.

The plan's segments are computed in its order, as many at once as the engine has lanes: a segment may begin as soon as
the tokens before it are there. Each lane has a KV cache; what a lane lacks of a segment's past is copied into it, which
costs about a hundredth of computing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.plan.budget import DEFAULT_BUDGET, RunBudget
from rfprm_lite.plan.cache import BlockSlice, PrefixCache, within
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.packing import ALWAYS, Packing
from rfprm_lite.plan.ports import C, Chunk, L, Prefill
from rfprm_lite.plan.sequence import Rewards, SequenceRewards, TokenSequence
from rfprm_lite.plan.tree import Segment, plan


def score_sequences(
    engine: Prefill[L],
    sequences: Sequence[TokenSequence],
    cache: PrefixCache[Any] | None = None,
    lanes: int | None = None,
    packing: Packing = ALWAYS,
    cancel: Cancellation | None = None,
    budget: RunBudget = DEFAULT_BUDGET,
) -> list[SequenceRewards]:
    """Rewards of all sequences, every shared prefix computed once, and none that the cache has.

    lanes: to use at most, each of which takes memory; all where None. packing: when a further one pays. Raises
    StoppedError where `cancel` says so; the cache has what was computed until then.
    """
    made = plan(sequences)
    cache = cache or PrefixCache(0, lambda block, _: (block, block))
    works = [_work(segment, sequences, cache) for segment in made.segments]
    count = max(1, min(lanes or engine.max_lanes, engine.max_lanes, sum(not work.done for work in works)))
    opened = engine.new_lanes(count, made.capacity)
    schedule = _Schedule(works, opened.caches, cache, packing, budget)
    cancel = cancel or Cancellation()
    while run := schedule.next_run():
        cancel.check()
        schedule.collect(engine.prefill(opened, run, cancel))
    computed = [0] * len(sequences)
    for work in works:
        computed[work.segment.sequence] += work.segment.end - work.cached
    return [
        SequenceRewards(np.array([works[r.segment].rewards[r.index] for r in own], np.float32), tokens)
        for own, tokens in zip(made.readouts, computed, strict=True)
    ]


@dataclass(slots=True, eq=False)
class _Work:
    """A segment on its way.

    ids: of its sequence from the beginning to the segment's end. at: how far it is, counted from the sequence's
    beginning; cached: where that began, the tokens before it being in the cache. rewards: float32 [num_read].
    pieces: KV of its tokens that others need or the cache has. needed: up to where other segments branch off.
    waiting: segments that branch off and are not finished, with all that branches off them.
    """

    segment: Segment
    ids: NDArray[np.int64]
    at: int
    cached: int
    rewards: Rewards
    pieces: list[BlockSlice[Any]]
    needed: int = 0
    waiting: int = 0

    @property
    def done(self) -> bool:
        return self.at == self.segment.end


def _work(segment: Segment, sequences: Sequence[TokenSequence], cache: PrefixCache[Any]) -> _Work:
    ids = sequences[segment.sequence].ids[: segment.end]
    rewards = np.full(len(segment.read_at), np.nan, np.float32)
    match = cache.match(ids, segment.read_at)
    cached = max(segment.start, match.length)
    for i, position in enumerate(segment.read_at.tolist()):
        if position < cached:
            rewards[i] = match.rewards[position]
    return _Work(segment, ids, cached, cached, rewards, within(match.pieces, segment.start, cached))


@dataclass(slots=True, eq=False)
class _Lane(Generic[C]):
    """cache: of the lane. holds: the segments whose tokens are in it, each with the end of its part. work: the segment
    that it is at."""

    index: int
    cache: C
    holds: list[tuple[int, int]] = field(default_factory=list)
    work: int | None = None


class _Schedule(Generic[C]):
    """Which segments are computed next, in which lane, and what becomes of them."""

    def __init__(
        self,
        works: Sequence[_Work],
        caches: Sequence[C],
        cache: PrefixCache[Any],
        packing: Packing,
        budget: RunBudget,
    ) -> None:
        self._works = works
        self._cache = cache
        self._packing = packing
        self._budget = budget
        self._lanes = [_Lane(i, own) for i, own in enumerate(caches)]
        self._run: list[tuple[int, Chunk]] = []
        self._open = [i for i, work in enumerate(works) if not work.done]
        for work in reversed(works):  # children before their parents
            if work.segment.parent is not None and not (work.done and not work.waiting):
                parent = works[work.segment.parent]
                parent.needed = max(parent.needed, work.segment.start)
                parent.waiting += 1
            elif work.done and not work.waiting:
                work.pieces.clear()

    def next_run(self) -> list[Chunk]:
        """The extensions of the next run, at most one a lane; none when all is done."""
        self._run = []
        left, scores = self._budget.chunk_tokens, self._budget.read_scores
        for i in self._ready():
            lane = self._lane_of(i, alone=not self._run)
            if lane is None:
                break
            self._load(lane, i)
            ids, read_at = _chunk(self._works[i], left, scores)
            self._run.append((i, Chunk(lane.index, ids, read_at)))
            left -= len(ids)
            scores -= len(read_at) * (self._works[i].at + len(ids))
            if left <= 0 or scores <= 0:
                break
        return [extension for _, extension in self._run]

    def collect(self, rewards: Sequence[Rewards]) -> None:
        """What the run gave."""
        for (i, extension), found in zip(self._run, rewards, strict=True):
            self._advance(self._lanes[extension.lane], i, extension, found)
        self._open = [i for i in self._open if not self._works[i].done]

    def _ready(self) -> list[int]:
        """Open segments whose past is there: those under way first, then in the plan's order."""
        under_way = [lane.work for lane in self._lanes if lane.work is not None]
        others = (i for i in self._open if i not in under_way and self._has_past(i))
        return [*sorted(under_way), *(i for i, _ in zip(others, self._lanes, strict=False))]

    def _has_past(self, i: int) -> bool:
        """Whether all tokens before the segment are there. A parent may be done, from the cache, before its own parent
        is, which has a read-out that the cache has not."""
        while (parent := self._works[i].segment.parent) is not None:
            if self._works[parent].at < self._works[i].segment.start:
                return False
            i = parent
        return True

    def _lane_of(self, i: int, *, alone: bool) -> _Lane[C] | None:
        """The lane that is at the segment, or the free one that has most of its past; None where all are busy, or where
        it would cost more to copy the past there than runs are saved. alone: whether the run has no other segment."""
        for lane in self._lanes:
            if lane.work == i:
                return lane
        free = [lane for lane in self._lanes if lane.work is None]
        path = self._path(i)
        best = max(free, key=lambda lane: _common(lane.holds, path), default=None)
        if best is None:
            return None
        copied = self._works[i].at - _common(best.holds, path)
        if not alone and not self._packing.pays(copied, 1 + len(self._open) // len(self._lanes)):
            return None
        best.work = i
        return best

    def _path(self, i: int) -> list[tuple[int, int]]:
        """The segments that hold the past of segment i and its own tokens so far, each with the end of its part."""
        path = [(i, self._works[i].at)]
        while (parent := self._works[i].segment.parent) is not None:
            path.append((parent, self._works[i].segment.start))
            i = parent
        return path[::-1]

    def _load(self, lane: _Lane[C], i: int) -> None:
        """Make the lane hold all before the segment's next token."""
        path = self._path(i)
        have = _common(lane.holds, path)
        lane.cache.trim(have)
        lane.holds = path
        for segment, end in path:
            for piece in within(self._works[segment].pieces, max(have, self._works[segment].segment.start), end):
                lane.cache.restore(piece.block, piece.offset, piece.offset + piece.end - piece.start)

    def _advance(self, lane: _Lane[C], i: int, extension: Chunk, rewards: Rewards) -> None:
        work = self._works[i]
        start, work.at = work.at, work.at + len(extension.ids)
        first = int(np.searchsorted(work.segment.read_at, start))
        work.rewards[first : first + len(rewards)] = rewards
        self._keep(lane, work, start, rewards)
        lane.holds = self._path(i)
        if work.done:
            lane.work = None
            self._finish(work)

    def _keep(self, lane: _Lane[C], work: _Work, start: int, rewards: Rewards) -> None:
        """Copy what others need, or the cache has room for, out of the lane."""
        end = work.at if self._cache.enabled else min(work.at, work.needed)
        if end <= start or not (self._cache.enabled or len(self._lanes) > 1):
            return
        piece = BlockSlice(start, end, lane.cache.keep(start, end))
        if start < work.needed:
            work.pieces.append(piece)
        if self._cache.enabled:
            positions = work.segment.read_at[(work.segment.read_at >= start) & (work.segment.read_at < end)]
            self._cache.insert(work.ids[:end], piece, dict(zip(positions.tolist(), rewards.tolist(), strict=True)))

    def _finish(self, work: _Work) -> None:
        """Let go of pieces that nobody waits for any more."""
        while work.done and not work.waiting:
            work.pieces.clear()
            if work.segment.parent is None:
                return
            work = self._works[work.segment.parent]
            work.waiting -= 1


def _common(held: Sequence[tuple[int, int]], path: Sequence[tuple[int, int]]) -> int:
    """Tokens at the beginning of `path` that a lane holds."""
    common = 0
    for (segment, end), (other, other_end) in zip(held, path, strict=False):
        if segment != other:
            break
        common = min(end, other_end)
        if end != other_end:
            break
    return common


def _chunk(work: _Work, tokens: int, scores: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The next ids of a segment and the reads in them: at most so many tokens, and attention scores for the reads (but
    one read in any case)."""
    read_at = work.segment.read_at[work.segment.read_at >= work.at]
    end = min(work.at + tokens, work.segment.end)
    most = max(scores // end, 1)
    if np.searchsorted(read_at, end) > most:
        end = int(read_at[most - 1]) + 1
    return work.ids[work.at : end], read_at[read_at < end] - work.at
