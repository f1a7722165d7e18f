"""A process in which threads and an event loop call a few PRMs in every way at once, for as long as it is told.

    python soak.py SECONDS SEED

Out: one JSON object: what was called how often, what was not as in a serial run, what the process took over time, and
what was left at the end.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_lite import PRM, RfprmError, Trace
from rfprm_lite.results import Score
from rfprm_lite.scoring import aio

THREADS = 16
TASKS = 12
"""Calls that the event loop has under way."""
AGGREGATES = ("mean", "min", "product", "last")
TOO_LONG = 400
"""Steps of a trace that no model of 2,048 tokens reads whole."""
PROBLEMS = (
    "Ann has 15 coins. She finds 4 more and loses 6. How many coins has she now?",
    "Tom has 12 apples. He buys 5 more. He gives away 3. How many apples does Tom have now?",
    "A train goes 60 miles an hour for 3 hours. How far does it go?",
)
LOADED: dict[str, dict[str, Any]] = {
    "caching": {"threads": 2},
    "forgetful": {"threads": 1, "cache_bytes": 0},
    "short of cache": {"threads": 2, "cache_bytes": 2_000_000},
    "short of memory": {"threads": 2, "cache_bytes": 500_000, "memory_bytes": 12_000_000},
}
"""How each PRM is loaded. The last refuses long traces."""

Bits = tuple[bytes, float]
Text = tuple[int, int]
"""The index of a problem, and of a trace."""
Sample = tuple[float, int, int, int, int, int]
"""Seconds since the beginning, calls until then, resident bytes, allocated bytes, threads, and open files."""


@dataclass(frozen=True, slots=True)
class Material:
    """What is scored, and what a serial run gave: the bits of the step rewards and the reward, or the error's name."""

    traces: tuple[Trace, ...]
    expected: dict[tuple[str, Text, str, str | None], Bits | str]


@dataclass(slots=True)
class Found:
    """What came of the calls. Several threads add to it."""

    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, times: int = 1) -> None:
        with self.lock:
            self.calls[what] += times

    def require(self, good: bool, what: str) -> None:
        if not good:
            with self.lock:
                self.wrong.append(what)


def make_traces(random: np.random.Generator) -> tuple[Trace, ...]:
    """Of random lengths, most of them short, some with much in common, one that is too long."""
    traces = []
    for i in range(24):
        count = int(np.clip(random.lognormal(1.6, 0.9), 1, 70))
        steps = [f"{n} + {n + i % 5} = {2 * n + i % 5}." for n in range(1, count + 1)]
        steps[-1] += " " * (i % 2) + f" So it is {i}."
        traces.append(Trace.from_steps(steps, thinking=int(random.integers(count)) if i % 3 else 0))
    traces.append(Trace.from_steps([f"{n} + {n} = {2 * n}." for n in range(TOO_LONG)], thinking=TOO_LONG - 2))
    return tuple(traces)


def bits(score: Score) -> Bits:
    return score.step_rewards.tobytes(), score.reward


def outcome(call: Callable[[], Score]) -> Bits | str:
    try:
        return bits(call())
    except RfprmError as error:
        return type(error).__name__


def prepared(random: np.random.Generator) -> Material:
    """Everything that can be asked. One call at a time, nothing kept from the text before."""
    traces = make_traces(random)
    asked = [(t, aggregate, None) for t in range(len(traces)) for aggregate in AGGREGATES]
    asked.append((len(traces) - 1, "mean", "drop-oldest-thoughts"))
    serial = {threads: PRM.from_pretrained("demo", threads=threads) for threads in (1, 2)}
    expected = {}
    for name, options in LOADED.items():
        prm, refusing = serial[options["threads"]], PRM.from_pretrained("demo", **options)
        for p, problem in enumerate(PROBLEMS):
            for t, aggregate, truncate in asked:
                if aggregate == AGGREGATES[0]:
                    prm.clear_cache()
                key, told = (name, (p, t), aggregate, truncate), {"aggregate": aggregate, "truncate": truncate}
                known = next((expected[n, *key[1:]] for n in LOADED if same(n, name) and (n, *key[1:]) in expected), "")
                expected[key] = refused(refusing, problem, traces[t], truncate) or (
                    known if isinstance(known, tuple) else outcome(lambda: prm.score(problem, traces[t], **told))  # noqa: B023
                )
    return Material(traces, expected)


def same(one: str, other: str) -> bool:
    """Whether two PRMs compute alike."""
    return bool(LOADED[one]["threads"] == LOADED[other]["threads"])


