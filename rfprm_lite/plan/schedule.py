"""The way from segments to runs: which tokens are computed next, in which lane, and who keeps their keys and values.

In: a plan, the lanes of a call, and a store of prefixes. Out: runs of chunks, and the rewards that they gave. Knows
nothing of text.

A segment may begin as soon as the tokens before it are computed, and as many are computed at once as there are lanes.
What a lane lacks of a segment's past is copied into it, which costs about a hundredth of computing it.

Three invariants hold between runs:

1. A lane's KV buffer holds the keys and values of just the tokens in `Lane.ids`, whichever call put them there.
2. Until `waiting` of a segment is 0, its `slices` cover each of its computed tokens before `needed`. So any segment
   that branches off can be loaded into any lane.
3. A slice is dropped from a segment only when the segment is done and nothing waits for it. Blocks never change, so
   that the store may drop or split its own view of them at any time.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.plan.budget import RunBudget
from rfprm_lite.plan.cache import BlockSlice, Place, Store, within
from rfprm_lite.plan.packing import Packing
from rfprm_lite.plan.ports import C, Chunk
from rfprm_lite.plan.sequence import Rewards, SequenceRewards, TokenSequence
from rfprm_lite.plan.tree import Plan, Segment, shared_length

_NO_TOKENS = np.zeros(0, np.int64)


@dataclass(slots=True, eq=False)
class Lane(Generic[C]):
    """A lane of a call.

    Attributes:
        index: Its number.
        cache: Its KV buffer.
        ids: int64 [tokens], whose keys and values the buffer holds, in order.
        segment: The segment being computed, or None if the lane is free.
    """

    index: int
    cache: C
    ids: NDArray[np.int64] = field(default_factory=_NO_TOKENS.copy)
    segment: int | None = None


@dataclass(slots=True, eq=False)
class _SegmentState:
    """A segment on its way.

    Attributes:
        ids: int64, its sequence from the beginning to the segment's end.
        at: How far it is computed, counted from the sequence's beginning.
        cached: Where computing began: the tokens before it were in the store.
        rewards: float32 [num_readouts].
        slices: KV of its own tokens that others need, consecutive.
        needed: Where the last segment that is not finished branches off.
        waiting: Segments that branch off and are not finished, with all that branches off them.
        branches: Segments that branch off and can't begin yet, in the plan's order: the first to begin is the last.
        places: Known places in the store, by the position behind them.
    """

    segment: Segment
    ids: NDArray[np.int64]
    at: int
    cached: int
    rewards: Rewards
    slices: list[BlockSlice[Any]]
    needed: int = 0
    waiting: int = 0
    branches: list[int] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.at == self.segment.end


class Schedule(Generic[C]):
    """The runs of one plan."""

    def __init__(self, plan: Plan, sequences: Sequence[TokenSequence], store: Store[Any], budget: RunBudget) -> None:
        self._plan = plan
        self._store = store
        self._budget = budget
        self._states: list[_SegmentState] = []
        for segment in plan.segments:
            self._states.append(self._state(segment, sequences[segment.sequence]))
        self._num_open = sum(not state.done for state in self._states)
        self._ready: list[int] = []  # in no lane and with a computed past, in the plan's order
        self._lanes: Sequence[Lane[C]] = ()
        self._packing = Packing(0)
        self._run: list[tuple[int, Chunk]] = []
        for state in reversed(self._states):  # children before their parents
            if state.segment.parent is not None and not (state.done and not state.waiting):
                parent = self._states[state.segment.parent]
                parent.needed = max(parent.needed, state.segment.start)
                parent.waiting += 1
            elif state.done and not state.waiting:
                state.slices.clear()
        for i, state in enumerate(self._states):
            if state.segment.parent is not None:
                self._states[state.segment.parent].branches.append(i)
        for i, state in enumerate(self._states):
            if state.segment.parent is None:
                self._reach(i)

    @property
    def num_open(self) -> int:
        """Segments that are not finished. More lanes than that are of no use."""
        return self._num_open

    def start(self, lanes: Sequence[Lane[C]], packing: Packing) -> None:
        """Take the lanes of the call. Tokens of the store that they hold already are not copied again.

        Args:
            lanes: At least one.
            packing: When a further lane pays.
        """
        self._lanes = lanes
        self._packing = packing
        for lane in lanes:
            lane.segment = None

    def next_run(self) -> list[Chunk]:
        """The chunks of the next run, at most one a lane; none when all is done."""
        self._run = []
        tokens, scores = self._budget.chunk_tokens, self._budget.read_scores
        under_way = sorted(lane.segment for lane in self._lanes if lane.segment is not None)
        for i in (*under_way, *self._ready[: len(self._lanes)]):
            ids, read_at = _next_chunk(self._states[i], tokens, scores)
            of_chunk = self._budget.scores(len(read_at), self._states[i].at + len(ids))
            if self._run and of_chunk > scores:
                break
            lane = self._lane_of(i, alone=not self._run)
            if lane is None:
                break
            self._run.append((i, Chunk(lane.index, ids, read_at)))
            tokens -= len(ids)
            scores -= of_chunk
            if not tokens:
                break
        return [chunk for _, chunk in self._run]

    def collect(self, rewards: Sequence[Rewards]) -> None:
        """Take the results of the run: the rewards of each chunk."""
        for (i, chunk), of_chunk in zip(self._run, rewards, strict=True):
            self._advance(self._lanes[chunk.lane], i, chunk, of_chunk)

    def results(self) -> list[SequenceRewards]:
        """The rewards of each sequence, when all is done."""
        computed = [0] * len(self._plan.readouts)
        for state in self._states:
            computed[state.segment.sequence] += state.segment.end - state.cached
        return [
            SequenceRewards(np.array([self._states[r.segment].rewards[r.index] for r in readouts], np.float32), tokens)
            for readouts, tokens in zip(self._plan.readouts, computed, strict=True)
        ]

    def _reach(self, i: int) -> None:
        """All tokens before segment i are computed.

        Then those before a segment that branches off from its computed part are, too. A segment may be done from the
        store before its past is: its parent has a read-out that the store has not.
        """
        reached = [i]
        while reached:
            i = reached.pop()
            if not self._states[i].done:
                insort(self._ready, i)
            reached += self._begun(i)

    def _begun(self, i: int) -> Iterator[int]:
        """The segments that branch off from what is computed of segment i, each once. The last of the plan is first."""
        state = self._states[i]
        while state.branches and self._states[state.branches[-1]].segment.start <= state.at:
            yield state.branches.pop()

    def _lane_of(self, i: int, *, alone: bool) -> Lane[C] | None:
        """The lane that is at the segment, or the free one that holds most of its past, and now all of it.

        None if all are busy, or if copying the past would cost more than the runs that it saves. How many that are is
        an estimate: if all open segments had a lane of their own now, they would take one run in place of one each, and
        the copy serves this lane's share of them. The segment's own run is one more.

        Args:
            i: The segment.
            alone: Whether the run has no other segment; then any lane will do, since nothing else can be computed.
        """
        for lane in self._lanes:
            if lane.segment == i:
                return lane
        past = self._past(i)
        free = ((shared_length(lane.ids, past), lane) for lane in self._lanes if lane.segment is None)
        held, best = max(free, key=lambda pair: pair[0], default=(0, None))
        if best is None:
            return None
        if not alone and not self._packing.pays(len(past) - held, 1 + self._num_open // len(self._lanes)):
            return None
        best.segment = i
        del self._ready[bisect_left(self._ready, i)]
        self._load(best, i, held)
        return best

    def _past(self, i: int) -> NDArray[np.int64]:
        """The tokens before the segment's next one."""
        return self._states[i].ids[: self._states[i].at]

    def _load(self, lane: Lane[C], i: int, held: int) -> None:
        """Make the lane hold all before the segment's next token, of which it holds the first `held` tokens."""
        past = self._past(i)
        lane.ids = past[:held]  # first: an interrupt may leave the cache longer than what is known of it, never shorter
        lane.cache.trim(held)
        for ancestor, end in self._path(i, held):
            state = self._states[ancestor]
            for kept in within(state.slices, max(held, state.segment.start), end):
                lane.cache.restore(kept.block, kept.offset, kept.offset + kept.end - kept.start)
        lane.ids = past

    def _path(self, i: int, held: int) -> list[tuple[int, int]]:
        """The segments with the past of segment i behind its first `held` tokens, each with the end of its part."""
        path = [(i, self._states[i].at)]
        while (start := self._states[i].segment.start) > held and (
            parent := self._states[i].segment.parent
        ) is not None:
            path.append((parent, start))
            i = parent
        return path[::-1]

    def _advance(self, lane: Lane[C], i: int, chunk: Chunk, rewards: Rewards) -> None:
        state = self._states[i]
        start, state.at = state.at, state.at + len(chunk.ids)
        first = int(np.searchsorted(state.segment.read_at, start))
        state.rewards[first : first + len(rewards)] = rewards
        lane.ids = self._past(i)
        self._keep(lane, state, start, rewards)
        for branch in self._begun(i):
            self._reach(branch)
        if state.done:
            lane.segment = None
            self._num_open -= 1
            self._finish(state)

    def _keep(self, lane: Lane[C], state: _SegmentState, start: int, rewards: Rewards) -> None:
        """Copy out of the lane what other lanes need, or what the store takes."""
        end = state.at if self._store.enabled else min(state.at, state.needed)
        if end <= start or not (self._store.enabled or len(self._lanes) > 1):
            return
        kept = BlockSlice(start, end, lane.cache.keep(start, end))
        if start < state.needed:
            state.slices.append(kept)
        if self._store.enabled:
            positions = state.segment.read_at[slice(*np.searchsorted(state.segment.read_at, (start, end)))]
            known = dict(zip(positions.tolist(), rewards.tolist(), strict=True))
            place = self._store.insert(state.ids[:end], kept, known, behind=self._place(state.segment, state, start))
            if place is not None:
                state.places[end] = place

    def _state(self, segment: Segment, sequence: TokenSequence) -> _SegmentState:
        ids = sequence.ids[: segment.end]
        rewards = np.full(len(segment.read_at), np.nan, np.float32)
        behind = self._place(segment, None, segment.start)
        match = self._store.match(ids, segment.read_at, behind=behind, start=segment.start)
        cached = max(segment.start, match.length)
        for i, position in enumerate(segment.read_at.tolist()):
            if position < cached:
                rewards[i] = match.rewards[position]
        slices = within(match.slices, segment.start, cached)
        return _SegmentState(segment, ids, cached, cached, rewards, slices, places=dict(match.places))

    def _place(self, segment: Segment, state: _SegmentState | None, at: int) -> Place | None:
        """The store's place of the tokens of a segment's sequence up to `at`, if it is known here."""
        if state is not None and at in state.places:
            return state.places[at]
        if segment.parent is not None and at == segment.start:  # behind it the parent's tokens are others
            return self._states[segment.parent].places.get(at)
        return None

    def _finish(self, state: _SegmentState) -> None:
        """Drop the slices that nothing waits for any more, here and upwards."""
        while state.done and not state.waiting:
            state.slices.clear()
            if state.segment.parent is None:
                return
            state = self._states[state.segment.parent]
            state.waiting -= 1


def _next_chunk(state: _SegmentState, tokens: int, scores: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The next ids of a segment, and the positions among them that are read out.

    At most so many tokens, and attention scores for the read-outs; but one read-out in any case.
    """
    read_at = state.segment.read_at[np.searchsorted(state.segment.read_at, state.at) :]
    end = min(state.at + tokens, state.segment.end)
    most = max(scores // end, 1)
    if np.searchsorted(read_at, end) > most:
        end = int(read_at[most - 1]) + 1
    return state.ids[state.at : end], read_at[read_at < end] - state.at
