"""Growth: against candidates and against tokens, no more of our lines run than in proportion.

Lines are counted and no time is taken, so that a busy machine changes nothing. bench/outside.py takes the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import rfprm_lite
from fakes import FakeBlock, FakeEngine
from rfprm_lite.plan import bound
from rfprm_lite.plan.cache import PrefixCache, Store
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.sequence import Rewards, TokenSequence

OURS = str(Path(rfprm_lite.__file__).parent)
LANES = 4
ROOM = 2**40
MOST = 1.1
"""The exponent that is taken for linear: sorting and searching add a logarithm."""


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of rfprm_lite run."""
    count = 0

    def local(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def trace(frame: FrameType, _event: str, _argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(OURS) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def exponent(sizes: list[int], work: Callable[[int], Callable[[], object]]) -> float:
    """p of lines ~ size^p, by least squares."""
    lines = [lines_of(work(size)) for size in sizes]
    return float(np.polyfit(np.log(sizes), np.log(lines), 1)[0])


def pool(candidates: int, prompt: int, tokens: int = 64, every: int = 16) -> list[TokenSequence]:
    """Candidates behind one prompt, each with a read-out every so many tokens."""
    draw = np.random.default_rng(candidates)
    shared = draw.integers(0, 1000, prompt)
    read_at = np.arange(prompt + every - 1, prompt + tokens, every)
    return [TokenSequence(np.append(shared, draw.integers(0, 1000, tokens)), read_at) for _ in range(candidates)]


def steps(count: int) -> list[TokenSequence]:
    """A trace of which each step has a text of its own, the beginning of the next one's."""
    ids = np.random.default_rng(count).integers(0, 1000, 16 * count)
    return [TokenSequence(ids[: 16 * (i + 1)], np.array([16 * (i + 1) - 1])) for i in range(count)]


def unkept(sequences: list[TokenSequence]) -> Callable[[], object]:
    return lambda: Call(FakeEngine(LANES)).rewards(sequences)


def cold(sequences: list[TokenSequence]) -> Callable[[], object]:
    store: PrefixCache[FakeBlock] = PrefixCache(ROOM, FakeBlock.split)
    return lambda: Call(FakeEngine(LANES), store).rewards(sequences)


def warm(sequences: list[TokenSequence]) -> Callable[[], object]:
    store: PrefixCache[FakeBlock] = PrefixCache(ROOM, FakeBlock.split)
    Call(FakeEngine(LANES), store).rewards(sequences)
    return lambda: Call(FakeEngine(LANES), store).rewards(sequences)


def short_of_memory(sequences: list[TokenSequence]) -> Callable[[], object]:
    store: PrefixCache[FakeBlock] = PrefixCache(2000, FakeBlock.split)
    return lambda: Call(FakeEngine(LANES), store).rewards(sequences)


def leased(sequences: list[TokenSequence]) -> Callable[[], object]:
    cache: PrefixCache[FakeBlock] = PrefixCache(0, FakeBlock.split, ROOM)

    def work() -> None:
        with cache.lease() as lease:
            Call(FakeEngine(LANES), lease).rewards(sequences)

    return work


def lazy(sequences: list[TokenSequence]) -> Callable[[], object]:
    """The choice of the candidate whose lowest reward is the highest."""

    class Candidate:
        num_readouts = len(sequences[0].read_at)

        def highest(self, rewards: Rewards) -> float:
            return float(min(1.0, *rewards)) if len(rewards) else 1.0

    def work() -> None:
        store: Store[FakeBlock] = PrefixCache(ROOM, FakeBlock.split)
        call = Call(FakeEngine(LANES), store)
        candidates = [Candidate() for _ in sequences]

        def advance(further: Any) -> list[Rewards]:
            first = [(sequences[i].ids, sequences[i].read_at[:readouts]) for i, readouts in further]
            return [one.rewards for one in call.rewards([TokenSequence(ids[: at[-1] + 1], at) for ids, at in first])]

        bound.best(candidates, bound.nothing(candidates), 1, advance)

    return work


WAYS = [unkept, cold, warm, short_of_memory, leased]


@pytest.mark.parametrize("way", [*WAYS, lazy])
def test_lines_grow_with_candidates(way: Callable[[list[TokenSequence]], Callable[[], object]]) -> None:
    assert exponent([16, 64, 256], lambda candidates: way(pool(candidates, 256))) < MOST


@pytest.mark.parametrize("way", WAYS)
def test_lines_grow_with_the_prompt(way: Callable[[list[TokenSequence]], Callable[[], object]]) -> None:
    assert exponent([4096, 16_384, 65_536], lambda prompt: way(pool(4, prompt))) < MOST


@pytest.mark.parametrize("way", WAYS)
def test_lines_grow_with_one_trace(way: Callable[[list[TokenSequence]], Callable[[], object]]) -> None:
    assert exponent([4096, 16_384, 65_536], lambda tokens: way(pool(1, 0, tokens, 64))) < MOST


@pytest.mark.parametrize("way", WAYS)
def test_lines_grow_with_steps_that_have_texts_of_their_own(
    way: Callable[[list[TokenSequence]], Callable[[], object]],
) -> None:
    assert exponent([16, 64, 256], lambda count: way(steps(count))) < MOST


def test_what_grows_with_the_square_is_noticed() -> None:
    assert exponent([16, 64, 256], lambda size: lambda: [bound.nothing([]) for _ in range(size**2)]) > 2 * MOST - 0.3