def refused(prm: PRM, problem: str, trace: Trace, truncate: Any) -> str | None:
    """The name of the error that says that a text is too long for the model or for memory; nothing is computed."""
    try:
        prm._scorer.request(problem, trace, prm._scorer.aggregate(None), truncate)
    except RfprmError as error:
        return type(error).__name__
    return None


class Caller:
    """One thread's calls, each compared with the serial run's."""

    def __init__(self, prms: dict[str, PRM], material: Material, found: Found, seed: int) -> None:
        self.prms, self.material, self.found = prms, material, found
        self.random = np.random.default_rng(seed)
        self.kinds: dict[Callable[[], None], float] = {
            self.score: 6,
            self.score_many: 3,
            self.score_iter: 1,
            self.best_of_n: 4,
            self.live: 4,
            self.race: 2,
            self.truncated: 0.3,
            self.clear: 1,
            self.reload: 0.05,
        }

    def work(self, until: float) -> None:
        kinds, weights = list(self.kinds), np.array(list(self.kinds.values()))
        while time.monotonic() < until:
            call = kinds[self.random.choice(len(kinds), p=weights / weights.sum())]
            try:
                call()
            except BaseException as error:  # noqa: BLE001
                self.found.require(False, f"{call.__name__}: {error!r}")
            self.found.count(call.__name__)

    def drawn(self) -> tuple[str, PRM]:
        name = list(self.prms)[self.random.integers(len(self.prms))]
        return name, self.prms[name]

    def texts(self, count: int, *, short: bool = False) -> list[Text]:
        p, most = int(self.random.integers(len(PROBLEMS))), len(self.material.traces) - short
        return [(p, int(t)) for t in self.random.integers(most, size=count)]

    def pair(self, text: Text) -> tuple[str, Trace]:
        return PROBLEMS[text[0]], self.material.traces[text[1]]

    def wanted(self, name: str, text: Text, aggregate: str = "mean", truncate: str | None = None) -> Bits | str:
        return self.material.expected[name, text, aggregate, truncate]

    def good(self, name: str, texts: list[Text]) -> list[Text]:
        """Those that can be scored; at least one."""
        good = [text for text in texts if not isinstance(self.wanted(name, text), str)]
        return good or [(texts[0][0], self.shortest)]

    @property
    def shortest(self) -> int:
        return min(range(len(self.material.traces)), key=lambda t: len(self.material.traces[t].text))

    def same(self, got: object, wanted: object, what: str) -> None:
        self.found.require(got == wanted, f"{what}: {str(got)[:200]} in place of {str(wanted)[:200]}")

    def score(self) -> None:
        (name, prm), (text,) = self.drawn(), self.texts(1)
        aggregate = str(self.random.choice(AGGREGATES))
        got = outcome(lambda: prm.score(*self.pair(text), aggregate=aggregate))
        self.same(got, self.wanted(name, text, aggregate), f"score {name} {text} {aggregate}")

    def truncated(self) -> None:
        (name, prm), p = self.drawn(), int(self.random.integers(len(PROBLEMS)))
        text = (p, len(self.material.traces) - 1)
        got = outcome(lambda: prm.score(*self.pair(text), aggregate="mean", truncate="drop-oldest-thoughts"))
        self.same(got, self.wanted(name, text, "mean", "drop-oldest-thoughts"), f"truncated {name} {text}")

    def score_many(self) -> None:
        (name, prm), texts = self.drawn(), self.texts(int(self.random.integers(1, 9)))
        scores = prm.score_many([self.pair(text) for text in texts], aggregate="mean", on_error="return")
        for text, score in zip(texts, scores, strict=True):
            got = bits(score) if isinstance(score, Score) else type(score).__name__
            self.same(got, self.wanted(name, text), f"score_many {name} {text}")

    def score_iter(self) -> None:
        """Left in the middle."""
        (name, prm), texts = self.drawn(), self.texts(6)
        scores = prm.score_iter((self.pair(text) for text in texts), aggregate="mean", on_error="return")
        for text, score in zip(texts[:4], scores, strict=False):
            got = bits(score) if isinstance(score, Score) else type(score).__name__
            self.same(got, self.wanted(name, text), f"score_iter {name} {text}")

    def best_of_n(self) -> None:
        name, prm = self.drawn()
        texts = self.good(name, self.texts(int(self.random.integers(1, 9)), short=True))
        aggregate, exhaustive = str(self.random.choice(AGGREGATES)), bool(self.random.integers(2))
        candidates = [self.pair(text)[1] for text in texts]
        best = prm.best_of_n(PROBLEMS[texts[0][0]], candidates, aggregate=aggregate, exhaustive=exhaustive)
        self.chosen(name, texts, aggregate, best.index, best.scores)

    def chosen(self, name: str, texts: list[Text], aggregate: str, index: int, scores: Any) -> None:
        rewards = [self.wanted(name, text, aggregate)[1] for text in texts]
        self.same(index, int(np.argmax(rewards)), f"best_of_n {name} {texts} {aggregate}")
        for text, score in zip(texts, scores, strict=True):
            wanted = self.wanted(name, text, aggregate)
            if isinstance(score, Score):
                self.same(bits(score), wanted, f"best_of_n {name} {text} {aggregate}")
            else:
                begun = score.step_rewards.tobytes()
                self.same(begun, wanted[0][: len(begun)], f"best_of_n, unfinished, {name} {text} {aggregate}")

    def live(self) -> None:
        """Grows, is forked, and is rolled back."""
        name, prm = self.drawn()
        (text,) = self.good(name, self.texts(1, short=True))
        problem, trace = self.pair(text)
        steps = np.frombuffer(self.wanted(name, text)[0], np.float32)
        live = prm.live(problem, aggregate="mean")
        for step, wanted in zip(trace.steps, steps, strict=True):
            if self.random.random() < 0.1:
                rolled_back = live.fork()
                live.append("This is wrong.", thinking=step.part == "thinking")
                live = rolled_back
            self.same(live.append(step.text, thinking=step.part == "thinking"), float(wanted), f"live {name} {text}")
        self.same(bits(live.score()), self.wanted(name, text), f"live, in the end, {name} {text}")

    def race(self) -> None:
        name, prm = self.drawn()
        texts = self.good(name, self.texts(3, short=True))
        traces = [self.pair(text)[1] for text in texts]
        rewards = [np.frombuffer(self.wanted(name, text)[0], np.float32) for text in texts]
        race = prm.race(PROBLEMS[texts[0][0]], len(texts), aggregate="min")
        for at in range(max(len(trace.steps) for trace in traces)):
            for part in ("thinking", "response"):
                growing = {
                    i: trace.steps[at].text
                    for i, trace in enumerate(traces)
                    if at < len(trace.steps) and trace.steps[at].part == part
                }
                for i, reward in race.extend(growing, thinking=part == "thinking").items():
                    self.same(reward, float(rewards[i][at]), f"race {name} {texts[i]}")
        for i, text in enumerate(texts):
            self.same(bits(race.finish(i)), self.wanted(name, text, "min"), f"race, in the end, {name} {text}")
        self.same(race.winner, int(np.argmax([rewards[i].min() for i in range(len(texts))])), f"race {name} {texts}")

    def clear(self) -> None:
        self.drawn()[1].clear_cache()

    def reload(self) -> None:
        """Load another, use it once, let go of it."""
        name, (text,) = self.drawn()[0], self.texts(1, short=True)
        prm = PRM.from_pretrained("demo", **LOADED[name])
        got = outcome(lambda: prm.score(*self.pair(text), aggregate="mean"))
        self.same(got, self.wanted(name, text), f"reload {name} {text}")


