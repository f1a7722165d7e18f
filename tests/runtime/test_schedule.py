"""The schedule: what a run may compute, that it computes as much of it as it can, and what it keeps meanwhile."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeBlock, FakeCache, FakeEngine, FakeLanes, score_sequences
from rfprm_lite.plan.budget import RunBudget
from rfprm_lite.plan.cache import PrefixCache
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.packing import ALWAYS, Packing
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.plan.schedule import Lane, Schedule
from rfprm_lite.plan.tree import Segment, plan
from test_call import CountingCache
from test_tree import Sequences, sequences, token_sequences

budgets = st.builds(RunBudget, st.integers(1, 9), st.integers(1, 60), st.integers(1, 5))


@given(sequences(), budgets, st.integers(1, 4))
def test_a_run_keeps_within_its_budget_and_goes_as_far_as_that_lets_it(
    cases: Sequences, budget: RunBudget, count: int
) -> None:
    found = plan(token_sequences(cases))
    store: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split)
    schedule: Schedule[FakeCache] = Schedule(found, token_sequences(cases), store, budget)
    lanes = [Lane(i, FakeCache(found.capacity)) for i in range(count)]
    engine, opened = FakeEngine(count), FakeLanes([lane.cache for lane in lanes])
    schedule.start(lanes, ALWAYS)
    read: list[tuple[int, int]] = []
    while schedule.num_open:
        tokens, scores = budget.chunk_tokens, budget.read_scores
        run = schedule.next_run()
        assert run  # so that it ends
        for chunk in run:
            index, start = lanes[chunk.lane].segment, lanes[chunk.lane].cache.length
            assert index is not None
            check_chunk(found.segments[index], start, chunk, tokens, scores)
            tokens -= len(chunk.ids)
            scores -= budget.scores(len(chunk.read_at), start + len(chunk.ids))
            read += [(index, start + at) for at in chunk.read_at.tolist()]
        assert tokens >= 0
        end = lanes[run[0].lane].cache.length + len(run[0].ids)
        # Of one segment the least that there can be is computed, however much it is.
        assert scores >= 0 or (len(run) == 1 and budget.read_scores - scores == budget.scores(1, end))
        assert budget.read_scores - scores <= budget.most_scores(found.capacity, count)
        schedule.collect(engine.prefill(opened, run, Cancellation()))
    assert schedule.next_run() == []
    assert sorted(read) == [(i, at) for i, segment in enumerate(found.segments) for at in segment.read_at.tolist()]


def check_chunk(segment: Segment, start: int, chunk: Chunk, tokens: int, scores: int) -> None:
    """So much of a segment as so many tokens and scores allow: its end, all tokens, or the last read-out that fits."""
    end, most = start + len(chunk.ids), min(start + tokens, segment.end)
    assert start < end <= most
    assert chunk.ids.tolist() == segment.ids[start - segment.start : end - segment.start].tolist()
    wanted = segment.read_at[(start <= segment.read_at) & (segment.read_at < end)] - start
    assert chunk.read_at.tolist() == wanted.tolist()
    if len(wanted) > 1:
        assert len(wanted) * most <= scores
    if end < most:
        assert wanted[-1] == end - 1 - start
        assert (len(wanted) + 1) * most > scores
        assert (segment.read_at >= end).any()


@given(
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(1, 4),
    st.builds(RunBudget, st.integers(1, 9), st.integers(1, 60), st.integers(1, 5)),
)
def test_runs_are_as_few_as_budget_and_lanes_let_them_be(
    count: int, tokens: int, lanes: int, budget: RunBudget
) -> None:
    """Of sequences that share nothing, each read out once, and none cut."""
    budget = RunBudget(budget.chunk_tokens * tokens, budget.read_scores, budget.least_readouts)
    cases: Sequences = [([i] * tokens, [tokens - 1]) for i in range(count)]
    score_sequences(engine := FakeEngine(lanes), token_sequences(cases), budget=budget)
    at_once = min(lanes, budget.chunk_tokens // tokens, budget.read_scores // (budget.least_readouts * tokens))
    assert len(engine.runs) == -(-count // max(1, at_once))


@dataclass(frozen=True)
class Asked(Packing):
    """Any copy pays. asked: the copies that were weighed, and the runs that each saves."""

    asked: list[tuple[int, int]] = field(default_factory=list)

    def pays(self, copied: int, saved_runs: int) -> bool:
        self.asked.append((copied, saved_runs))
        return True


@given(sequences(), st.integers(1, 4), st.integers(1, 9))
def test_what_is_weighed_is_what_is_copied_and_a_share_of_the_open_segments(
    cases: Sequences, count: int, chunk_tokens: int
) -> None:
    found = plan(token_sequences(cases))
    store: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split)
    schedule: Schedule[FakeCache] = Schedule(found, token_sequences(cases), store, RunBudget(chunk_tokens))
    caches = [CountingCache(found.capacity) for _ in range(count)]
    engine, packing = FakeEngine(count), Asked(0)
    schedule.start([Lane(i, cache) for i, cache in enumerate(caches)], packing)
    while schedule.num_open:
        before, busy = (
            [cache.restored for cache in caches],
            {lane.index for lane in schedule._lanes if lane.segment is not None},
        )
        packing.asked.clear()
        run = schedule.next_run()
        copied = [caches[chunk.lane].restored - before[chunk.lane] for chunk in run]
        assert all(copied[i] == 0 for i, chunk in enumerate(run) if chunk.lane in busy)
        new = [tokens for tokens, chunk in zip(copied[1:], run[1:], strict=True) if chunk.lane not in busy]
        assert packing.asked[: len(new)] == [(tokens, 1 + schedule.num_open // count) for tokens in new]
        schedule.collect(engine.prefill(FakeLanes(list(caches)), run, Cancellation()))


class Remembering(FakeCache):
    """kept: all blocks that were copied out."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.kept: list[weakref.ref[FakeBlock]] = []

    def keep(self, start: int, end: int) -> FakeBlock:
        block = super().keep(start, end)
        self.kept.append(weakref.ref(block))
        return block


@given(sequences(), st.integers(1, 4))
def test_what_nothing_waits_for_is_not_kept(cases: Sequences, count: int) -> None:
    """Of one lane nothing is ever kept that no open segment branches off."""
    found = plan(token_sequences(cases))
    store: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split)
    schedule: Schedule[FakeCache] = Schedule(found, token_sequences(cases), store, RunBudget(3))
    caches = [Remembering(found.capacity) for _ in range(count)]
    engine = FakeEngine(count)
    schedule.start([Lane(i, cache) for i, cache in enumerate(caches)], ALWAYS)
    while run := schedule.next_run():
        schedule.collect(engine.prefill(FakeLanes(list(caches)), run, Cancellation()))
        if count == 1:
            assert not caches[0].kept  # its buffer has all that is needed, in the plan's order
    assert not any(block() for cache in caches for block in cache.kept)


def test_a_segment_that_an_earlier_plan_left_in_a_lane_is_forgotten() -> None:
    """After a failure, say."""
    lanes = [Lane(0, FakeCache(10))]
    for cases in ([([i, i], [1]) for i in range(3)], [([7, 8], [1])]):
        store: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split)
        schedule: Schedule[FakeCache] = Schedule(
            plan(token_sequences(cases)), token_sequences(cases), store, RunBudget()
        )
        schedule.start(lanes, ALWAYS)
        (chunk,) = schedule.next_run()
        assert chunk.ids.tolist() == cases[0][0]
        lanes[0].segment = 2
