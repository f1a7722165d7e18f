"""One model in many threads, and in other processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from coins import BAD, GOOD, LONG, PROBLEM, all_of, of
from forking import forked
from rfprm_lite import PRM
from rfprm_lite.errors import ForkError


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


with_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")

CALLS: dict[str, Callable[[PRM], object]] = {
    "score": lambda prm: prm.score(PROBLEM, steps=GOOD),
    "score_many": lambda prm: prm.score_many([(PROBLEM, of(GOOD))], on_error="return"),
    "best_of_n": lambda prm: prm.best_of_n(PROBLEM, all_of([BAD, GOOD])),
    "live": lambda prm: prm.live(PROBLEM).append("a"),
    "aio": lambda prm: asyncio.run(prm.aio.score(PROBLEM, steps=GOOD)),
    "clear_cache": lambda prm: prm.clear_cache(),
}


@with_forks
@pytest.mark.parametrize("name", CALLS)
def test_every_call_in_a_forked_process_is_told(demo: PRM, name: str) -> None:
    """Of asyncio's threads there are none in it, and the cache's lock may be held by a thread that is not in it."""
    asyncio.run(demo.aio.score(PROBLEM, steps=GOOD))
    with demo._scorer.cache._lock:
        assert forked(lambda: CALLS[name](demo)) == "ForkError"


@with_forks
def test_a_process_that_was_forked_loads_a_model_of_its_own(demo: PRM) -> None:
    asyncio.run(demo.aio.score(PROBLEM, steps=GOOD))
    assert forked(lambda: CALLS["aio"](PRM.from_pretrained("demo", threads=1))) == "Score"


DROPPED = """
import gc, os, sys, time
from rfprm_lite import PRM
prm = PRM.from_pretrained("demo", threads=4)
prm.score("Two coins.", steps=["It is two."])
time.sleep(0.3)  # ONNX Runtime's threads sleep now
if not os.fork():
    if sys.argv[1] == "dropped":
        del prm
        gc.collect()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@with_forks
@pytest.mark.parametrize("way", ["dropped", "held to the end"])
def test_a_forked_process_ends(way: str) -> None:
    """Closing a session waits for ONNX Runtime's threads, which are in the parent alone."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DROPPED, way], capture_output=True, text=True, timeout=300, check=True
    )
    assert run.stdout == "0\n"
