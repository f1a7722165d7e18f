"""Short calls beside traces of 32,000 tokens: how long they wait, in runs and in seconds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from campaign import Effort, Tally
from rfprm_lite import PRM, Trace
from rfprm_lite.engine import engine
from rfprm_lite.errors import StoppedError
from rfprm_lite.plan.cancel import Cancellation

pytest.importorskip("torch")  # which exports the model

LONG_TOKENS = 32_000
LONG = 4
"""Traces of so many tokens that are under way at a time."""
SHORT = ["12 + 5 = 17.", "17 - 3 = 14."]
PROBLEM = "What is 12 + 5 - 3?"
WAITS = 8
"""A short call's run begins before the other calls together have begun so many runs each."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PRM:
    """With random weights, which reads 32,768 tokens."""
    from checkpoints import LAYOUTS, make_checkpoint
    from rfprm_export.pipeline import Request, export

    root = tmp_path_factory.mktemp("long")
    layout = replace(LAYOUTS["reasonflux-prm-7b"], config={"max_position_embeddings": 32_768}, layers=2)
    checkpoint = make_checkpoint(root / "checkpoint", layout)
    export(Request(str(checkpoint), root / "bundle", layout.recipe, variants=["fp32"], most_traces=1))
    return PRM.from_pretrained(root / "bundle", threads=2, cache_bytes=0)


class Runs:
    """Counts the runs that each thread began, and how many others began before one's own could."""

    def __init__(self) -> None:
        self.begun = 0
        self.own: dict[int, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def counted(self) -> Iterator[None]:
        real = engine.run_session

        def run(*arguments: Any) -> None:
            with self._lock:
                self.begun += 1
                self.own[threading.get_ident()] = self.own.get(threading.get_ident(), 0) + 1
            real(*arguments)

        engine.run_session = run
        try:
            yield
        finally:
            engine.run_session = real

    def during(self, call: Callable[[], object]) -> tuple[int, int, float]:
        """The runs that a call of this thread took, those that others began meanwhile, and its seconds."""
        thread, before = threading.get_ident(), self.begun
        own = self.own.get(thread, 0)
        begin = time.perf_counter()
        call()
        seconds = time.perf_counter() - begin
        own = self.own[thread] - own
        return own, self.begun - before - own, seconds


def long_trace(prm: PRM) -> Trace:
    """Of as many steps as make the tokens."""
    steps = [f"{n} + {n} = {2 * n}." for n in range(1, 200)]
    each = prm.count_tokens(PROBLEM, steps=steps) / len(steps)
    return Trace.from_steps([steps[n % len(steps)] for n in range(int(LONG_TOKENS / each))])


def test_threads(model: PRM, effort: Effort, tally: Tally) -> None:
    """Short calls beside 4 threads that score traces of 32,000 tokens."""
    trace, runs, ends = long_trace(model), Runs(), [Cancellation() for _ in range(LONG)]
    tally.measure("tokens of a long trace", model.count_tokens(PROBLEM, trace))
    alone = [seconds_alone(model) for _ in range(20)]
    scorer = model._scorer

    def long_calls(end: Cancellation) -> None:
        with suppress(StoppedError):
            while True:
                scorer.score([scorer.request(PROBLEM, trace, scorer.aggregate(None))], end)

    with runs.counted():
        threads = [threading.Thread(target=long_calls, args=(end,)) for end in ends]
        for thread in threads:
            thread.start()
        found = []
        until = time.monotonic() + effort.seconds(3, 60)
        while time.monotonic() < until:
            found.append(runs.during(lambda: model.score(PROBLEM, steps=SHORT)))
            time.sleep(0.01)
        begun = runs.begun
        for end in ends:
            end.request()
        for thread in threads:
            thread.join()
    own, others, seconds = (np.array(values, np.float64) for values in zip(*found, strict=True))
    tally.add("short calls", len(found))
    tally.add("runs of long calls", begun - int(own.sum()))
    tally.measure("runs of each long call that a run waits for, 99th percentile", p99(others / own / LONG))
    tally.measure("seconds alone, median", float(np.median(alone)))
    tally.measure("seconds beside them, median", float(np.median(seconds)))
    tally.measure("seconds beside them, 99th percentile", p99(seconds))
    assert (others / own / LONG).max() < WAITS, "a short call waited for long ones"


def test_asyncio(model: PRM, effort: Effort, tally: Tally) -> None:
    """Short asyncio calls beside 24 of traces of 32,000 tokens, which are more than there are threads."""
    trace, found = long_trace(model), list[float]()

    async def both() -> bool:
        longs = [asyncio.create_task(model.aio.score(PROBLEM, trace)) for _ in range(24)]
        await asyncio.sleep(0.2)
        until = time.monotonic() + effort.seconds(3, 30)
        while time.monotonic() < until:
            begin = time.perf_counter()
            await model.aio.score(PROBLEM, steps=SHORT)
            found.append(time.perf_counter() - begin)
        waiting = not longs[-1].done()
        for task in longs:
            task.cancel()
        await asyncio.gather(*longs, return_exceptions=True)
        return waiting

    waiting = asyncio.run(both())
    tally.add("short calls", len(found))
    tally.measure("seconds, median", float(np.median(found)))
    tally.measure("seconds, 99th percentile", p99(np.array(found)))
    assert waiting, "the long calls were done: nothing was tried"
    assert len(found) > 1


def seconds_alone(model: PRM) -> float:
    begin = time.perf_counter()
    model.score(PROBLEM, steps=SHORT)
    return time.perf_counter() - begin


def p99(values: NDArray[np.float64]) -> float:
    return float(np.percentile(values, 99))
