"""Python's time outside the graph, against candidates and against tokens, and the exponents of its growth.

    python bench/outside.py

The engine computes nothing and keeps lengths alone, so that all the time is ours: planning, the schedule, the cache,
the choice of the best; and encoding, with the demo's tokenizer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from rfprm_lite.bundle.manifest import load
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.plan import bound
from rfprm_lite.plan.cache import PrefixCache
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.packing import Packing
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.plan.sequence import Rewards, TokenSequence
from rfprm_lite.plan.tree import plan
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Trace

ROOM = 2**40
REPEATS = 5
CANDIDATES = (16, 32, 64, 128, 256)
TOKENS = (1024, 4096, 16_384, 65_536)
STEPS = (16, 64, 256, 1024)


@dataclass(frozen=True, slots=True)
class Length:
    """A block of so many tokens."""

    length: int

    @property
    def nbytes(self) -> int:
        return self.length

    def split(self, tokens: int) -> tuple[Length, Length]:
        return Length(tokens), Length(self.length - tokens)


@dataclass(slots=True)
class Held:
    """A cache of so many tokens."""

    length: int = 0

    def trim(self, length: int) -> None:
        self.length = length

    def keep(self, start: int, end: int) -> Length:
        return Length(end - start)

    def restore(self, block: Length, start: int, end: int) -> None:  # noqa: ARG002
        self.length += end - start


@dataclass(frozen=True, slots=True)
class Lanes:
    caches: list[Held]


class Nothing:
    """An engine that computes nothing."""

    max_lanes = 4

    def new_lanes(self, count: int, capacity: int) -> Lanes:  # noqa: ARG002
        return Lanes([Held() for _ in range(count)])

    def prefill(self, lanes: Lanes, chunks: Sequence[Chunk], cancel: Cancellation) -> list[Rewards]:  # noqa: ARG002
        for chunk in chunks:
            lanes.caches[chunk.lane].length += len(chunk.ids)
        return [np.full(len(chunk.read_at), 0.5, np.float32) for chunk in chunks]


def call(store: PrefixCache[Length] | None = None) -> Call[Lanes]:
    return Call(Nothing(), store, packing=Packing(500))


def pool(candidates: int, prompt: int, tokens: int = 128, every: int = 32) -> list[TokenSequence]:
    draw = np.random.default_rng(0)
    shared = draw.integers(0, 1000, prompt)
    read_at = np.arange(prompt + every - 1, prompt + tokens, every)
    return [TokenSequence(np.append(shared, draw.integers(0, 1000, tokens)), read_at) for _ in range(candidates)]


def steps(count: int) -> list[TokenSequence]:
    ids = np.random.default_rng(0).integers(0, 1000, 32 * count)
    return [TokenSequence(ids[: 32 * (i + 1)], np.array([32 * (i + 1) - 1])) for i in range(count)]


Way = Callable[[list[TokenSequence]], Callable[[], object]]


def unkept(sequences: list[TokenSequence]) -> Callable[[], object]:
    return lambda: call().rewards(sequences)


def cold(sequences: list[TokenSequence]) -> Callable[[], object]:
    return lambda: call(PrefixCache(ROOM, Length.split)).rewards(sequences)


def warm(sequences: list[TokenSequence]) -> Callable[[], object]:
    store: PrefixCache[Length] = PrefixCache(ROOM, Length.split)
    call(store).rewards(sequences)
    return lambda: call(store).rewards(sequences)


def lazy(sequences: list[TokenSequence]) -> Callable[[], object]:
    @dataclass(frozen=True, slots=True)
    class Candidate:
        num_readouts: int

        def highest(self, rewards: Rewards) -> float:
            return float(min([1.0, *rewards]))

    def work() -> None:
        one = call(PrefixCache(ROOM, Length.split))

        def advance(further: Any) -> list[Rewards]:
            first = [(sequences[i].ids, sequences[i].read_at[:readouts]) for i, readouts in further]
            return [found.rewards for found in one.rewards([TokenSequence(ids[: at[-1] + 1], at) for ids, at in first])]

        candidates = [Candidate(len(sequence.read_at)) for sequence in sequences]
        bound.best(candidates, bound.nothing(candidates), 1, advance)

    return work


def encoded(candidates: int, words: int) -> Callable[[], object]:
    manifest = load(DEMO_FOLDER / "manifest.json")
    problem, draw = "Tom has 12 apples. " * (words // 5), np.random.default_rng(0)
    traces = [Trace.from_steps([f"He eats {n} of them."]) for n in draw.integers(0, 10**6, candidates)]
    tokenizer = DEMO_FOLDER / "tokenizer.json"

    def work() -> None:
        encoder = Encoder.from_file(tokenizer, manifest.recipe, 10**9)
        for trace in traces:
            encoder.step_sequences(problem, trace)

    return work


def grown(count: int) -> Callable[[], object]:
    manifest = load(DEMO_FOLDER / "manifest.json")
    texts = [f"Step {i} says that {i} + {i} is {2 * i}." for i in range(count)]

    def work() -> None:
        encoder = Encoder.from_file(DEMO_FOLDER / "tokenizer.json", manifest.recipe, 10**9)
        for i in range(count):
            encoder.last_step_sequence("Add.", Trace.from_steps(texts[: i + 1]))

    return work


ROWS: dict[str, tuple[tuple[int, ...], Callable[[int], Callable[[], object]]]] = {
    "plan, candidates": (CANDIDATES, lambda n: partial(plan, pool(n, 256))),
    "nothing kept, candidates": (CANDIDATES, lambda n: unkept(pool(n, 256))),
    "cold cache, candidates": (CANDIDATES, lambda n: cold(pool(n, 256))),
    "warm cache, candidates": (CANDIDATES, lambda n: warm(pool(n, 256))),
    "best of N, candidates": (CANDIDATES, lambda n: lazy(pool(n, 256))),
    "encoding behind 4,096 words, candidates": (CANDIDATES, lambda n: encoded(n, 4096)),
    "nothing kept, tokens of the prompt": (TOKENS, lambda n: unkept(pool(8, n))),
    "cold cache, tokens of the prompt": (TOKENS, lambda n: cold(pool(8, n))),
    "warm cache, tokens of the prompt": (TOKENS, lambda n: warm(pool(8, n))),
    "best of 8, tokens of the prompt": (TOKENS, lambda n: lazy(pool(8, n))),
    "encoding of 8, words of the prompt": (TOKENS, lambda n: encoded(8, n)),
    "nothing kept, tokens of one trace": (TOKENS, lambda n: unkept(pool(1, 0, n, 64))),
    "cold cache, tokens of one trace": (TOKENS, lambda n: cold(pool(1, 0, n, 64))),
    "warm cache, tokens of one trace": (TOKENS, lambda n: warm(pool(1, 0, n, 64))),
    "a text a step, cold cache, steps": (STEPS, lambda n: cold(steps(n))),
    "encoding a trace that grows, steps": (STEPS[:3], grown),
}
"""What is timed against which size."""


@click.command()
@click.option("--row", "names", multiple=True, help="By name; all by default.")
def main(names: tuple[str, ...]) -> None:
    """Milliseconds of processor time, the least of some repeats, and the exponent between the last two sizes."""
    table = Table("what, against what", "sizes", "ms", "exponent at the end")
    for name in names or ROWS:
        sizes, make = ROWS[name]
        seconds = [least(make(size)) for size in sizes]
        (a, b), (x, y) = list(pairwise(seconds))[-1], sizes[-2:]
        shown = ", ".join(f"{s * 1e3:.1f}" for s in seconds)
        table.add_row(name, ", ".join(f"{size:,}" for size in sizes), shown, f"{log(b / a) / log(y / x):.2f}")
    Console(width=150).print(table)


def least(work: Callable[[], object]) -> float:
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


if __name__ == "__main__":
    main()