class AsyncCaller(Caller):
    """The event loop's calls, of which many are stopped."""

    async def work_on(self, until: float) -> None:
        while time.monotonic() < until:
            call = (self.scored, self.scored_many, self.chosen_one)[self.random.integers(3)]
            match int(self.random.integers(4)):
                case 0:
                    await self.stopped(call)
                case 1:
                    try:
                        await call(float(self.random.exponential(0.05)))
                    except TimeoutError:
                        self.found.count("asyncio, out of time")
                case _:
                    await call(None)
            self.found.count("asyncio")

    async def stopped(self, call: Callable[[float | None], Any]) -> None:
        task = asyncio.ensure_future(call(None))
        await asyncio.sleep(float(self.random.exponential(0.03)))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        self.found.count("asyncio, cancelled" if task.cancelled() else "asyncio, cancelled too late")

    async def scored(self, timeout: float | None) -> None:
        (name, prm), (text,) = self.drawn(), self.texts(1)
        try:
            got: Bits | str = bits(await prm.aio.score(*self.pair(text), aggregate="mean", timeout=timeout))
        except RfprmError as error:
            got = type(error).__name__
        self.same(got, self.wanted(name, text), f"aio.score {name} {text}")

    async def scored_many(self, timeout: float | None) -> None:
        (name, prm), texts = self.drawn(), self.texts(4)
        pairs = [self.pair(text) for text in texts]
        scores = await prm.aio.score_many(pairs, aggregate="mean", on_error="return", timeout=timeout)
        for text, score in zip(texts, scores, strict=True):
            got = bits(score) if isinstance(score, Score) else type(score).__name__
            self.same(got, self.wanted(name, text), f"aio.score_many {name} {text}")

    async def chosen_one(self, timeout: float | None) -> None:
        name, prm = self.drawn()
        texts = self.good(name, self.texts(4, short=True))
        candidates = [self.pair(text)[1] for text in texts]
        best = await prm.aio.best_of_n(PROBLEMS[texts[0][0]], candidates, aggregate="min", timeout=timeout)
        self.chosen(name, texts, "min", best.index, best.scores)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Mallinfo(ctypes.Structure):
    """glibc's own account. uordblks: bytes handed out of its arenas; hblkhd: of mappings of their own."""

    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


