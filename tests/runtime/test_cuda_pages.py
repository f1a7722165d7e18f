"""The laws of pages: whatever shares them, nobody's tokens change, nothing is lost, and only branches are copied.

The graph is a stand-in that keeps a running hash of each token in its slot and finds it by the page ids, so that any
wrong page, slot or copy changes every later reward.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fakes import expected_rewards, extend, reward
from rfprm_lite.engine import pages as pages_module
from rfprm_lite.engine.paged import PagedEngine, PageLayout, run_inputs
from rfprm_lite.engine.pages import Copy, PageBlock, PageCache, PagePool
from rfprm_lite.errors import EngineError, StoppedError
from rfprm_lite.plan.budget import GPU_READ_SCORES, RunBudget
from rfprm_lite.plan.cache import PrefixCache, Store
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.ports import Chunk
from test_tree import Sequences, distinct_prefixes, sequences, token_sequences

MANY = 4096


class Holders:
    """All caches and blocks that live, found when they are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: weakref.WeakSet[PageCache | PageBlock] = weakref.WeakSet()
        for kind in (PageCache, PageBlock):
            monkeypatch.setattr(kind, "__init__", self._counting(kind.__init__))

    def _counting(self, init: Any) -> Any:
        def counted(holder: Any, *arguments: Any) -> None:
            init(holder, *arguments)
            self.all.add(holder)

        return counted

    def seen(self, size: int, writing: dict[int, int]) -> set[int]:
        """The slots that somebody may read, as page * size + slot; of a cache that writes now, those before."""
        slots: set[int] = set()
        for holder in self.all:
            if isinstance(holder, PageBlock):
                last = holder.offset + holder.length
            else:
                last = writing.get(id(holder), holder.length)
            slots |= {holder.pages[at // size] * size + at % size for at in range(last)}
        return slots


class HashRunner:
    """Keeps what an engine of pages is given. states: of each slot, the hash of its path up to there."""

    def __init__(self, pages: int, size: int, holders: Holders | None = None) -> None:
        self.size, self.holders = size, holders
        self.states: list[list[bytes | None]] = [[None] * size for _ in range(pages)]
        self.computed = 0
        self.runs: list[int] = []
        self.engine: PagedEngine
        self.fail_at: int | None = None

    def copy(self, copies: Sequence[Copy]) -> None:
        for one in copies:
            assert 0 < one.slots < self.size
            self.states[one.target][: one.slots] = self.states[one.source][: one.slots]

    def new_lanes(self) -> None:
        return None

    def run(self, kept: None, inputs: dict[str, NDArray[Any]], cancel: Cancellation) -> NDArray[np.float32]:
        cancel.check()
        starts, pasts, table = (inputs[name].tolist() for name in ("token_starts", "pasts", "pages"))
        slots, ids = inputs["slots"].tolist(), inputs["input_ids"].tolist()
        assert len(set(slots)) == len(slots)
        if self.holders is not None:
            writing = {
                id(holder): past
                for holder in self.holders.all
                if isinstance(holder, PageCache)
                for row, past, n in zip(table, pasts, np.diff(starts).tolist(), strict=True)
                if holder.length == past + n and tuple(holder.pages) == tuple(row[: len(holder.pages)])
            }
            assert not set(slots) & self.holders.seen(self.size, writing)
        if self.fail_at is not None and len(self.runs) == self.fail_at:
            self.fail_at = None
            for slot in slots:  # it broke off when something was written
                self.states[slot // self.size][slot % self.size] = b"broken"
            raise EngineError("broken")
        written: list[bytes] = []
        for row, past, start, end in zip(table, pasts, starts, starts[1:], strict=False):
            state: bytes | None = b""
            if past:
                state = self.states[row[(past - 1) // self.size]][(past - 1) % self.size]
            for i in range(start, end):
                assert state is not None
                at = past + i - start
                assert slots[i] == row[at // self.size] * self.size + at % self.size
                state = extend(state, ids[i])
                self.states[slots[i] // self.size][slots[i] % self.size] = state
                written.append(state)
        self.computed += len(ids)
        self.runs.append(len(ids))
        assert inputs["bounds"].tolist() == [max(np.diff(starts)), *[max(np.array(pasts) + np.diff(starts))] * 2]
        return np.array([reward(written[row]) for row in inputs["read_rows"].tolist()], np.float32)


def new_engine(pages: int, size: int, lanes: int = 4, holders: Holders | None = None) -> tuple[PagedEngine, HashRunner]:
    runner = HashRunner(pages, size, holders)
    engine = PagedEngine(runner, PageLayout(1, 1, 8, "float16", size), pages, lanes)
    return engine, runner


def check(engine: PagedEngine, cases: Sequences, store: Store[Any] | None, chunk: int) -> int:
    """Right rewards; the tokens computed."""
    call: Call[Any] = Call(engine, store, budget=RunBudget(chunk, GPU_READ_SCORES))
    results = call.rewards(token_sequences(cases))
    for (ids, read_at), result in zip(cases, results, strict=True):
        assert result.rewards.tolist() == np.array(expected_rewards(ids, read_at), np.float32).tolist()
    return sum(result.computed for result in results)


@given(calls=st.lists(sequences(), min_size=1, max_size=4), data=st.data())
@settings(max_examples=120)
def test_no_slot_that_is_seen_is_written_and_freed_pages_come_back(calls: list[Sequences], data: st.DataObject) -> None:
    """Whatever is shared, kept, evicted, leased or broken off."""
    size = data.draw(st.sampled_from([1, 2, 4, 16]), "page")
    with pytest.MonkeyPatch.context() as monkeypatch:
        engine, runner = new_engine(MANY, size, data.draw(st.integers(1, 5), "lanes"), Holders(monkeypatch))
        kept = data.draw(st.integers(0, 30), "cache")
        cache: PrefixCache[Any] = PrefixCache(kept * engine.pool.page_bytes, PageBlock.split)
        for cases in [*calls, *calls]:
            chunk = data.draw(st.integers(1, 9), "chunk")
            lease = cache.lease() if data.draw(st.booleans(), "lease") else None
            runner.fail_at = len(runner.runs) if data.draw(st.booleans(), "fails") else None
            fails = runner.fail_at is not None and bool(cases)
            before = runner.computed
            try:
                computed = check(engine, cases, lease or cache, chunk)
            except EngineError:
                assert fails
                computed = check(engine, cases, lease or cache, chunk)
            runner.fail_at = None
            assert runner.computed - before == computed <= distinct_prefixes(cases)
            assert cache.nbytes - cache.pinned_bytes <= kept * engine.pool.page_bytes
            del lease
        cache.clear()
        gc.collect()
        assert cache.nbytes == 0
        assert engine.pool.free == MANY


@given(sequences(), st.integers(1, 5), st.sampled_from([2, 4, 16]))
def test_each_prefix_is_computed_once_and_a_branch_copies_less_than_a_page(
    cases: Sequences, lanes: int, size: int
) -> None:
    engine, runner = new_engine(MANY, size, lanes)
    assert check(engine, cases, None, 1000) == runner.computed == distinct_prefixes(cases)
    assert engine.copied <= (size - 1) * len(cases)
    assert engine.pool.free == MANY


@given(sequences(), st.integers(1, 9))
def test_the_cache_counts_each_page_that_it_holds(cases: Sequences, chunk: int) -> None:
    """Never fewer; a page is counted twice where a node was cut within it."""
    engine, _ = new_engine(MANY, 4, lanes=3)
    cache: PrefixCache[Any] = PrefixCache(2**40, PageBlock.split)
    check(engine, cases, cache, chunk)
    held = (MANY - engine.pool.free) * engine.pool.page_bytes
    assert held <= cache.nbytes <= held + len(cases) * engine.pool.page_bytes
    assert check(engine, cases[::-1], cache, chunk) == 0


def test_a_longer_text_goes_on_in_the_same_pages() -> None:
    engine, _ = new_engine(8, 4)
    cache: PrefixCache[Any] = PrefixCache(2**40, PageBlock.split)
    for length in range(1, 20):
        assert check(engine, [(list(range(length)), [length - 1])], cache, 100) == 1
    assert engine.copied == 0
    assert engine.pool.free == 3


def test_the_engine_takes_back_what_is_only_kept() -> None:
    engine, _runner = new_engine(10, 4)
    cache: PrefixCache[Any] = PrefixCache(2**40, PageBlock.split)
    engine.pool.reclaim = cache.give_back
    for first in range(6):
        assert check(engine, [([first, *range(30)], [30])], cache, 100) == 31
    with cache.lease() as lease:
        assert check(engine, [([9, *range(30)], [30])], lease, 100) == 31
        assert cache.pinned_bytes > 0
        assert check(engine, [([8, *range(30)], [30])], None, 100) == 31  # pins are lifted for it
        assert cache.pinned_bytes == 0
    cache.clear()
    assert engine.pool.free == 10


def test_too_few_pages_is_an_error_that_leaves_caches_as_they_were() -> None:
    engine, _runner = new_engine(3, 4)
    lanes = engine.new_lanes(2, 100)
    read = np.zeros(0, np.int64)
    engine.prefill(lanes, [Chunk(0, np.arange(6), read)], Cancellation())
    kept = lanes.caches[0].keep(2, 6)
    lanes.caches[0].trim(5)
    pages = list(lanes.caches[0].pages)
    with pytest.raises(EngineError, match="4 pages of 4 tokens are needed, 1 of 3 are free.*memory_bytes"):
        engine.prefill(lanes, [Chunk(0, np.arange(4), read), Chunk(1, np.arange(7), read)], Cancellation())
    assert (lanes.caches[0].length, lanes.caches[1].length) == (5, 0)
    assert lanes.caches[0].pages == pages
    assert engine.pool.free == 1
    with pytest.raises(ValueError, match=r"0 \+ 101 tokens exceed the cache's capacity of 100"):
        engine.prefill(lanes, [Chunk(1, np.arange(101), read)], Cancellation())
    del kept, lanes
    assert engine.pool.free == 3


def test_what_is_not_held_is_refused() -> None:
    engine, _ = new_engine(8, 4)
    lanes = engine.new_lanes(2, 10)
    engine.prefill(lanes, [Chunk(0, np.arange(8), np.array([7]))], Cancellation())
    one, other = lanes.caches
    block = one.keep(2, 7)
    for wrong, refused in (
        (lambda: one.trim(9), "8 tokens back to 9"),
        (lambda: one.keep(3, 9), "3 to 9 .* 8 held"),
        (lambda: other.restore(block, 0, 6), "0 to 6 .* 5 of the block"),
        (lambda: other.restore(block, 0, 3), "other slots"),
        (lambda: one.restore(one.keep(0, 8), 0, 8), r"8 \+ 8 tokens exceed"),
    ):
        with pytest.raises(ValueError, match=refused):
            wrong()
    assert (one.length, other.length) == (8, 0)


def test_the_inputs_of_a_run() -> None:
    """Of two sequences, one behind five cached tokens; the table has no id that is not a page's."""
    engine, _ = new_engine(9, 4)
    lanes = engine.new_lanes(3, 40)
    none = np.zeros(0, np.int64)
    engine.prefill(lanes, [Chunk(0, np.arange(5), none)], Cancellation())
    engine.prefill(
        lanes, [Chunk(2, np.arange(10, 13), none), Chunk(0, np.arange(20, 26), np.array([1, 5]))], Cancellation()
    )
    two, one = lanes.caches[2], lanes.caches[0]
    inputs = run_inputs(
        [two, one], [Chunk(2, np.arange(10, 13), none), Chunk(0, np.arange(20, 26), np.array([1, 5]))], 4
    )
    assert {name: value.dtype.name for name, value in inputs.items()} == {
        "input_ids": "int64", "token_starts": "int32", "pasts": "int32", "pages": "int32", "slots": "int32",
        "bounds": "int32", "read_rows": "int64",
    }  # fmt: skip
    assert inputs["token_starts"].tolist() == [0, 3, 9]
    assert inputs["pasts"].tolist() == [0, 5]
    assert inputs["bounds"].tolist() == [6, 11, 11]
    assert inputs["read_rows"].tolist() == [4, 8]
    assert inputs["pages"].tolist() == [[two.pages[0]] * 3, one.pages]
    assert inputs["slots"].tolist() == [
        *(two.pages[0] * 4 + at for at in range(3)),
        *(one.pages[at // 4] * 4 + at % 4 for at in range(5, 11)),
    ]
    assert run_inputs([two], [Chunk(2, np.arange(10, 13), none)], 4)["read_rows"].tolist() == [0]


# --- many calls --------------------------------------------------------------------------------------------------


def test_calls_that_do_not_fit_together_take_turns() -> None:
    """And a call that is stopped while it waits never began."""
    pool = PagePool(10, 4, 1)
    first = pool.enter(7, Cancellation())
    order: list[str] = []

    def wait(name: str, pages: int, cancel: Cancellation) -> None:
        try:
            number = pool.enter(pages, cancel)
        except StoppedError:
            order.append(f"{name} stopped")
        else:
            order.append(name)
            pool.leave(number)

    cancel = Cancellation()
    threads = [
        threading.Thread(target=wait, args=arguments)
        for arguments in (("small", 3, Cancellation()), ("large", 4, Cancellation()), ("stopped", 9, cancel))
    ]
    for thread in threads:
        thread.start()
    threads[0].join()
    cancel.request()
    threads[2].join()
    assert order == ["small", "stopped stopped"]
    pool.leave(first)
    threads[1].join()
    assert order[-1] == "large"


def test_one_copy_or_run_at_a_time_and_who_waits_can_be_stopped() -> None:
    """The card has room for one run's arrays, and copies go between slots that nobody writes."""
    engine, runner = new_engine(MANY, 4)
    inside, most, begun, go_on = threading.Lock(), [0], threading.Event(), threading.Event()

    def alone(method: Any) -> Any:
        def called(*arguments: Any) -> Any:
            most[0] += not inside.acquire(blocking=False)
            try:
                begun.set()
                go_on.wait(10)
                return method(*arguments)
            finally:
                inside.release()

        return called

    runner.copy, runner.run = alone(runner.copy), alone(runner.run)  # type: ignore[method-assign]
    cases: Sequences = [([*range(9), first], [9]) for first in range(3)]
    threads = [threading.Thread(target=check, args=(engine, cases, None, 4)) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(10)
    cancel = Cancellation()
    stopped = threading.Timer(0.05, cancel.request)
    stopped.start()
    with pytest.raises(StoppedError):
        Call(engine, budget=RunBudget(9, GPU_READ_SCORES), cancel=cancel).rewards(token_sequences(cases))
    go_on.set()
    for thread in threads:
        thread.join()
    assert most == [0]
    gc.collect()
    assert engine.pool.free == MANY


def test_a_warm_up_fills_one_run_and_leaves_nothing() -> None:
    """No sequence is longer than a page: positions that a model does not know are never asked for."""
    engine, runner = new_engine(5, 4, lanes=128)
    run, longest = runner.run, list[int]()

    def noting(kept: None, inputs: dict[str, NDArray[Any]], cancel: Cancellation) -> NDArray[np.float32]:
        longest.append(int(inputs["bounds"][1]))
        return run(kept, inputs, cancel)

    runner.run = noting  # type: ignore[method-assign]
    for tokens in (2, 7, 1000):
        engine.warm_up(tokens)
    assert runner.runs == [2, 7, 20]
    assert longest == [1, 2, 4]
    assert engine.pool.free == 5
    assert check(engine, [([1, 2, 3], [2])], None, 100) == 3


def test_a_call_does_not_wait_for_what_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a race that is open in the same thread. It waits for a run, however long that takes."""
    monkeypatch.setattr(pages_module, "PATIENCE", 0.1)
    pool = PagePool(10, 4, 1)
    pool.enter(7, Cancellation())
    started = time.monotonic()
    pool.leave(pool.enter(7, Cancellation()))
    assert 0.1 <= time.monotonic() - started < 5
    with pool.working():
        cancel, ended = Cancellation(), threading.Event()

        def wait() -> None:
            with pytest.raises(StoppedError):
                pool.enter(7, cancel)
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not ended.wait(0.4)
        cancel.request()
        thread.join()


def test_pages_come_back_wherever_the_garbage_collector_runs() -> None:
    """Even while the same thread holds the pool's lock."""
    engine, _ = new_engine(8, 4)
    lanes = engine.new_lanes(1, 10)
    engine.prefill(lanes, [Chunk(0, np.arange(8), np.array([7]))], Cancellation())
    held = [lanes.caches[0].keep(0, 8)]
    del lanes
    with engine.pool._condition:
        held.clear()
    assert engine.pool.free == 8
