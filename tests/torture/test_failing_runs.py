"""Runs and memory that fail in the middle of a call: an error, nothing is left behind, and the next call is right."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import pytest

from campaign import Effort, Tally
from rfprm_lite import PRM
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.engine import engine as engines
from rfprm_lite.engine import kv
from rfprm_lite.engine.run import run_session
from rfprm_lite.errors import BundleFileError, EngineError, NumericalError

T = TypeVar("T")
Attempt = Callable[[Callable[[], T]], T]
PROBLEM = "Tom has 3 apples. He buys 4 more, and then 5 more. How many apples does Tom have now?"
STEPS = ("Tom has 3 + 4 = 7 apples.", "He then has 7 + 5 = 12 apples.", "The answer is 12.")
CANDIDATES = ["\n\n".join((f"Tom has 3 + 4 = {7 + i} apples.", *STEPS[1:])) for i in range(4)]


# --- calls, each of whose parts is tried again where it fails -----------------------------------------------------


def score(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    return [*attempt(lambda: prm.score(PROBLEM, steps=STEPS)).step_rewards]


def score_many(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    scores = attempt(lambda: prm.score_many([(PROBLEM, one) for one in CANDIDATES]))
    return [reward for one in scores for reward in one.step_rewards]


def score_with_errors(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    """An error stands in the place of a score; those of the others are right."""

    def call() -> list[Any]:
        results = list(prm.score_iter([(PROBLEM, one) for one in CANDIDATES], on_error="return"))
        for one in results:
            if isinstance(one, Exception):
                raise one
        return results

    return [reward for one in attempt(call) for reward in one.step_rewards]


def best_of_n(prm: PRM, attempt: Attempt[Any], *, exhaustive: bool = False) -> list[float]:
    best = attempt(lambda: prm.best_of_n(PROBLEM, CANDIDATES, exhaustive=exhaustive))
    return [*best.ranking, *best.scores[best.ranking[0]].step_rewards]


def read_to_the_end(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    return best_of_n(prm, attempt, exhaustive=True)


def top_k(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    return [*attempt(lambda: prm.top_k(PROBLEM, CANDIDATES, 2)).ranking]


def live(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    """A trace and its fork; after an error each is as it was."""
    trace = prm.live(PROBLEM)
    rewards = [attempt(lambda: trace.append(STEPS[0]))]
    fork = trace.fork()
    for one, step in ((trace, STEPS[1]), (fork, STEPS[2]), (trace, STEPS[2])):
        rewards.append(attempt(lambda: one.append(step)))  # noqa: B023  # called at once
    return [*rewards, *(attempt(one.score).reward for one in (trace, fork))]


def race(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    running = prm.race(PROBLEM, 3, aggregate="min")
    rewards: list[float] = []
    for i, step in enumerate(STEPS):
        some = {at: step for at in range(3) if at <= i}
        rewards += attempt(lambda: running.extend(some)).values()  # noqa: B023
    return [*rewards, *(attempt(lambda: running.finish(i)).reward for i in range(3))]  # noqa: B023


def aio(prm: PRM, attempt: Attempt[Any]) -> list[float]:
    one = attempt(lambda: asyncio.run(prm.aio.score(PROBLEM, steps=STEPS, timeout=60)))
    best = attempt(lambda: asyncio.run(prm.aio.best_of_n(PROBLEM, CANDIDATES, timeout=60)))
    return [*one.step_rewards, *best.ranking]


CALLS = (score, score_many, score_with_errors, best_of_n, read_to_the_end, top_k, live, race, aio)
"""Those of several responses try each alone where all together fail: one failure is not seen."""


# --- what fails --------------------------------------------------------------------------------------------------


class Failing:
    """Fails at its n-th use, in one of several ways. uses: so far."""

    def __init__(self) -> None:
        self.uses, self.at = 0, -1

    def strikes(self) -> bool:
        self.uses += 1
        return self.uses - 1 == self.at

    def begin(self, at: int) -> None:
        self.uses, self.at = 0, at


def before_a_run(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    def run(session: Any, binding: Any, cancel: Any) -> None:
        if failing.strikes():
            raise EngineError("no memory for this run")
        run_session(session, binding, cancel)

    monkeypatch.setattr(engines, "run_session", run)
    return EngineError


def behind_a_run(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """When its keys and values are written."""

    def run(session: Any, binding: Any, cancel: Any) -> None:
        run_session(session, binding, cancel)
        if failing.strikes():
            raise EngineError("an operator failed")

    monkeypatch.setattr(engines, "run_session", run)
    return EngineError


def within_onnxruntime(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """ONNX Runtime itself raises, in the middle of its graph."""

    class Session:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            options.terminate = failing.strikes()
            self.session.run_with_iobinding(binding, options)

    monkeypatch.setattr(engines, "run_session", lambda session, *rest: run_session(Session(session), *rest))
    return EngineError


def no_number(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """The run gives NaN."""

    def check(rewards: Any, positions: Any) -> None:
        if failing.strikes():
            raise NumericalError("1 of 1 rewards are no numbers")

    monkeypatch.setattr(engines, "check_numbers", check)
    return NumericalError


def no_memory(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """The allocator fails where keys and values get their room: lanes, what is kept, what is split."""
    make = kv._Arrays.__init__

    def init(self: Any, layout: Any, capacity: int) -> None:
        if failing.strikes():
            raise MemoryError(f"Unable to allocate room for {capacity} tokens")
        make(self, layout, capacity)

    monkeypatch.setattr(kv._Arrays, "__init__", init)
    return MemoryError


WAYS = (before_a_run, behind_a_run, within_onnxruntime, no_number, no_memory)


@pytest.fixture(scope="module")
def prm() -> PRM:
    return PRM.from_pretrained("demo", threads=1)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Any]:
    """All arrays of keys and values that live."""
    found: weakref.WeakSet[Any] = weakref.WeakSet()
    make = kv._Arrays.__init__

    def init(self: Any, layout: Any, capacity: int) -> None:
        make(self, layout, capacity)
        found.add(self)

    monkeypatch.setattr(kv._Arrays, "__init__", init)
    return found


def at_once(call: Callable[[], T]) -> T:
    return call()


@pytest.mark.parametrize("fails", WAYS, ids=lambda way: way.__name__)
def test_every_run(
    fails: Callable[[Failing, pytest.MonkeyPatch], type[Exception]],
    prm: PRM,
    held: weakref.WeakSet[Any],
    monkeypatch: pytest.MonkeyPatch,
    effort: Effort,
    tally: Tally,
) -> None:
    """Each run of a call fails in its turn; the same call goes on, and gives the same bits"""
    tally.tried = f"Each use in a call fails in its turn: {fails.__name__.replace('_', ' ')}"
    expected = {call: call(prm, at_once) for call in CALLS}
    failing = Failing()
    kind = fails(failing, monkeypatch)
    for call in CALLS:
        prm.clear_cache()
        failing.begin(-1)
        assert call(prm, at_once) == expected[call]
        uses = failing.uses
        for n in range(0, uses, effort.times(6, 1)):
            prm.clear_cache()
            threads = threading.active_count()
            failing.begin(n)
            failed = []

            def attempt(one: Callable[[], T]) -> T:
                try:
                    return one()
                except kind as error:
                    failed.append(str(error))  # noqa: B023
                    return one()

            assert call(prm, attempt) == expected[call], (call, n)
            assert failed or (kind is not MemoryError and call in (score_many, score_with_errors)), (call, n)
            assert call(prm, at_once) == expected[call], (call, n)
            tally.add(call.__name__)
            assert_nothing_is_held(prm, held)
            assert threading.active_count() <= max(threads, 9), "asyncio's calls have 8 threads at most"


def assert_nothing_is_held(prm: PRM, held: weakref.WeakSet[Any]) -> None:
    prm.clear_cache()
    gc.collect()
    cache = prm._scorer.cache
    assert (cache.nbytes, cache.held_bytes) == (0, 0)
    assert not [arrays for arrays in held if arrays.capacity > 1]


# --- in processes of their own -----------------------------------------------------------------------------------

STARVED = """
import json, resource, sys
from rfprm_lite import PRM
from rfprm_lite.errors import EngineError

