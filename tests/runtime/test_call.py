"""A call whose lanes outlive each of its uses: right for any series of sequences, and no past copied in vain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fakes import TOKEN_BYTES, FakeBlock, FakeCache, FakeEngine, FakeLanes, expected_rewards
from rfprm_lite.errors import EngineError, MemoryLimitError
from rfprm_lite.plan.budget import Footprint, ModelSizes, RunBudget
from rfprm_lite.plan.cache import PrefixCache
from rfprm_lite.plan.call import Call, Unlimited
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.packing import Packing
from rfprm_lite.plan.ports import Chunk
from test_tree import Sequences, sequences, token_sequences


class CountingCache(FakeCache):
    """Counts the tokens that are copied in."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.restored = 0

    def restore(self, block: FakeBlock, start: int, end: int) -> None:
        super().restore(block, start, end)
        self.restored += end - start


class CountingEngine(FakeEngine):
    """opened: lanes and capacity, each time that lanes were opened."""

    def __init__(self, max_lanes: int = 1) -> None:
        super().__init__(max_lanes)
        self.opened: list[tuple[int, int]] = []
        self.caches: list[CountingCache] = []

    def new_lanes(self, count: int, capacity: int) -> FakeLanes:
        assert 1 <= count <= self.max_lanes
        self.opened.append((count, capacity))
        self.caches = [CountingCache(capacity) for _ in range(count)]
        return FakeLanes(list(self.caches))


def rewards_of(case: tuple[list[int], list[int]]) -> list[float]:
    expected: list[float] = np.array(expected_rewards(*case), np.float32).tolist()
    return expected


@given(
    st.lists(sequences(), max_size=5),
    st.integers(0, 60),
    st.booleans(),
    st.integers(1, 7),
    st.integers(1, 4),
    st.floats(0, 30),
)
def test_rewards_are_right_whatever_lanes_hold(
    uses: list[Sequences], tokens: int, leased: bool, chunk_tokens: int, lanes: int, run_tokens: float
) -> None:
    cache: PrefixCache[FakeBlock] = PrefixCache(tokens * TOKEN_BYTES, FakeBlock.split)
    lease = cache.lease()
    call = Call(
        FakeEngine(lanes),
        lease if leased else cache,
        packing=Packing(run_tokens),
        budget=RunBudget(chunk_tokens),
    )
    for cases in [*uses, *uses]:
        results = call.rewards(token_sequences(cases))
        assert [result.rewards.tolist() for result in results] == [rewards_of(case) for case in cases]


def test_a_text_that_grows_is_not_copied_into_its_lane_again() -> None:
    engine, ids = CountingEngine(), list(range(500))
    cache: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split)
    call = Call(engine, cache.lease())
    for end in range(50, 501, 10):
        (result,) = call.rewards(token_sequences([(ids[:end], [end - 1])]))
        assert result.rewards.tolist() == rewards_of((ids[:end], [end - 1]))
    assert engine.computed == 500
    assert engine.opened == [(1, 50), (1, 100), (1, 200), (1, 400), (1, 800)]  # twice as long each time
    assert engine.caches[0].restored == 400  # once, when the last lanes were opened


def test_known_room_is_opened_once() -> None:
    engine = CountingEngine(2)
    call = Call(engine, capacity=100)
    call.rewards(token_sequences([([1, 2, 3], [2]), ([1, 4], [1])]))
    call.rewards(token_sequences([(list(range(100)), [99])]))
    assert engine.opened == [(2, 100)]
    assert call.held is not None
    assert call.held.capacity == 100


def test_what_the_store_has_opens_no_lane() -> None:
    engine = CountingEngine()
    cache: PrefixCache[FakeBlock] = PrefixCache(10**6, FakeBlock.split)
    Call(FakeEngine(), cache).rewards(token_sequences([([1, 2], [1])]))
    (result,) = Call(engine, cache).rewards(token_sequences([([1, 2], [1])]))
    assert (result.rewards.tolist(), engine.opened) == (rewards_of(([1, 2], [1])), [])


def test_admission_is_asked_each_time_and_limits_lanes() -> None:
    asked: list[int] = []

    class Twelve(Unlimited):
        def lanes(self, longest: int, most: int) -> int:
            asked.append(longest)
            if longest > 12:
                raise MemoryLimitError(longest, longest, 12)
            return min(2, most)

        def grows(self, longest: int, lanes: int) -> bool:
            return longest * lanes <= 12

    engine = CountingEngine(4)
    call = Call(engine, admission=Twelve())
    cases = [([7, i], [1]) for i in range(4)]
    results = call.rewards(token_sequences(cases))
    assert [result.rewards.tolist() for result in results] == [rewards_of(case) for case in cases]
    assert max(map(len, engine.runs)) == 2
    call.rewards(token_sequences([(list(range(10)), [9])]))  # lanes of 20 would be too much: as many as are needed
    assert engine.opened[-1] == (1, 10)
    runs = len(engine.runs)
    with pytest.raises(MemoryLimitError):
        call.rewards(token_sequences([(list(range(13)), [12])]))
    assert len(engine.runs) == runs
    assert {2, 10, 13} <= set(asked)


def test_admission_is_asked_for_lanes_as_long_as_they_are_opened() -> None:
    class Once(Unlimited):
        def lanes(self, longest: int, most: int) -> int:
            return most if longest < 50 else 1

    engine = CountingEngine(4)
    Call(engine, admission=Once(), capacity=100).rewards(token_sequences([([7], [0]), ([8], [0])]))
    assert engine.opened == [(1, 100)]