def allocated() -> int:
    """Bytes that malloc handed out and did not get back; its arenas keep more resident. 0 without glibc's account."""
    try:
        account = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    account.restype = Mallinfo
    told = account()
    return int(told.uordblks + told.hblkhd)


def entries(folder: str) -> int:
    """How many threads, or open files, this process has."""
    return len(list(Path("/proc/self", folder).iterdir()))


def files() -> list[str]:
    """What the open file descriptors are."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder's own
            names.append(str(descriptor.readlink()))
    return sorted(name for name in names if not name.startswith("/proc/"))


@dataclass(frozen=True, slots=True)
class State:
    """What a process has: open files, threads, and objects of the package by their type."""

    files: Counter[str]
    threads: int
    objects: Counter[str]


def state() -> State:
    gc.collect()
    kinds = [(type(value), str(getattr(type(value), "__module__", ""))) for value in gc.get_objects()]
    objects = Counter(kind.__qualname__ for kind, module in kinds if module.startswith("rfprm_lite."))
    return State(Counter(files()), entries("task"), objects)


def soaked(prms: dict[str, PRM], material: Material, found: Found, seconds: float, seed: int) -> list[Sample]:
    """Call the PRMs from all threads and an event loop for so long; what the process took meanwhile."""
    samples: list[Sample] = []
    begin, over = time.monotonic(), threading.Event()
    until = begin + seconds

    def sample() -> None:
        while not over.wait(max(0.1, seconds / 2000)):
            now, calls = time.monotonic() - begin, sum(found.calls.values())
            samples.append((now, calls, resident(), allocated(), entries("task"), entries("fd")))

    async def all_tasks() -> None:
        callers = [AsyncCaller(prms, material, found, seed * 1000 + 100 + i) for i in range(TASKS)]
        for error in await asyncio.gather(*(one.work_on(until) for one in callers), return_exceptions=True):
            found.require(error is None, f"asyncio: {error!r}")

    sampling = threading.Thread(target=sample)
    sampling.start()
    with ThreadPoolExecutor(THREADS + 1) as pool:
        work = [pool.submit(Caller(prms, material, found, seed * 1000 + i).work, until) for i in range(THREADS)]
        work.append(pool.submit(lambda: asyncio.run(all_tasks())))
        for one in work:
            one.result()
    over.set()
    sampling.join()
    return samples


def held(prms: dict[str, PRM]) -> tuple[list[str], dict[str, int]]:
    """The PRMs whose lock is held, and the bytes that are pinned though nobody is left who pins."""
    gc.collect()
    caches = {name: prm._scorer.cache for name, prm in prms.items()}
    locks = [name for name, cache in caches.items() if not cache._lock.acquire(timeout=5)]
    for name in caches.keys() - locks:
        caches[name]._lock.release()
    pins = {name: cache.held_bytes for name, cache in caches.items() if name not in locks and cache.held_bytes}
    return locks, pins


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    material, found = prepared(np.random.default_rng(seed)), Found()
    before = state()
    prms = {name: PRM.from_pretrained("demo", **options) for name, options in LOADED.items()}
    samples = soaked(prms, material, found, seconds, seed)
    locks, pins = held(prms)
    for kind in ("short", "long"):
        aio._threads(kind).shutdown()
    aio._threads.cache_clear()
    del prms
    after = state()
    left = {
        "files": after.files - before.files,
        "threads": after.threads - before.threads,
        "objects": after.objects - before.objects,
        "locks": locks,
        "pins": pins,
    }
    told = {"calls": found.calls, "wrong": found.wrong[:20], "num_wrong": len(found.wrong)}
    print(json.dumps(told | {"samples": samples, "left": left}))


if __name__ == "__main__":
    main()
