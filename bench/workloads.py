"""The workloads: what is scored, as token ids and read-out positions, so that every contender does identical work."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

VOCABULARY = 2000
STEP = 32


@dataclass(frozen=True, slots=True)
class Sequence:
    """ids: from the first position on. reads: positions whose rewards are wanted."""

    ids: list[int]
    reads: list[int]


@dataclass(frozen=True, slots=True)
class Workload:
    """calls: what is known at once is one call; the next comes when its rewards are there. cold: each round is a
    process of its own, timed from its start."""

    name: str
    title: str
    calls: list[list[Sequence]]
    cold: bool = False

    @property
    def tokens(self) -> int:
        """Of all sequences, each counted in full."""
        return sum(len(sequence.ids) for call in self.calls for sequence in call)

    @property
    def distinct_prefixes(self) -> int:
        """The fewest tokens that can be computed when prefixes are shared within a call."""
        return sum(_distinct(call) for call in self.calls)


def best_of_n(n: int = 16, prompt: int = 256, candidate: int = 128) -> Workload:
    """W1: candidates of equal length behind one prompt, a read-out every STEP tokens."""
    draw = random.Random(1)
    shared = _tokens(draw, prompt)
    reads = [prompt + at - 1 for at in range(STEP, candidate + 1, STEP)]
    call = [Sequence(shared + _tokens(draw, candidate), reads) for _ in range(n)]
    return Workload("W1", f"best of {n}: prompt of {prompt}, candidates of {candidate} tokens", [call])


def long_trace(length: int = 4096) -> Workload:
    """W2: one trace, a read-out every 64 tokens."""
    ids = _tokens(random.Random(2), length)
    return Workload("W2", f"one trace of {length} tokens", [[Sequence(ids, list(range(63, length, 64)))]])


def real_pools(pools: int = 4) -> Workload:
    """W3: best of 16 over real candidates, a pool a call."""
    calls = [[Sequence(**s) for s in pool] for pool in _real()["pools"]]
    step = max(1, len(calls) // pools)
    return Workload("W3", f"{pools} real pools of 16 candidates (GSM8K, MATH500)", calls[::step][:pools])


def real_long_traces(traces: int = 1) -> Workload:
    """W4: long chains of thought."""
    chosen = [Sequence(**s) for s in _real()["long"][:traces]]
    title = f"real long traces (Sky-T1) of {', '.join(str(len(s.ids)) for s in chosen)} tokens"
    return Workload("W4", title, [[s] for s in chosen])


def beam_search(beams: int = 4, expansions: int = 8, steps: int = 10, prompt: int = 128, step: int = 16) -> Workload:
    """W5: each call scores the new step of every expansion of every beam; the first of each beam survives."""
    draw = random.Random(5)
    paths = [_tokens(draw, prompt)] * beams
    calls: list[list[Sequence]] = []
    for _ in range(steps):
        grown = [[path + _tokens(draw, step) for _ in range(expansions)] for path in paths]
        calls.append([Sequence(ids, [len(ids) - 1]) for own in grown for ids in own])
        paths = [own[0] for own in grown]
    title = f"beam search: {beams} beams x {expansions} expansions x {steps} steps of {step} tokens"
    return Workload("W5", title, calls)


def cold_start(length: int = 256) -> Workload:
    """W6: from the start of the process to the rewards of one short trace."""
    ids = _tokens(random.Random(6), length)
    call = [Sequence(ids, list(range(STEP - 1, length, STEP)))]
    return Workload("W6", f"cold start: process start to the rewards of {length} tokens", [call], cold=True)


def search_tree() -> Workload:
    """W7: all paths of a real OmegaPRM search tree."""
    call = [Sequence(**s) for s in _real()["tree"]]
    return Workload("W7", f"a real search tree with {len(call)} leaves (OmegaPRM)", [call])


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "W1": best_of_n,
    "W2": long_trace,
    "W3": real_pools,
    "W4": real_long_traces,
    "W5": beam_search,
    "W6": cold_start,
    "W7": search_tree,
}

QUICK: dict[str, Callable[[], Workload]] = {
    "W1": lambda: best_of_n(8, 96, 48),
    "W2": lambda: long_trace(1024),
    "W5": lambda: beam_search(2, 4, 4, 64, 16),
    "W6": lambda: cold_start(64),
}
"""Small forms for CI and for the demo model, which knows no token of the real ones."""


def full_tree(branching: int, depth: int = 3, prompt: int = 128, step: int = 32) -> Workload:
    """All paths of a tree in which every node has as many children."""
    draw = random.Random(8)
    paths = [_tokens(draw, prompt)]
    for _ in range(depth):
        paths = [path + _tokens(draw, step) for path in paths for _ in range(branching)]
    reads = list(range(prompt + step - 1, prompt + depth * step, step))
    title = f"a tree: {depth} levels of {branching} children a node"
    return Workload("branching", title, [[Sequence(ids, reads) for ids in paths]])


@dataclass(frozen=True, slots=True)
class Series:
    """A workload against one of its sizes. axis: what the size is."""

    axis: str
    sizes: tuple[int, ...]
    workload: Callable[[int], Workload]


SERIES: dict[str, Series] = {
    "candidates": Series("candidates (N)", (1, 2, 4, 8, 16, 32, 64), lambda n: best_of_n(n, 256, 64)),
    "prompt": Series("tokens of the prompt", (128, 256, 512, 1024, 2048), lambda p: best_of_n(8, p, 64)),
    "length": Series("tokens of the trace", (1024, 2048, 4096, 8192, 16384), long_trace),
    "branching": Series("children of each node", (1, 2, 3, 4, 5), full_tree),
}


def shared_length(a: list[int], b: list[int]) -> int:
    """Tokens that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(VOCABULARY) for _ in range(count)]


def _distinct(call: list[Sequence]) -> int:
    ordered = sorted(sequence.ids for sequence in call)
    return len(ordered[0]) + sum(len(b) - shared_length(a, b) for a, b in pairwise(ordered))


@cache
def _real() -> dict[str, list]:  # type: ignore[type-arg]
    packed = (Path(__file__).parent / "data" / "traces.json.gz").read_bytes()
    return json.loads(gzip.decompress(packed))  # type: ignore[no-any-return]
