"""The calls of a PRM end to end, on the bundled demo model: growing traces, many responses, stops, threads,
processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import multiprocessing
import pickle
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rfprm_lite import PRM, Aggregate, CustomAggregate, InputError, MemoryLimitError, Score, Trace, Unfinished
from rfprm_lite.aggregate import AggregateName
from rfprm_lite.errors import ForkError, InputTypeError, NumericalError, StoppedError
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.scoring import aio, batches
from rfprm_lite.scoring.scorer import Scorer

PROBLEM = "Ann has 15 coins. She finds 4 more and loses 6. How many coins has she now?"
GOOD = ["Ann has 15 + 4 = 19 coins.", "Then she has 19 - 6 = 13 coins.", "The answer is 13."]
BAD = ["Ann has 15 + 4 = 21 coins.", "Then she has 21 - 6 = 15 coins.", "So she has 15.", "The answer is 15."]
LONG = [f"{n} + {n} = {2 * n}" for n in range(1, 120)]


def of(steps: Iterable[str]) -> Trace:
    return Trace.from_steps(steps)


def all_of(candidates: Iterable[Iterable[str]]) -> list[Trace]:
    return [of(steps) for steps in candidates]


@pytest.fixture(scope="module")
def demo() -> PRM:
    return PRM.from_pretrained("demo", threads=2)


@pytest.fixture(scope="module")
def fresh() -> PRM:
    """Keeps nothing between calls."""
    return PRM.from_pretrained("demo", threads=2, cache_bytes=0)


@pytest.fixture(autouse=True)
def _nothing_kept(demo: PRM) -> None:
    demo.clear_cache()


# --- best-of-N ----------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.sampled_from([*GOOD, *BAD]), min_size=1, max_size=6), min_size=1, max_size=8),
    st.sampled_from(["mean+final", "mean", "min", "product", "last"]),
    st.sampled_from([0, 2**16, 2**28]),
)
def test_lazy_and_exhaustive_choose_alike_to_the_last_bit(
    candidates: list[list[str]], name: AggregateName, keep: int
) -> None:
    prm = PRMS.setdefault(keep, PRM.from_pretrained("demo", threads=2, cache_bytes=keep))
    prm.clear_cache()
    lazy = prm.best_of_n(PROBLEM, all_of(candidates), aggregate=name)
    prm.clear_cache()
    full = prm.best_of_n(PROBLEM, all_of(candidates), aggregate=name, exhaustive=True)
    assert lazy.index == full.index
    assert lazy.score.step_rewards.tolist() == full.score.step_rewards.tolist()
    assert lazy.tokens.total == full.tokens.total == lazy.tokens.computed + lazy.tokens.reused + lazy.tokens.skipped
    assert lazy.tokens.computed <= full.tokens.computed
    assert all(full.complete)
    for found, exact in zip(lazy.scores, full.scores, strict=True):
        assert isinstance(exact, Score)
        assert found.step_rewards.tolist() == exact.step_rewards[: len(found.step_rewards)].tolist()
        if isinstance(found, Unfinished):
            assert found.lowest <= exact.reward <= found.highest <= lazy.score.reward


PRMS: dict[int, PRM] = {}


def test_what_cant_win_is_not_read_to_its_end(demo: PRM) -> None:
    best = demo.best_of_n(PROBLEM, all_of([BAD * 5, GOOD, BAD * 5]), aggregate="min")
    assert best.index == 1
    assert best.complete == (False, True, False)
    assert best.tokens.skipped > 0
    lost = best.scores[0]
    assert isinstance(lost, Unfinished)
    assert lost.highest < best.score.reward
    assert lost.to_dict()["bounds"] == [lost.lowest, lost.highest]


def test_top_k_ranks(demo: PRM) -> None:
    candidates = [BAD, GOOD, GOOD[:1], BAD[:2], GOOD]
    full = [s.reward for s in demo.score_many([(PROBLEM, of(c)) for c in candidates], aggregate="min")]
    for k in range(1, 7):
        best = demo.top_k(PROBLEM, all_of(candidates), k, aggregate="min")
        assert list(best.ranking) == sorted(range(5), key=lambda i: (-full[i], i))[:k]
        assert [score.reward for score in best.ranked] == [full[i] for i in best.ranking]
        demo.clear_cache()
    with pytest.raises(InputError, match="k=0"):
        demo.top_k(PROBLEM, all_of(candidates), 0)


# --- the cache across calls -----------------------------------------------------------------------------------------


def test_a_second_call_starts_where_the_last_one_ended(demo: PRM, fresh: PRM) -> None:
    first = demo.score(PROBLEM, steps=GOOD)
    assert first.tokens.reused == 0
    again = demo.score(PROBLEM, steps=[*GOOD, "Done."])
    assert again.tokens.reused == first.tokens.total
    assert again.step_rewards[:3].tolist() == first.step_rewards.tolist()
    demo.clear_cache()
    assert demo.score(PROBLEM, steps=GOOD).tokens.reused == 0
    for _ in range(2):
        score = fresh.score(PROBLEM, steps=GOOD)
        assert score.tokens.reused == 0
        assert score.step_rewards.tolist() == first.step_rewards.tolist()


def test_best_of_n_takes_from_the_cache_and_gives_to_it(demo: PRM) -> None:
    first = demo.best_of_n(PROBLEM, all_of([BAD, GOOD]))
    assert first.tokens.reused < first.tokens.total
    again = demo.best_of_n(PROBLEM, all_of([BAD, GOOD]))
    assert again.tokens.computed == 0
    assert again.score.step_rewards.tolist() == first.score.step_rewards.tolist()
    assert demo.score(PROBLEM, steps=GOOD).tokens.computed == 0


# --- traces that grow -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", ["last", "response"])
def test_a_growing_trace_gives_what_the_whole_one_gives(demo: PRM, fresh: PRM, final: str) -> None:
    how = Aggregate("mean+final", 0.7, final)  # type: ignore[arg-type]
    trace = demo.live(PROBLEM, aggregate=how)
    rewards = [trace.append(step, thinking=i == 0) for i, step in enumerate(GOOD)]
    grown = trace.score()
    whole = fresh.score(PROBLEM, Trace.from_steps(GOOD, thinking=1), aggregate=how)
    assert rewards == list(trace.step_rewards) == whole.step_rewards.tolist() == grown.step_rewards.tolist()
    assert grown.reward == whole.reward
    assert trace.steps == tuple(GOOD)
    assert grown.tokens.computed == whole.tokens.computed


def test_a_step_costs_its_own_tokens(demo: PRM) -> None:
    trace = demo.live(PROBLEM)
    for step in LONG:
        trace.append(step)
    score = trace.score()
    assert score.tokens.computed == score.tokens.total
    rescored = sum(demo.score(PROBLEM, steps=LONG[:n]).tokens.total for n in range(1, len(LONG) + 1))
    assert rescored > 8 * score.tokens.computed


def test_forks_share_their_past_and_nothing_else(demo: PRM) -> None:
    trace = demo.live(PROBLEM)
    trace.append(GOOD[0])
    one, two = trace.fork(), trace.fork()
    one.append(GOOD[1])
    two.append("6 are lost.")
    assert (trace.steps, one.steps, two.steps) == ((GOOD[0],), (GOOD[0], GOOD[1]), (GOOD[0], "6 are lost."))
    own = two.score().tokens
    assert own.computed == own.total  # its past included, which was computed once
    whole = demo.score(PROBLEM, steps=[GOOD[0], "6 are lost."])
    assert two.step_rewards == tuple(whole.step_rewards.tolist())


def test_a_trace_refuses_what_is_no_step_and_stays_as_it_was(demo: PRM) -> None:
    trace = demo.live(PROBLEM)
    with pytest.raises(InputError, match="no step"):
        trace.score()
    trace.append(GOOD[0])
    for wrong in ("", "  "):
        with pytest.raises(InputError, match="step 1"):
            trace.append(wrong)
    with pytest.raises(InputTypeError):
        trace.append(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="response"):
        trace.append("a thought", thinking=True)
    assert trace.steps == (GOOD[0],)
    trace.append(GOOD[1])
    assert trace.score().step_rewards.shape == (2,)


def test_a_trace_lives_without_the_cache_too() -> None:
    prm = PRM.from_pretrained("demo", threads=2, cache_bytes=0)
    trace = prm.live(PROBLEM)
    for step in LONG[:20]:
        trace.append(step)
    assert trace.score().tokens.reused == 0
    assert trace.score().step_rewards.tolist() == prm.score(PROBLEM, steps=LONG[:20]).step_rewards.tolist()


# --- many responses -------------------------------------------------------------------------------------------------


def test_any_number_of_responses_one_after_another(demo: PRM) -> None:
    taken = itertools.count()
    endless = ((PROBLEM, of([GOOD[n % 3]])) for n in taken)
    scores = demo.score_iter(endless)
    expected = [demo.score(PROBLEM, steps=[step]).reward for step in GOOD]
    assert [next(scores).reward for _ in range(7)] == (expected * 3)[:7]
    assert next(taken) <= 1 + batches.WINDOW


def test_errors_in_their_places(demo: PRM) -> None:
    pairs = [(PROBLEM, of(GOOD)), (PROBLEM, ""), ("", of(GOOD)), (PROBLEM, of(BAD)), (PROBLEM, None)]
    found = demo.score_many(pairs, on_error="return")  # type: ignore[call-overload]
    assert [type(result) for result in found] == [Score, InputError, InputError, Score, InputTypeError]
    scores = demo.score_iter(pairs)  # type: ignore[arg-type]
    assert next(scores).step_rewards.tolist() == demo.score(PROBLEM, steps=GOOD).step_rewards.tolist()
    with pytest.raises(InputError, match="no step") as caught:
        next(scores)
    assert caught.value.__notes__ == ["in response 1 of this call"]
    with pytest.raises(InputError, match="on_error='skip'"):
        demo.score_many([], on_error="skip")  # type: ignore[call-overload]


def test_a_failure_while_running_is_its_own_alone(demo: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = type(demo._scorer._engine).prefill

    def failing(engine, lanes, chunks, cancel):  # type: ignore[no-untyped-def]
        if any(len(chunk.ids) > 250 for chunk in chunks):
            raise NumericalError("no number")
        return prefill(engine, lanes, chunks, cancel)

    monkeypatch.setattr(type(demo._scorer._engine), "prefill", failing)
    found = demo.score_many([(PROBLEM, of(GOOD)), (PROBLEM, of(LONG)), (PROBLEM, of(BAD))], on_error="return")
    assert [type(result) for result in found] == [Score, NumericalError, Score]


def test_a_returned_error_holds_no_memory(demo: PRM) -> None:
    (error,) = demo.score_many([(PROBLEM, "")], on_error="return")
    assert isinstance(error, InputError)
    assert error.__traceback__ is None


# --- asyncio --------------------------------------------------------------------------------------------------------


def test_async_calls_give_the_same(demo: PRM) -> None:
    async def both() -> tuple[Score, int]:
        best = demo.aio.best_of_n(PROBLEM, all_of([BAD, GOOD]))
        score, chosen = await asyncio.gather(demo.aio.score(PROBLEM, steps=GOOD), best)
        return score, chosen.index

    score, index = asyncio.run(both())
    assert score.step_rewards.tolist() == demo.score(PROBLEM, steps=GOOD).step_rewards.tolist()
    assert index == 1


def test_a_cancelled_call_really_ends_and_the_model_works_on(demo: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()
    score = Scorer.score

    def watched(scorer, requests, cancel):  # type: ignore[no-untyped-def]
        begun.set()
        try:
            while True:  # never by itself
                demo.clear_cache()
                score(scorer, requests, cancel)
        except StoppedError:
            ended.set()
            raise

    async def cancelled() -> None:
        task = asyncio.create_task(demo.aio.score(PROBLEM, steps=LONG))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def late() -> None:
        with pytest.raises(TimeoutError, match=r"0\.05"):
            await demo.aio.score(PROBLEM, steps=LONG, timeout=0.05)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", watched)
        for call in (cancelled, late):
            begun.clear()
            ended.clear()
            asyncio.run(call())
            assert ended.is_set()
    assert demo.score(PROBLEM, steps=GOOD).step_rewards.shape == (3,)


def test_a_call_that_waits_for_others_keeps_its_timeout(demo: PRM) -> None:
    busy, free = threading.Barrier(aio.THREADS + 1), threading.Event()

    def hold(_stop: object) -> None:
        busy.wait()
        free.wait()

    async def late() -> None:
        holding = [asyncio.create_task(aio.run(hold, None)) for _ in range(aio.THREADS)]
        await asyncio.to_thread(busy.wait)
        async with asyncio.timeout(60):  # the threads are not free before
            with pytest.raises(TimeoutError):
                await demo.aio.score(PROBLEM, steps=GOOD, timeout=0.05)
        free.set()
        await asyncio.gather(*holding)

    asyncio.run(late())


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_call_is_cancelled_whatever_it_raises(times: int) -> None:
    begun, ended = threading.Event(), threading.Event()

    def failing(cancel: Cancellation) -> None:
        begun.set()
        while True:
            try:
                cancel.check()
            except StoppedError as error:
                time.sleep(0.05)
                ended.set()
                raise NumericalError("no number") from error

    async def cancelled() -> None:
        task = asyncio.create_task(aio.run(failing, None))
        await asyncio.to_thread(begun.wait)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert ended.is_set()

    asyncio.run(cancelled())


# --- memory ---------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_it_starts(demo: PRM) -> None:
    small = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=2**20)
    with pytest.raises(MemoryLimitError, match="memory_bytes") as caught:
        small.score(PROBLEM, steps=LONG)
    assert caught.value.needed > caught.value.limit == 2**20
    assert pickle.loads(pickle.dumps(caught.value)).needed == caught.value.needed
    assert isinstance(caught.value, MemoryError)
    needed = caught.value.needed
    tight = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=needed)
    assert (
        tight.score(PROBLEM, steps=LONG).step_rewards.tolist() == demo.score(PROBLEM, steps=LONG).step_rewards.tolist()
    )
    best = tight.best_of_n(PROBLEM, all_of([BAD, LONG, GOOD]))
    assert best.index == demo.best_of_n(PROBLEM, all_of([BAD, LONG, GOOD])).index


# --- threads and processes ------------------------------------------------------------------------------------------


def test_sixteen_threads_and_cancellations_end_with_the_serial_rewards(demo: PRM) -> None:
    pairs = [(PROBLEM, of(GOOD)), (PROBLEM, of(BAD)), ("Doubles.", of(LONG[:40])), (PROBLEM, of([*GOOD[:1], *BAD]))]
    expected = [demo.score(*pair).step_rewards.tolist() for pair in pairs]
    demo.clear_cache()
    start = threading.Barrier(16)

    def work(seed: int) -> bool:
        random = np.random.default_rng(seed)
        start.wait()
        good = True
        for i in random.permutation(np.repeat(range(len(pairs)), 3)):
            match int(random.integers(7)):
                case 0:
                    found = [score.step_rewards.tolist() for score in demo.score_many(pairs)]
                    good &= found == expected
                case 1:
                    trace = demo.live(PROBLEM)
                    good &= [trace.append(step) for step in GOOD] == expected[0]
                case 2:
                    good &= demo.best_of_n(PROBLEM, all_of([BAD, GOOD])).index == 1
                case 3:
                    with suppress(TimeoutError):
                        asyncio.run(demo.aio.score(f"{seed} {i}", steps=LONG, timeout=float(random.random()) / 20))
                case 4:
                    good &= demo.top_k(PROBLEM, all_of([BAD, GOOD, GOOD[:2]]), 2, aggregate="min").ranking[0] > 0
                case 5:
                    fork = demo.live(PROBLEM).fork()
                    good &= [fork.append(step) for step in BAD] == expected[1]
                case _:
                    demo.clear_cache()
            good &= demo.score(*pairs[i]).step_rewards.tolist() == expected[i]
        return bool(good)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def rewards_elsewhere(prm: PRM) -> list[float]:
    return [float(reward) for reward in prm.score(PROBLEM, steps=GOOD).step_rewards]


def test_sent_to_other_processes(demo: PRM) -> None:
    expected = rewards_elsewhere(demo)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(rewards_elsewhere, [demo] * 2)) == [expected] * 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_is_told(demo: PRM) -> None:
    fork = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, fork, initializer=hold, initargs=(demo,)) as pool,
        pytest.raises(ForkError, match="spawn"),
    ):
        pool.submit(use_what_is_held).result()


HELD: list[PRM] = []


def hold(prm: PRM) -> None:
    """In the forked process the PRM is there without having been pickled."""
    HELD.append(prm)


def use_what_is_held() -> list[float]:
    return rewards_elsewhere(HELD[-1])


# --- determinism ----------------------------------------------------------------------------------------------------

CALLS = st.lists(
    st.tuples(st.sampled_from(["score", "many", "best", "trace", "clear"]), st.permutations([*GOOD, *BAD])),
    max_size=5,
)


@settings(max_examples=15)
@given(CALLS, st.permutations([*GOOD, *BAD]), st.integers(1, 7))
def test_the_same_bits_whatever_came_before(calls: list[tuple[str, list[str]]], steps: list[str], length: int) -> None:
    kept = PRMS.setdefault(2**18, PRM.from_pretrained("demo", threads=2, cache_bytes=2**18))
    fresh = PRMS.setdefault(0, PRM.from_pretrained("demo", threads=2, cache_bytes=0))
    for name, other in calls:
        match name:
            case "score":
                kept.score(PROBLEM, steps=other)
            case "many":
                kept.score_many([(PROBLEM, of(other[:n])) for n in range(1, 8)])
            case "best":
                kept.best_of_n(PROBLEM, all_of([other[:3], other[2:]]))
            case "trace":
                kept.live(PROBLEM).append(other[0])
            case _:
                kept.clear_cache()
    text = steps[:length]
    together = kept.score_many([(PROBLEM, of(text)), (PROBLEM, of(steps)), (PROBLEM, of(text[::-1]))])
    assert together[0].step_rewards.tolist() == fresh.score(PROBLEM, steps=text).step_rewards.tolist()
    assert together[1].step_rewards.tolist() == fresh.score(PROBLEM, steps=steps).step_rewards.tolist()
    assert together[2].step_rewards.tolist() == fresh.score(PROBLEM, steps=text[::-1]).step_rewards.tolist()


# --- one cache for all ------------------------------------------------------------------------------------------------


def test_a_trace_that_grows_begins_with_what_earlier_calls_computed() -> None:
    demo = PRM.from_pretrained("demo", threads=2)
    scored = demo.score(PROBLEM, steps=GOOD[:2])
    trace = demo.live(PROBLEM)
    for step in GOOD:
        trace.append(step)
    grown = trace.score().tokens
    assert grown.computed == demo.score(PROBLEM, steps=GOOD).tokens.total - scored.tokens.total
    demo.clear_cache()
    assert demo.score(PROBLEM, steps=GOOD).tokens.computed == 0  # the trace pins it
    fork = trace.fork()
    del trace
    demo.clear_cache()
    assert demo._scorer.cache.nbytes > 0
    del fork
    demo.clear_cache()
    assert demo._scorer.cache.nbytes == 0


def test_live_traces_together_keep_within_the_limit() -> None:
    token = 50_000  # bytes, more than one token's keys and values take
    limit = 40 * 2**20
    prm = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=limit)
    expected = prm.score(PROBLEM, steps=LONG).step_rewards.tolist()
    traces = [prm.live(f"{i} {PROBLEM}") for i in range(8)]
    for step in LONG[:30]:
        for trace in traces:
            trace.append(step)
            assert prm._scorer.cache.held_bytes <= limit // 2 + token
    same = prm.live(PROBLEM)
    assert [same.append(step) for step in LONG] == expected


def test_pins_yield_to_a_call_that_needs_their_room(fresh: PRM) -> None:
    needed = fresh._scorer.footprint.bytes(fresh.score(PROBLEM, steps=LONG).tokens.total, 1)
    prm = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=needed)
    trace = prm.live(PROBLEM)
    for step in GOOD:
        trace.append(step)
    assert prm._scorer.cache.nbytes > 0
    assert (
        prm.score(PROBLEM, steps=LONG).step_rewards.tolist() == fresh.score(PROBLEM, steps=LONG).step_rewards.tolist()
    )
    assert prm._scorer.cache.nbytes == 0
    assert trace.append("Done.") == fresh.score(PROBLEM, steps=[*GOOD, "Done."]).step_rewards[-1]


def test_one_text_too_many_is_refused_before_any_other_runs(
    demo: PRM, fresh: PRM, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = fresh._scorer.footprint.bytes(fresh.score(PROBLEM, steps=LONG).tokens.total, 1)
    tight = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=needed - 1)
    runs: list[object] = []
    prefill = type(tight._scorer._engine).prefill

    def counting(engine, lanes, chunks, cancel):  # type: ignore[no-untyped-def]
        runs.append(chunks)
        return prefill(engine, lanes, chunks, cancel)

    monkeypatch.setattr(type(tight._scorer._engine), "prefill", counting)
    for call in (
        lambda: tight.score_many([(PROBLEM, of(GOOD)), (PROBLEM, of(LONG))]),
        lambda: tight.best_of_n(PROBLEM, all_of([GOOD, LONG])),
    ):
        with pytest.raises(MemoryLimitError) as caught:
            call()
        assert caught.value.__notes__ == ["in response 1 of this call"]
        assert runs == []


# --- aggregates of one's own ------------------------------------------------------------------------------------------


def test_a_function_is_an_aggregate(demo: PRM) -> None:
    def median(rewards: NDArray[np.float32]) -> float:
        return float(np.median(rewards))

    score = demo.score(PROBLEM, steps=GOOD, aggregate=median)
    assert score.reward == float(np.median(score.step_rewards))
    assert (score.reward_range, score.record().aggregate) == (None, "median")
    candidates = all_of([BAD, GOOD, GOOD[:1]])
    with pytest.raises(InputError, match="exhaustive=True"):
        demo.best_of_n(PROBLEM, candidates, aggregate=median)
    full = demo.best_of_n(PROBLEM, candidates, aggregate=median, exhaustive=True)
    assert full.index == int(np.argmax([float(np.median(one.step_rewards)) for one in full.scores]))
    lazy = demo.best_of_n(PROBLEM, candidates, aggregate=CustomAggregate(median, monotone=True))
    assert (lazy.index, lazy.score.reward) == (full.index, full.score.reward)
    with pytest.raises(InputError, match="nan"):
        demo.score(PROBLEM, steps=GOOD, aggregate=lambda _rewards: float("nan"))
    with pytest.raises(InputTypeError, match="int"):
        demo.score(PROBLEM, steps=GOOD, aggregate=3)  # type: ignore[arg-type]


def test_a_function_without_a_value_at_zero_chooses_as_reading_everything_does(demo: PRM) -> None:
    def log(rewards: NDArray[np.float32]) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(rewards.astype(float)).sum())

    aggregate = CustomAggregate(log, monotone=True)
    responses = ["1 + 1 = 2\n\nSo 2", *(f"1 + 1 = {n}\n\nSo {n}\n\nIt is {n}" for n in range(3, 9))]
    lazy = demo.best_of_n("What is 1 + 1?", responses, aggregate=aggregate)
    assert lazy.index == demo.best_of_n("What is 1 + 1?", responses, aggregate=aggregate, exhaustive=True).index
    unfinished = [score for score in lazy.scores if isinstance(score, Unfinished)]
    assert {score.lowest for score in unfinished} == {-math.inf}
    for score in unfinished:
        assert json.loads(json.dumps(score.to_dict(), allow_nan=False))["bounds"][0] is None


def test_a_function_that_sorts_changes_no_result(demo: PRM) -> None:
    def lowest_two(rewards: NDArray[np.float32]) -> float:
        rewards.sort()
        return float(rewards[:2].sum())

    expected = demo.score(PROBLEM, steps=BAD).step_rewards.tolist()
    assert sorted(expected) != expected
    assert demo.score(PROBLEM, steps=BAD, aggregate=lowest_two).step_rewards.tolist() == expected


@pytest.mark.parametrize("name", ["past.1.key.1", "past.0.key.1"])
def test_an_interrupt_while_lanes_are_bound_leaves_them_right(fresh: PRM, name: str) -> None:
    """The lane that idles and the one that runs are bound in turn; an interrupt comes in between."""

    class Interrupted:
        def __init__(self, binding: Any) -> None:
            self.binding = binding
            self.done = False

        def __getattr__(self, attribute: str) -> Any:
            method = getattr(self.binding, attribute)

            def call(bound: str, *rest: Any) -> Any:
                if bound == name and not self.done:
                    self.done = True
                    raise KeyboardInterrupt
                return method(bound, *rest)

            return call if attribute == "bind_input" else method

    prm = PRM.from_pretrained("demo", threads=1, cache_bytes=0)
    problem = "What is 1 + 1?"
    steps = [["1 + 1 = 2", "So 2.", "7 + 1 = 8"], ["1 + 1 = 3", "So 3.", "9 + 1 = 10"]]
    race = prm.race(problem, 2, aggregate="min")
    race.trace(0).append("long " * 60)  # lanes with room
    for i in range(2):
        race.extend({0: steps[0][i], 1: steps[1][i]})
    lanes = next(held for held, _ in prm._scorer.cache._idle.values()).opened
    binding = lanes.binding
    lanes.binding = interrupted = Interrupted(binding)
    with pytest.raises(KeyboardInterrupt):
        race.append(0, steps[0][2])
    lanes.binding = binding
    assert interrupted.done
    race.append(0, steps[0][2])
    race.append(1, steps[1][2])
    for i in range(2):
        assert race.trace(i).step_rewards == tuple(fresh.score(problem, steps=steps[i]).step_rewards.tolist())


def test_lanes_that_wait_count_among_what_is_pinned_and_yield() -> None:
    prm = PRM.from_pretrained("demo", threads=1, cache_bytes=0)
    cache = prm._scorer.cache
    cache._pin_capacity = 1_000_000
    traces = [prm.live("Q?") for _ in range(10)]
    for trace in traces:
        trace.append("1 + 1 = 2 " * 60)
        assert cache.held_bytes <= 1_000_000
    expected = prm.score("Q?", steps=["1 + 1 = 2 " * 60, "So 2."]).step_rewards[-1]
    assert [trace.append("So 2.") for trace in traces] == [expected] * 10
