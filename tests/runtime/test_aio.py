"""Calls for asyncio: the same rewards, and they end when they are cancelled or out of time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from coins import BAD, GOOD, LONG, PROBLEM, all_of
from rfprm_lite import PRM, Question, Score
from rfprm_lite.errors import NumericalError, StoppedError
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.scoring import aio
from rfprm_lite.scoring.scorer import Scorer


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


def test_long_calls_keep_no_short_one_waiting(demo: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many long calls as there are threads for stand still, and more wait for them."""
    monkeypatch.setattr(aio, "SHORT", 500)
    busy, free = threading.Barrier(aio.THREADS + 1), threading.Event()
    score = Scorer.score

    def held(scorer, requests, cancel=None):  # type: ignore[no-untyped-def]
        if requests[0].num_readouts == len(LONG):
            if not free.is_set():
                busy.wait()
            free.wait()
        return score(scorer, requests, cancel)

    async def both() -> object:
        longs = [asyncio.create_task(demo.aio.score(PROBLEM, steps=LONG)) for _ in range(aio.THREADS)]
        await asyncio.to_thread(busy.wait)
        async with asyncio.timeout(60):
            rewards = (await demo.aio.score(PROBLEM, steps=GOOD)).step_rewards.tolist()
            assert (await demo.aio.best_of_n(PROBLEM, iter(all_of([BAD, GOOD])))).index == 1
            (also,) = await demo.aio.score_many([(PROBLEM, all_of([GOOD])[0])])
        assert also.step_rewards.tolist() == rewards
        assert not any(task.done() for task in longs)
        free.set()
        await asyncio.gather(*longs)
        return rewards

    monkeypatch.setattr(Scorer, "score", held)
    assert asyncio.run(both()) == demo.score(PROBLEM, steps=GOOD).step_rewards.tolist()


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (("ab", "c"), 3),
        (([{"role": "user", "content": [{"text": "abc"}]}], all_of([["de", "f"]])[0]), 4 + 3 + len("de\n\nf")),
        ((Question("ab", reference="c"), None, 5), 3),
        (([("a", "bc"), ("d", "e")],), 5),
    ],
)
def test_characters_of_a_call(values: tuple[object, ...], count: int) -> None:
    assert aio.characters(*values) == count
