"""The calls of a PRM end to end, on the bundled demo model: growing traces, many responses, stops, threads,
processes."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfprm_lite import (
    PRM,
    Aggregate,
    ForkError,
    InputError,
    InputTypeError,
    MemoryLimitError,
    NumericalError,
    Score,
    StoppedError,
    Trace,
    Unfinished,
)
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.scoring import aio, batches

PROBLEM = "Ann has 15 coins. She finds 4 more and loses 6. How many coins has she now?"
GOOD = ["Ann has 15 + 4 = 19 coins.", "Then she has 19 - 6 = 13 coins.", "The answer is 13."]
BAD = ["Ann has 15 + 4 = 21 coins.", "Then she has 21 - 6 = 15 coins.", "So she has 15.", "The answer is 15."]
LONG = [f"{n} + {n} = {2 * n}" for n in range(1, 120)]


@pytest.fixture(scope="module")
def demo() -> PRM:
    return PRM.from_pretrained("demo", threads=2)


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
def test_lazy_and_exhaustive_choose_alike_to_the_last_bit(candidates: list[list[str]], name: str, keep: int) -> None:
    prm = PRMS.setdefault(keep, PRM.from_pretrained("demo", threads=2, cache_bytes=keep))
    prm.clear_cache()
    lazy = prm.best_of_n(PROBLEM, candidates, aggregate=name)
    prm.clear_cache()
    full = prm.best_of_n(PROBLEM, candidates, aggregate=name, exhaustive=True)
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
    best = demo.best_of_n(PROBLEM, [BAD * 5, GOOD, BAD * 5], aggregate="min")
    assert best.index == 1
    assert best.complete == (False, True, False)
    assert best.tokens.skipped > 0
    lost = best.scores[0]
    assert isinstance(lost, Unfinished)
    assert lost.highest < best.score.reward
    assert lost.to_dict()["bounds"] == [lost.lowest, lost.highest]


def test_top_k_ranks(demo: PRM) -> None:
    candidates = [BAD, GOOD, GOOD[:1], BAD[:2], GOOD]
    full = [s.reward for s in demo.score_many([(PROBLEM, c) for c in candidates], aggregate="min")]
    for k in range(1, 7):
        best = demo.top_k(PROBLEM, candidates, k, aggregate="min")
        assert list(best.ranking) == sorted(range(5), key=lambda i: (-full[i], i))[:k]
        assert [score.reward for score in best.ranked] == [full[i] for i in best.ranking]
        demo.clear_cache()
    with pytest.raises(InputError, match="k=0"):
        demo.top_k(PROBLEM, candidates, 0)


# --- the cache across calls -----------------------------------------------------------------------------------------


def test_a_second_call_starts_where_the_last_one_ended(demo: PRM) -> None:
    first = demo.score(PROBLEM, GOOD)
    assert first.tokens.reused == 0
    again = demo.score(PROBLEM, [*GOOD, "Done."])
    assert again.tokens.reused == first.tokens.total
    assert again.step_rewards[:3].tolist() == first.step_rewards.tolist()
    demo.clear_cache()
    assert demo.score(PROBLEM, GOOD).tokens.reused == 0
    off = PRM.from_pretrained("demo", threads=2, cache_bytes=0)
    for _ in range(2):
        score = off.score(PROBLEM, GOOD)
        assert score.tokens.reused == 0
        assert score.step_rewards.tolist() == first.step_rewards.tolist()


def test_best_of_n_takes_from_the_cache_and_gives_to_it(demo: PRM) -> None:
    first = demo.best_of_n(PROBLEM, [BAD, GOOD])
    assert first.tokens.reused < first.tokens.total
    again = demo.best_of_n(PROBLEM, [BAD, GOOD])
    assert again.tokens.computed == 0
    assert again.score.step_rewards.tolist() == first.score.step_rewards.tolist()
    assert demo.score(PROBLEM, GOOD).tokens.computed == 0


# --- traces that grow -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", ["last", "response"])
def test_a_growing_trace_gives_what_the_whole_one_gives(demo: PRM, final: str) -> None:
    how = Aggregate("mean+final", 0.7, final)  # type: ignore[arg-type]
    trace = demo.trace(PROBLEM, aggregate=how)
    rewards = [trace.append(step, thinking=i == 0) for i, step in enumerate(GOOD)]
    grown = trace.score()
    demo.clear_cache()
    whole = demo.score(PROBLEM, Trace.from_steps(GOOD, thinking=1), aggregate=how)
    assert rewards == list(trace.step_rewards) == whole.step_rewards.tolist() == grown.step_rewards.tolist()
    assert grown.reward == whole.reward
    assert trace.steps == tuple(GOOD)
    assert grown.tokens.computed == whole.tokens.computed


def test_a_step_costs_its_own_tokens(demo: PRM) -> None:
    trace = demo.trace(PROBLEM)
    for step in LONG:
        trace.append(step)
    score = trace.score()
    assert score.tokens.computed == score.tokens.total
    rescored = sum(demo.score(PROBLEM, LONG[:n]).tokens.total for n in range(1, len(LONG) + 1))
    assert rescored > 8 * score.tokens.computed


def test_forks_share_their_past_and_nothing_else(demo: PRM) -> None:
    trace = demo.trace(PROBLEM)
    trace.append(GOOD[0])
    one, two = trace.fork(), trace.fork()
    one.append(GOOD[1])
    two.append("6 are lost.")
    assert (trace.steps, one.steps, two.steps) == ((GOOD[0],), (GOOD[0], GOOD[1]), (GOOD[0], "6 are lost."))
    own = two.score().tokens
    assert own.computed == own.total  # its past included, which was computed once
    whole = demo.score(PROBLEM, [GOOD[0], "6 are lost."])
    assert two.step_rewards == tuple(whole.step_rewards.tolist())


def test_a_trace_refuses_what_is_no_step_and_stays_as_it_was(demo: PRM) -> None:
    trace = demo.trace(PROBLEM)
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
    trace = prm.trace(PROBLEM)
    for step in LONG[:20]:
        trace.append(step)
    assert trace.score().tokens.reused == 0
    assert trace.score().step_rewards.tolist() == prm.score(PROBLEM, LONG[:20]).step_rewards.tolist()


# --- many responses -------------------------------------------------------------------------------------------------


def test_any_number_of_responses_one_after_another(demo: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW", 3)
    taken = itertools.count()
    endless = ((PROBLEM, [GOOD[n % 3]]) for n in taken)
    scores = demo.score_iter(endless)
    expected = [demo.score(PROBLEM, [step]).reward for step in GOOD]
    assert [next(scores).reward for _ in range(7)] == (expected * 3)[:7]
    assert next(taken) <= 10  # a window, not more


def test_errors_in_their_places(demo: PRM) -> None:
    pairs = [(PROBLEM, GOOD), (PROBLEM, ""), ("", GOOD), (PROBLEM, BAD), (PROBLEM, None)]
    found = demo.score_many(pairs, on_error="return", progress=True)  # type: ignore[call-overload]
    assert [type(result) for result in found] == [Score, InputError, InputError, Score, InputTypeError]
    scores = demo.score_iter(pairs)  # type: ignore[arg-type]
    assert next(scores).step_rewards.tolist() == demo.score(PROBLEM, GOOD).step_rewards.tolist()
    with pytest.raises(InputError, match="no step") as caught:
        next(scores)
    assert caught.value.__notes__ == ["in response 1 of this call"]
    with pytest.raises(InputError, match="on_error='skip'"):
        demo.score_many([], on_error="skip")  # type: ignore[call-overload]


def test_a_failure_while_running_is_its_own_alone(demo: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = type(demo._engine).prefill

    def failing(engine, lanes, extensions, cancel):  # type: ignore[no-untyped-def]
        if any(len(extension.ids) > 250 for extension in extensions):
            raise NumericalError("no number")
        return prefill(engine, lanes, extensions, cancel)

    monkeypatch.setattr(type(demo._engine), "prefill", failing)
    found = demo.score_many([(PROBLEM, GOOD), (PROBLEM, LONG), (PROBLEM, BAD)], on_error="return")
    assert [type(result) for result in found] == [Score, NumericalError, Score]


def test_a_returned_error_holds_no_memory(demo: PRM) -> None:
    (error,) = demo.score_many([(PROBLEM, "")], on_error="return")
    assert isinstance(error, InputError)
    assert error.__traceback__ is None


# --- asyncio --------------------------------------------------------------------------------------------------------


def test_async_calls_give_the_same(demo: PRM) -> None:
    async def both() -> tuple[Score, int]:
        score, best = await asyncio.gather(demo.ascore(PROBLEM, GOOD), demo.abest_of_n(PROBLEM, [BAD, GOOD]))
        return score, best.index

    score, index = asyncio.run(both())
    assert score.step_rewards.tolist() == demo.score(PROBLEM, GOOD).step_rewards.tolist()
    assert index == 1


def test_a_cancelled_call_really_ends_and_the_model_works_on(demo: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()
    score = type(demo)._score

    def watched(prm, readings, cancel):  # type: ignore[no-untyped-def]
        begun.set()
        try:
            while True:  # never by itself
                prm.clear_cache()
                score(prm, readings, cancel)
        except StoppedError:
            ended.set()
            raise

    async def cancelled() -> None:
        task = asyncio.create_task(demo.ascore(PROBLEM, LONG))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def late() -> None:
        with pytest.raises(TimeoutError, match=r"0\.05"):
            await demo.ascore(PROBLEM, LONG, timeout=0.05)

    with monkeypatch.context() as patch:
        patch.setattr(type(demo), "_score", watched)
        for call in (cancelled, late):
            begun.clear()
            ended.clear()
            asyncio.run(call())
            assert ended.is_set()
    assert demo.score(PROBLEM, GOOD).step_rewards.shape == (3,)


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
                await demo.ascore(PROBLEM, GOOD, timeout=0.05)
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
        small.score(PROBLEM, LONG)
    assert caught.value.needed > caught.value.limit == 2**20
    assert pickle.loads(pickle.dumps(caught.value)).needed == caught.value.needed
    assert isinstance(caught.value, MemoryError)
    needed = caught.value.needed
    tight = PRM.from_pretrained("demo", threads=2, cache_bytes=0, memory_bytes=needed)
    assert tight.score(PROBLEM, LONG).step_rewards.tolist() == demo.score(PROBLEM, LONG).step_rewards.tolist()
    best = tight.best_of_n(PROBLEM, [BAD, LONG, GOOD])
    assert best.index == demo.best_of_n(PROBLEM, [BAD, LONG, GOOD]).index


# --- threads and processes ------------------------------------------------------------------------------------------


def test_sixteen_threads_and_cancellations_end_with_the_serial_rewards(demo: PRM) -> None:
    pairs = [(PROBLEM, GOOD), (PROBLEM, BAD), ("Doubles.", LONG[:40]), (PROBLEM, [*GOOD[:1], *BAD])]
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
                    trace = demo.trace(PROBLEM)
                    good &= [trace.append(step) for step in GOOD] == expected[0]
                case 2:
                    good &= demo.best_of_n(PROBLEM, [BAD, GOOD]).index == 1
                case 3:
                    with suppress(TimeoutError):
                        asyncio.run(demo.ascore(f"{seed} {i}", LONG, timeout=float(random.random()) / 20))
                case 4:
                    good &= demo.top_k(PROBLEM, [BAD, GOOD, GOOD[:2]], 2, aggregate="min").ranking[0] > 0
                case 5:
                    fork = demo.trace(PROBLEM).fork()
                    good &= [fork.append(step) for step in BAD] == expected[1]
                case _:
                    demo.clear_cache()
            good &= demo.score(*pairs[i]).step_rewards.tolist() == expected[i]
        return bool(good)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def rewards_elsewhere(prm: PRM) -> list[float]:
    return [float(reward) for reward in prm.score(PROBLEM, GOOD).step_rewards]


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
                kept.score(PROBLEM, other)
            case "many":
                kept.score_many([(PROBLEM, other[:n]) for n in range(1, 8)])
            case "best":
                kept.best_of_n(PROBLEM, [other[:3], other[2:]])
            case "trace":
                kept.trace(PROBLEM).append(other[0])
            case _:
                kept.clear_cache()
    text = steps[:length]
    together = kept.score_many([(PROBLEM, text), (PROBLEM, steps), (PROBLEM, text[::-1])])
    assert together[0].step_rewards.tolist() == fresh.score(PROBLEM, text).step_rewards.tolist()
    assert together[1].step_rewards.tolist() == fresh.score(PROBLEM, steps).step_rewards.tolist()
    assert together[2].step_rewards.tolist() == fresh.score(PROBLEM, text[::-1]).step_rewards.tolist()
