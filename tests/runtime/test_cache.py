"""The prefix cache: never a wrong prefix, never more bytes than it may, what was used last stays."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes import TOKEN_BYTES, FakeBlock, FakeEngine, expected_rewards, extend, score_sequences
from rfprm_lite.errors import StoppedError
from rfprm_lite.plan.budget import DEFAULT_BUDGET, RunBudget
from rfprm_lite.plan.cache import BlockSlice, Lease, PrefixCache, _Branch, _Node, _Pool
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.sequence import TokenSequence
from test_tree import Sequences, distinct_prefixes, sequences, token_sequences


def new_cache(tokens: int) -> PrefixCache[FakeBlock]:
    return PrefixCache(tokens * TOKEN_BYTES, FakeBlock.split)


def block(ids: list[int], start: int) -> BlockSlice[FakeBlock]:
    states = [b""]
    for token in ids:
        states.append(extend(states[-1], token))
    return BlockSlice(start, len(ids), FakeBlock(tuple(states[start + 1 :])))


@given(st.lists(sequences(), max_size=4), st.integers(0, 60), st.integers(1, 7), st.integers(1, 4))
def test_calls_that_share_a_cache_get_what_they_would_without_it(
    calls: list[Sequences], tokens: int, chunk_tokens: int, lanes: int
) -> None:
    cache = new_cache(tokens)
    for cases in [*calls, *calls]:
        engine = FakeEngine(lanes)
        results = score_sequences(engine, token_sequences(cases), cache, budget=RunBudget(chunk_tokens))
        for (ids, read_at), result in zip(cases, results, strict=True):
            assert result.rewards.tolist() == np.array(expected_rewards(ids, read_at), np.float32).tolist()
        assert engine.computed == sum(result.computed for result in results) <= distinct_prefixes(cases)
        assert cache.nbytes <= tokens * TOKEN_BYTES


@given(sequences(), st.integers(1, 4))
def test_a_second_call_costs_nothing(cases: Sequences, lanes: int) -> None:
    cache = new_cache(10**6)
    score_sequences(FakeEngine(lanes), token_sequences(cases), cache)
    assert cache.nbytes == TOKEN_BYTES * distinct_prefixes(cases)
    score_sequences(engine := FakeEngine(lanes), token_sequences(cases[::-1]), cache)
    assert engine.runs == []
    cache.clear()
    assert cache.nbytes == 0
    score_sequences(engine := FakeEngine(lanes), token_sequences(cases), cache)
    assert engine.computed == distinct_prefixes(cases)


@given(st.lists(sequences(), max_size=3), sequences(), st.integers(1, 3))
def test_what_was_computed_is_known_whatever_else_was(others: list[Sequences], cases: Sequences, lanes: int) -> None:
    """Rewards that were read out later than their tokens were kept, too."""
    cache = new_cache(10**6)
    for one in [*others, cases]:
        score_sequences(FakeEngine(lanes), token_sequences(one), cache)
    results = score_sequences(engine := FakeEngine(lanes), token_sequences(cases), cache)
    assert engine.runs == []
    assert [r.rewards.tolist() for r in results] == [
        np.array(expected_rewards(*case), np.float32).tolist() for case in cases
    ]


def test_a_reward_goes_with_its_token_where_paths_part() -> None:
    """The same position on another path has no reward yet."""
    cache = new_cache(100)
    score_sequences(FakeEngine(), token_sequences([([0, 1], [1])]), cache)
    score_sequences(FakeEngine(), token_sequences([([0, 2, 3], [2])]), cache)
    for ids in ([0, 2], [0, 1]):
        (result,) = score_sequences(FakeEngine(), token_sequences([(ids, [1])]), cache)
        assert result.rewards.tolist() == np.array(expected_rewards(ids, [1]), np.float32).tolist()
    score_sequences(engine := FakeEngine(), token_sequences([([0, 2, 3], [0, 1, 2])]), cache)
    score_sequences(engine := FakeEngine(), token_sequences([([0, 2, 3], [0, 1, 2])]), cache)
    assert engine.runs == []


def test_a_cached_segment_behind_one_that_must_be_read_again() -> None:
    cache = new_cache(3)
    score_sequences(FakeEngine(2), token_sequences([([0, 0, 0], [0])]), cache)
    cases: Sequences = [([0, 0], [0]), ([0, 0, 0], [0]), ([0, 0, 0, 0], [0, 1])]
    results = score_sequences(engine := FakeEngine(2), token_sequences(cases), cache)
    assert results[2].rewards.tolist() == np.array(expected_rewards(*cases[2]), np.float32).tolist()
    assert engine.runs == [[1], [1]]


def test_a_reward_that_was_not_read_is_computed_from_there_on() -> None:
    cache = new_cache(100)
    ids = list(range(10))
    score_sequences(FakeEngine(), token_sequences([(ids, [9])]), cache)
    results = score_sequences(engine := FakeEngine(), token_sequences([(ids, [6, 9])]), cache)
    assert engine.runs == [[4]]
    assert results[0].rewards.tolist() == np.array(expected_rewards(ids, [6, 9]), np.float32).tolist()
    score_sequences(engine := FakeEngine(), token_sequences([(ids, [6, 9])]), cache)
    assert engine.runs == []


def few_tokens() -> st.SearchStrategy[Sequences]:
    """Sequences of two tokens alone, which often branch off, with few read-outs."""
    ids = st.lists(st.integers(0, 1), min_size=1, max_size=9)
    readouts = st.sets(st.integers(0, 8), max_size=2)
    one = st.tuples(ids, readouts).map(
        lambda x: (x[0], sorted({at for at in x[1] if at < len(x[0])} | {len(x[0]) - 1}))
    )
    return st.lists(one, min_size=1, max_size=4)


@example([[([0, 1, 0, 0], [3])], [([0, 0], [1]), ([0, 1, 0], [2])], [([0, 0, 0], [2])]], 3, 1, 1000)
@settings(max_examples=300)
@given(st.lists(few_tokens(), min_size=1, max_size=5), st.integers(1, 5), st.integers(1, 2), st.sampled_from([5, 1000]))
def test_what_branches_off_is_never_kept_behind_its_parents_tokens(
    calls: list[Sequences], chunk_tokens: int, lanes: int, room: int
) -> None:
    """In the example, 0, 1 is kept up to inside of a node, and at its end the other branch has a place."""
    cache = new_cache(room)
    for cases in calls:
        results = score_sequences(FakeEngine(lanes), token_sequences(cases), cache, budget=RunBudget(chunk_tokens))
        for (ids, read_at), result in zip(cases, results, strict=True):
            assert result.rewards.tolist() == np.array(expected_rewards(ids, read_at), np.float32).tolist()


def test_what_was_used_least_recently_goes_first() -> None:
    cache = new_cache(30)
    for first in (1, 2, 3):
        cache.insert(np.array([first] * 10), block([first] * 10, 0), {9: 0.5})
    cache.match(np.array([1] * 10), np.array([9]))
    cache.insert(np.array([4] * 10), block([4] * 10, 0), {9: 0.5})
    kept = [cache.match(np.array([first] * 10), np.array([9])).length for first in (1, 2, 3, 4)]
    assert kept == [10, 0, 10, 10]
    assert cache.nbytes == 30 * TOKEN_BYTES


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.lists(st.integers(0, 40), max_size=60))
def test_a_use_is_one_of_all_before_it(parents: list[int], steps: list[int]) -> None:
    pool: _Pool[FakeBlock] = _Pool()
    root: _Branch[FakeBlock] = _Branch()
    nodes: list[_Node[FakeBlock]] = []
    order: list[_Node[FakeBlock]] = []  # the least recently used first, a use of a node being one of all before it

    def use(node: _Branch[FakeBlock]) -> None:
        while isinstance(node, _Node):
            if node in order:
                order.remove(node)
            order.append(node)
            node = node.parent

    def drop_oldest() -> None:
        oldest = pool.oldest()
        assert oldest is order.pop(0)
        pool.remove(oldest)
        del oldest.parent.children[int(oldest.ids[0])]

    for i, parent in enumerate(parents):
        place = ([root, *nodes])[parent % (i + 1)]
        nodes.append(_Node(place, np.array([i]), block([i], 0), {}))
        pool.add(nodes[-1])
        use(nodes[-1])
    for step in steps:
        if not order:
            return
        if step > len(parents):
            drop_oldest()
        else:
            pool.use(node := order[step % len(order)])
            use(node)
    while order:
        drop_oldest()
    assert pool.nbytes == 0


def test_what_is_dropped_is_freed_at_once() -> None:
    kept = block(list(range(10)), 0)
    freed = [weakref.ref(kept.block)]
    cache = new_cache(100)
    cache.insert(np.arange(10), kept, {})
    longer = block(list(range(15)), 10)
    cache.insert(np.arange(15), longer, {})
    freed.append(weakref.ref(longer.block))
    del kept, longer
    gc.disable()
    try:
        cache.clear()
        assert [reference() for reference in freed] == [None, None]
    finally:
        gc.enable()


@given(sequences(), sequences(), st.integers(0, 80))
def test_what_a_lease_pins_stays_until_it_ends(cases: Sequences, others: Sequences, tokens: int) -> None:
    cache = new_cache(tokens)
    with cache.lease() as lease:
        score_sequences(FakeEngine(), token_sequences(cases), lease)
        assert cache.pinned_bytes == TOKEN_BYTES * distinct_prefixes(cases)
        score_sequences(FakeEngine(), token_sequences(others), cache)
        score_sequences(engine := FakeEngine(), token_sequences(cases), lease)
        assert engine.runs == []  # whatever other calls have left in the cache
    assert cache.pinned_bytes == 0
    assert cache.nbytes <= tokens * TOKEN_BYTES
    results = score_sequences(FakeEngine(), token_sequences(cases), cache)
    assert [r.rewards.tolist() for r in results] == [
        np.array(expected_rewards(*case), np.float32).tolist() for case in cases
    ]


@given(sequences(), st.integers(0, 40))
def test_pins_are_lifted_where_they_exceed_their_room(cases: Sequences, tokens: int) -> None:
    cache: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split, pin_capacity=tokens * TOKEN_BYTES)
    lease = cache.lease()
    for _ in range(2):
        results = score_sequences(FakeEngine(2), token_sequences(cases), lease)
        assert cache.pinned_bytes == cache.nbytes <= tokens * TOKEN_BYTES
        for (ids, read_at), result in zip(cases, results, strict=True):
            assert result.rewards.tolist() == np.array(expected_rewards(ids, read_at), np.float32).tolist()
    pinned = cache.pinned_bytes
    for ids, _ in cases:
        lease.match(np.array(ids), np.array([], np.int64))
    assert cache.pinned_bytes == pinned
    cache.limit_pins(pinned // 2)
    assert cache.pinned_bytes <= pinned // 2
    score_sequences(FakeEngine(2), token_sequences(cases), lease)
    assert cache.pinned_bytes <= pinned // 2  # the room stays as it was set


def test_what_is_matched_is_pinned_within_the_room() -> None:
    cache: PrefixCache[FakeBlock] = PrefixCache(1000, FakeBlock.split, pin_capacity=0)
    cache.insert(np.arange(10), block(list(range(10)), 0), {})
    lease = cache.lease()
    assert lease.match(np.arange(10), np.array([], np.int64)).length == 10
    assert (cache.pinned_bytes, cache.nbytes) == (0, 10 * TOKEN_BYTES)


def test_lanes_that_wait_go_before_pins() -> None:
    cache: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split, pin_capacity=20 * TOKEN_BYTES)
    one, two = cache.lease(), cache.lease()
    score_sequences(FakeEngine(), token_sequences([(list(range(9)), [8])]), one)
    one.leave_lanes("of one", 6 * TOKEN_BYTES)
    two.leave_lanes("of two", 4 * TOKEN_BYTES)
    two.leave_lanes("another thread's", 1)  # one set of lanes waits
    assert cache.held_bytes == 19 * TOKEN_BYTES
    cache.limit_pins(14 * TOKEN_BYTES)
    assert (cache.held_bytes, cache.pinned_bytes) == (13 * TOKEN_BYTES, 9 * TOKEN_BYTES)
    one.leave_lanes("too long", 12 * TOKEN_BYTES)
    assert (one.take_lanes(), two.take_lanes(), two.take_lanes()) == (None, "of two", None)
    two.leave_lanes("of two", 4 * TOKEN_BYTES)
    two.end()
    assert cache.held_bytes == 9 * TOKEN_BYTES


def test_what_just_fits_stays() -> None:
    cache: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split, pin_capacity=20 * TOKEN_BYTES)
    lease = cache.lease()
    score_sequences(FakeEngine(), token_sequences([(list(range(9)), [8])]), lease)
    lease.leave_lanes("lanes", 11 * TOKEN_BYTES)
    cache.limit_pins(20 * TOKEN_BYTES)
    assert cache.held_bytes == 20 * TOKEN_BYTES
    assert lease.take_lanes() == "lanes"
    cache.limit_pins(9 * TOKEN_BYTES)
    assert cache.pinned_bytes == 9 * TOKEN_BYTES
    cache.limit_pins(30 * TOKEN_BYTES)  # a call may leave more room than leases ever have
    score_sequences(FakeEngine(), token_sequences([(list(range(30)), [29])]), lease)
    assert cache.pinned_bytes <= 20 * TOKEN_BYTES


def test_memory_that_runs_out_within_leaves_the_cache_right() -> None:
    fails: list[bool] = []

    def split(kept: FakeBlock, tokens: int) -> tuple[FakeBlock, FakeBlock]:
        if fails and fails.pop():
            raise MemoryError
        return kept.split(tokens)

    cache: PrefixCache[FakeBlock] = PrefixCache(1000, split)
    first, second = ([1, 2, 3], [2]), ([1, 2, 4], [2])
    score_sequences(FakeEngine(), token_sequences([first]), cache)
    for fails in ([True], [True, False], [True, False, False]):
        with contextlib.suppress(MemoryError):
            score_sequences(FakeEngine(), token_sequences([second]), cache)
        for case in (first, second):
            fails.clear()
            (result,) = score_sequences(FakeEngine(), token_sequences([case]), cache)
            assert result.rewards.tolist() == np.array(expected_rewards(*case), np.float32).tolist()
        cache.clear()
        assert cache.nbytes == 0
        score_sequences(FakeEngine(), token_sequences([first]), cache)


def test_without_capacity_only_leases_keep_anything() -> None:
    assert (new_cache(0).enabled, new_cache(1).enabled, new_cache(0).lease().enabled) == (False, True, True)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(0, 9))
def test_a_block_is_cut_to_what_is_kept(known: int, start: int, tokens: int, behind: int) -> None:
    """Of a block that begins before what is new, and goes on behind it."""
    cache, ids = new_cache(100), list(range(40))
    known, end = max(known, start), start + tokens
    if known:
        cache.insert(np.array(ids[:known]), block(ids[:known], 0), {})
    whole = block(ids[: end + behind], start)
    cache.insert(np.array(ids[:end]), BlockSlice(start, end, whole.block), {})
    assert cache.nbytes == TOKEN_BYTES * max(known, end)
    match = cache.match(np.array(ids), np.array([], np.int64))
    found = [state for kept in match.slices for state in kept.block.states[kept.offset :][: kept.end - kept.start]]
    assert found == list(block(ids[: max(known, end)], 0).block.states)


def test_a_lease_may_end_while_this_thread_uses_the_cache() -> None:
    """As the garbage collector may have it: it neither waits nor touches the tree."""
    leases: list[Lease[FakeBlock]] = []

    def split(kept: FakeBlock, tokens: int) -> tuple[FakeBlock, FakeBlock]:
        leases[0].end()
        return kept.split(tokens)

    cache: PrefixCache[FakeBlock] = PrefixCache(0, split)
    leases += [cache.lease(), cache.lease()]

    def use() -> None:
        leases[0].insert(np.arange(9), block(list(range(9)), 0), {})
        leases[1].match(np.arange(5), np.array([], np.int64))

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert cache.pinned_bytes == cache.nbytes == 5 * TOKEN_BYTES


def test_a_lease_that_ends_frees_at_once() -> None:
    cache = new_cache(0)
    kept = weakref.ref(lanes := FakeEngine())
    lease = cache.lease()
    lease.leave_lanes(lanes, 10)
    del lanes
    lease.end()
    assert kept() is None


def test_a_lease_that_nobody_has_any_more_pins_nothing() -> None:
    cache = new_cache(0)
    lease = cache.lease()
    score_sequences(FakeEngine(), token_sequences([(list(range(9)), [8])]), lease)
    assert cache.pinned_bytes == 9 * TOKEN_BYTES
    del lease
    gc.collect()
    assert cache.pinned_bytes == cache.nbytes == 0


def test_two_leases_pin_a_prefix_until_both_end() -> None:
    cache = new_cache(0)
    one, two = cache.lease(), cache.lease()
    score_sequences(FakeEngine(), token_sequences([([1, 2, 3, 4], [3])]), one)
    score_sequences(FakeEngine(), token_sequences([([1, 2, 5], [2])]), two)
    assert cache.nbytes == 5 * TOKEN_BYTES
    one.end()
    assert cache.nbytes == 3 * TOKEN_BYTES  # 1, 2 and 5 are still the other's
    two.end()
    assert cache.nbytes == 0


def test_forgetting_leaves_what_is_pinned() -> None:
    cache = new_cache(100)
    lease = cache.lease()
    score_sequences(FakeEngine(), token_sequences([([1, 2, 3], [2])]), lease)
    score_sequences(FakeEngine(), token_sequences([([4, 5, 6, 7], [3])]), cache)
    cache.clear()
    assert cache.nbytes == cache.pinned_bytes == 3 * TOKEN_BYTES


def test_nothing_hangs_in_the_air() -> None:
    """A prefix stays while anything behind it does, and nothing is kept whose prefix is not."""
    cache = new_cache(20)
    cache.insert(np.arange(10), block(list(range(10)), 0), {})
    cache.insert(np.arange(18), block(list(range(18)), 10), {})
    cache.insert(np.array([7, 7, 7, 7]), block([7, 7, 7, 7], 0), {})
    assert cache.match(np.arange(18), np.array([], np.int64)).length == 10  # the longest prefix went last
    cache.insert(np.arange(50, 60), block(list(range(50, 60)), 5), {})
    assert cache.match(np.arange(50, 60), np.array([], np.int64)).length == 0


def test_a_stopped_call_leaves_what_it_computed() -> None:
    class Stopping(FakeEngine):
        def prefill(self, lanes, chunks, cancel):  # type: ignore[no-untyped-def]
            if len(self.runs) == 2:
                cancel.request()
            return super().prefill(lanes, chunks, cancel)

    cache, engine, cancel = new_cache(10**4), Stopping(), Cancellation()
    sequence = TokenSequence(np.arange(1000), np.array([999]))
    with pytest.raises(StoppedError):
        score_sequences(engine, [sequence], cache, cancel=cancel)
    assert engine.computed == 2 * DEFAULT_BUDGET.chunk_tokens
    (result,) = score_sequences(FakeEngine(), [sequence], cache)
    assert result.computed == 1000 - 2 * DEFAULT_BUDGET.chunk_tokens