steps = [f"Tom has {a} + {a + 1} = {2 * a + 1} apples." for a in range(90)]
score = lambda prm: prm.score("How many apples does Tom have?", steps=steps).step_rewards.tolist()
expected = score(PRM.from_pretrained("demo", threads=2))
unlimited = resource.getrlimit(resource.RLIMIT_AS)
for room in json.loads(sys.argv[1]):
    prm = PRM.from_pretrained("demo", threads=2)
    size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + room, unlimited[1]))
    try:
        said = "right" if score(prm) == expected else "wrong"
    except (EngineError, MemoryError) as error:
        said = type(error).__name__
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
    print(json.dumps([said, score(prm) == expected]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_too_little_memory(effort: Effort, tally: Tally) -> None:
    """A text of 1,500 tokens is scored while the process may take so many bytes more, and again without a limit"""
    steps = effort.times(6, 64)
    rooms = [(i * 24 << 20) // steps // 4096 * 4096 for i in range(steps)]
    done = python(STARVED, json.dumps(rooms))
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(rooms)
    for said, right_again in outcomes:
        tally.add(said)
        assert said != "wrong"
        assert right_again
    assert {"EngineError", "MemoryError"} & {said for said, _ in outcomes}
    assert "right" in {said for said, _ in outcomes}


POISONED = """
import os, sys
from pathlib import Path
from rfprm_lite import PRM

folder, way = Path(sys.argv[1]), sys.argv[2]
prm = PRM.from_pretrained(folder, threads=1, cache_bytes=0)
expected = PRM.from_pretrained("demo", threads=1, cache_bytes=0).score("What is 3 + 4?", steps=["3 + 4 = 7."]).reward
for path in (folder / "int8").iterdir():
    if way == "another takes its name":
        other = path.with_name("other")
        other.write_bytes(bytes(path.stat().st_size))
        os.replace(other, path)
    elif way == "removed":
        path.unlink()
    elif way == "overwritten in place":
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    else:
        os.truncate(path, 0)
print(prm.score("What is 3 + 4?", steps=["3 + 4 = 7."]).reward == expected)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(
    ("way", "outcomes"),
    [
        ("another takes its name", {"right"}),
        ("removed", {"right"}),
        ("overwritten in place", {"right", "wrong"}),  # ONNX Runtime has the weights mapped: nobody can see it
        ("truncated", {"right", "SIGBUS"}),  # which nobody can catch
    ],
)
def test_weights_that_change_under_a_loaded_model(way: str, outcomes: set[str], tmp_path: Path, tally: Tally) -> None:
    """The files of a loaded model are replaced, removed, overwritten or truncated"""
    folder = shutil.copytree(DEMO_FOLDER, tmp_path / "bundle")
    done = python(POISONED, str(folder), way)
    outcome = {0: "right" if done.stdout == "True\n" else "wrong", -signal.SIGBUS: "SIGBUS"}.get(
        done.returncode, "error"
    )
    tally.measure(way, outcome)
    assert outcome in outcomes, (outcome, done.stderr[-2000:])
    with pytest.raises(BundleFileError):
        PRM.from_pretrained(folder)


@pytest.mark.parametrize("layer", [*range(6), None], ids=lambda layer: "head" if layer is None else f"layer {layer}")
def test_weights_that_are_no_numbers(layer: int | None, tmp_path: Path, effort: Effort, tally: Tally) -> None:
    """Weights of one layer are NaN: loading refuses them, and where nobody looks no reward is NaN"""
    folder = shutil.copytree(DEMO_FOLDER, tmp_path / "bundle")
    data = folder / "int8" / "model.onnx.data"
    whole = data.read_bytes()
    expected = PRM.from_pretrained("demo", threads=1).score(PROBLEM, steps=STEPS).step_rewards
    named = "head." if layer is None else f".layers.{layer}."
    found = [
        value.const_value
        for name, value in ir.load(folder / "int8" / "model.onnx").graph.initializers.items()
        if named in name and value.dtype == ir.DataType.FLOAT
    ]
    assert found
    for tensor in found[:: effort.times(len(found) - 1, 1)]:
        weights = np.frombuffer(whole, np.float32, tensor.size, tensor.offset).copy()
        for what, where in (("all values of a tensor", slice(None)), ("one value", len(weights) // 2)):
            poisoned = weights.copy()
            poisoned[where] = np.nan
            data.write_bytes(whole[: tensor.offset] + poisoned.tobytes() + whole[tensor.offset + tensor.nbytes :])
            with pytest.raises(BundleFileError, match="was altered"):
                PRM.from_pretrained(folder)
            prm = PRM.from_pretrained(folder, threads=1, verify=False)
            seen = noticed(prm, expected, CALLS if effort.long else (score, best_of_n, live))
            assert seen or what == "one value", tensor.name
            tally.add(f"{what}: {'an error' if seen else 'another reward, without verify=True'}")


def noticed(prm: PRM, expected: Any, calls: Sequence[Callable[..., Any]]) -> bool:
    """Whether every call ends with an error; or else none has a reward that is no number."""
    try:
        rewards = prm.score(PROBLEM, steps=STEPS).step_rewards
    except NumericalError:
        for call in calls:
            with pytest.raises(NumericalError):
                call(prm, at_once)
        return True
    assert np.isfinite(rewards).all()
    return bool((rewards == expected).all())


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