def test_lanes_beyond_what_is_admitted_are_let_go() -> None:
    class Fewer(Unlimited):
        count = 3

        def lanes(self, longest: int, most: int) -> int:
            return min(self.count, most)

    engine, admission = CountingEngine(4), Fewer()
    call = Call(engine, admission=admission)
    cases = [([7, i], [1]) for i in range(4)]
    call.rewards(token_sequences(cases))
    admission.count = 2
    results = call.rewards(token_sequences(cases))
    assert [result.rewards.tolist() for result in results] == [rewards_of(case) for case in cases]
    assert engine.opened == [(3, 2), (2, 2)]


def test_lanes_stay_while_they_are_enough() -> None:
    engine, cache = CountingEngine(4), PrefixCache[FakeBlock](0, FakeBlock.split)
    call = Call(engine, lease := cache.lease())
    call.rewards(token_sequences([([7, i], [1]) for i in range(2)]))
    call.rewards(token_sequences([([7, i], [1]) for i in range(3)]))  # of three segments one is not in the store
    assert engine.opened == [(2, 2)]
    lease.end()


def test_lanes_that_are_too_few_are_replaced_by_lanes_as_long() -> None:
    engine = CountingEngine(4)
    call = Call(engine)
    call.rewards(token_sequences([(list(range(10)), [9])]))
    call.rewards(token_sequences([([7, i], [1]) for i in range(2)]))
    assert engine.opened == [(1, 10), (2, 10)]


def test_after_memory_was_short_a_call_asks_for_no_more_than_it_needs() -> None:
    class Small(CountingEngine):
        def new_lanes(self, count: int, capacity: int) -> FakeLanes:
            if capacity > 80:
                raise MemoryError
            return super().new_lanes(count, capacity)

    call = Call(Small())
    call.rewards(token_sequences([(list(range(50)), [49])]))
    with pytest.raises(MemoryError):
        call.rewards(token_sequences([(list(range(60)), [59])]))  # room for 100 at once
    (result,) = call.rewards(token_sequences([(list(range(60)), [59])]))
    assert result.rewards.tolist() == rewards_of((list(range(60)), [59]))


class Limited(Unlimited):
    """As a scorer admits calls, by a footprint."""

    def __init__(self, longest: int, more: int, max_lanes: int) -> None:
        """Room for one lane of `longest` tokens and `more` pinned ones."""
        one = Footprint(ModelSizes(1, 1, 1, TOKEN_BYTES, 0), max_lanes, 0, None)
        self.footprint = replace(one, limit=one.bytes(longest, 1) + more * TOKEN_BYTES)
        self.cache: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split, self.footprint.pin_capacity)

    def lanes(self, longest: int, most: int) -> int:
        lanes, room = self.footprint.admit(longest, self.cache.pinned_bytes, most)
        self.cache.limit_pins(room)
        return lanes

    def grows(self, longest: int, lanes: int) -> bool:
        room = self.footprint.room(longest, lanes)
        if room < self.cache.pinned_bytes:
            return False
        self.cache.limit_pins(room)
        return True


def test_nothing_is_asked_for_where_there_is_nothing_to_score() -> None:
    engine = CountingEngine()
    assert Call(engine, admission=Limited(10, 0, 2)).rewards([]) == []
    assert engine.opened == []


@pytest.mark.parametrize("more", [1000, 1500, 2000, 3000, 8000])
@pytest.mark.parametrize("max_lanes", [1, 8])
def test_no_pin_is_lifted_for_room_that_nobody_uses(more: int, max_lanes: int) -> None:
    admission, engine = Limited(1000, more, max_lanes), CountingEngine(max_lanes)
    call = Call(engine, lease := admission.cache.lease(), admission=admission)
    for tokens in range(400, 1001, 20):
        call.rewards(token_sequences([(list(range(tokens)), [tokens - 1])]))
    assert engine.computed == 1000
    lease.end()


def test_lanes_that_grow_leave_pins_no_more_than_the_rest() -> None:
    admission = Limited(1000, 500, 1)
    call = Call(CountingEngine(), lease := admission.cache.lease(), admission=admission)
    for first, tokens in ((0, 500), (1000, 501)):
        call.rewards(token_sequences([(list(range(first, first + tokens)), [tokens - 1])]))
        assert call.held is not None
        used = admission.footprint.bytes(call.held.capacity, 1) + admission.cache.pinned_bytes
        assert used <= admission.footprint.limit  # type: ignore[operator]
    lease.end()


@given(sequences(), sequences(), st.integers(0, 6), st.integers(1, 3))
def test_after_a_failed_run_the_lanes_are_right(before: Sequences, after: Sequences, fails: int, lanes: int) -> None:
    class Failing(FakeEngine):
        def prefill(self, lanes: FakeLanes, chunks: Sequence[Chunk], cancel: Cancellation) -> list[NDArray[np.float32]]:
            if len(self.runs) == fails:
                self.runs.append([])
                raise EngineError("no")  # the caches are as they were, as the engine promises
            return super().prefill(lanes, chunks, cancel)

    call = Call(Failing(lanes), budget=RunBudget(3))
    try:
        call.rewards(token_sequences(before))
    except EngineError:
        pass
    else:
        call.rewards([])
    for _ in range(2):
        try:
            results = call.rewards(token_sequences(after))
        except EngineError:
            continue
        assert [result.rewards.tolist() for result in results] == [rewards_of(case) for case in after]
