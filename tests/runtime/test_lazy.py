"""Lazy best-of-N: the choice of reading everything, to the last bit, and less work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.plan import bound
from rfprm_lite.plan.sequence import Rewards, TokenSequence
from rfprm_lite.scale import PROBABILITY
from rfprm_lite.scoring.request import Request
from rfprm_lite.trace import Trace

POOLS = json.loads((Path(__file__).parent / "data" / "step_scores.json").read_text(encoding="utf-8"))["pools"]
AGGREGATES = [
    *(Aggregate(name) for name in ("mean", "min", "product", "last")),
    Aggregate("mean+final", 1.0),
    Aggregate("mean+final", 0.3, "response"),
]


def reading(tokens: Sequence[int], aggregate: Aggregate) -> Request:
    """Of a trace whose steps have so many tokens, behind a prompt of 10. With a second read for the response."""
    ends = [10 + end for end in accumulate(tokens)]
    sequences = [TokenSequence(np.zeros(ends[-1], np.int64), np.array(ends) - 1)]
    if aggregate.scores_response:
        sequences.append(TokenSequence(np.zeros(30, np.int64), np.array([29])))
    return Request(Trace.from_steps([str(n) for n in tokens]), tuple(sequences), aggregate, PROBABILITY)


class Table:
    """Rewards that are known, given as far as they are asked for."""

    def __init__(self, readings: Sequence[Request], rewards: Sequence[Rewards]) -> None:
        self.readings = readings
        self.rewards = rewards
        self.read = [0] * len(rewards)

    def advance(self, further: Sequence[tuple[int, int]]) -> list[Rewards]:
        for i, read_at in further:
            assert self.read[i] < read_at <= len(self.rewards[i])
            self.read[i] = read_at
        return [self.rewards[i][:read_at] for i, read_at in further]

    @property
    def tokens(self) -> int:
        """Behind the prompt, as far as was read."""
        return sum(
            sum(len(s.ids) - 10 for s in reading.first(read_at))
            for reading, read_at in zip(self.readings, self.read, strict=True)
            if read_at
        )


def brute_force(readings: Sequence[Request], rewards: Sequence[Rewards], count: int) -> list[int]:
    totals = [
        reading.aggregate(own[: len(reading.trace.steps)], float(own[-1]))
        for reading, own in zip(readings, rewards, strict=True)
    ]
    return sorted(range(len(totals)), key=lambda i: (-totals[i], i))[:count]


# Few different rewards, so that there are ties, and the ends of the range.
some_rewards = st.sampled_from([0.0, 1.0, 0.5, 0.1, 0.3, 1 / 3, 0.999]) | st.floats(0, 1, width=32)


@given(
    st.lists(st.lists(st.tuples(some_rewards, st.integers(1, 90)), min_size=1, max_size=7), min_size=1, max_size=9),
    st.sampled_from(AGGREGATES),
    st.integers(1, 10),
    st.data(),
)
def test_the_choice_is_that_of_reading_everything(
    candidates: list[list[tuple[float, int]]], aggregate: Aggregate, count: int, data: st.DataObject
) -> None:
    readings = [reading([tokens for _, tokens in steps], aggregate) for steps in candidates]
    rewards = [np.array([reward for reward, _ in steps], np.float32) for steps in candidates]
    if aggregate.scores_response:
        rewards = [np.append(own, np.float32(data.draw(some_rewards))) for own in rewards]
    table = Table(readings, rewards)
    ranking, found = bound.best(readings, bound.nothing(readings), count, table.advance)
    assert ranking == brute_force(readings, rewards, count)
    for i, own in enumerate(found):
        assert own.tolist() == rewards[i][: table.read[i]].tolist()
        low, high = readings[i].lowest(own), readings[i].highest(own)
        total = aggregate(rewards[i][: len(readings[i].trace.steps)], float(rewards[i][-1]))
        assert low <= total <= high
        if len(own) == len(rewards[i]):
            assert low == total == high
    assert all(len(found[i]) == len(rewards[i]) for i in ranking)


@given(
    st.lists(st.lists(some_rewards, min_size=1, max_size=7), min_size=1, max_size=9),
    st.sampled_from(AGGREGATES[:5]),
    st.integers(1, 4),
)
def test_what_is_read_further_can_still_be_chosen(
    candidates: list[list[float]], aggregate: Aggregate, count: int
) -> None:
    """The most promising first, WIDTH at once; or one that is half read, to its end."""
    readings = [reading([1] * len(own), aggregate) for own in candidates]
    table = Table(readings, [np.array(own, np.float32) for own in candidates])

    def advance(further: Sequence[tuple[int, int]]) -> list[Rewards]:
        highest = [one.highest(own[:n]) for one, own, n in zip(readings, table.rewards, table.read, strict=True)]
        order = sorted(range(len(readings)), key=lambda i: (-highest[i], i))
        is_open = {i: table.read[i] < readings[i].num_readouts for i in order}
        complete = [i for i in order if not is_open[i]]
        if len(complete) >= count:  # only what stands before the last of the best complete ones
            order = order[: order.index(complete[count - 1])]
        passing = [i for i in order if is_open[i]]
        assert [i for i, _ in further] == passing[: len(further)]
        if len(complete) < count and table.read[passing[0]] >= bound.HALFWAY * readings[passing[0]].num_readouts:
            assert further == [(passing[0], readings[passing[0]].num_readouts)]
        else:
            assert len(further) == min(bound.WIDTH, len(passing))
            assert all(n == table.read[i] + 1 for i, n in further)
        return table.advance(further)

    bound.best(readings, bound.nothing(readings), count, advance)


@pytest.mark.parametrize("aggregate", AGGREGATES[:5], ids=str)
@pytest.mark.parametrize("count", [1, 4])
def test_real_pools(aggregate: Aggregate, count: int) -> None:
    for pool in POOLS:
        readings = [reading(c["tokens"], aggregate) for c in pool["candidates"]]
        rewards = [np.array(c["scores"], np.float32) for c in pool["candidates"]]
        table = Table(readings, rewards)
        ranking, _ = bound.best(readings, bound.nothing(readings), count, table.advance)
        assert ranking == brute_force(readings, rewards, count)


@pytest.mark.parametrize(("aggregate", "at_most"), [("min", 0.6), ("product", 0.65), ("mean", 0.7), ("last", 1.0)])
def test_real_pools_are_not_read_in_vain(aggregate: str, at_most: float) -> None:
    read = everything = 0
    for pool in POOLS:
        readings = [reading(c["tokens"], Aggregate(aggregate)) for c in pool["candidates"]]  # type: ignore[arg-type]
        table = Table(readings, [np.array(c["scores"], np.float32) for c in pool["candidates"]])
        bound.best(readings, bound.nothing(readings), 1, table.advance)
        read += table.tokens
        everything += sum(sum(c["tokens"]) for c in pool["candidates"])
    assert read <= at_most * everything


def test_the_most_promising_is_finished_once_it_is_half_read() -> None:
    """Others are read a step at a time, WIDTH of them at once; the sooner one is complete, the less is read of them."""
    assert (bound.WIDTH, bound.HALFWAY) == (4, 0.5)
    readings = [reading([1] * 6, Aggregate("min")) for _ in range(6)]
    asked: list[list[tuple[int, int]]] = []

    def advance(further: Sequence[tuple[int, int]]) -> list[Rewards]:
        asked.append(list(further))
        return [np.full(number, 0.9 if i == 0 else 0.5, np.float32) for i, number in further]

    ranking, _ = bound.best(readings, bound.nothing(readings), 1, advance)
    assert ranking == [0]
    assert asked == [
        [(0, 1), (1, 1), (2, 1), (3, 1)],
        [(4, 1), (5, 1), (0, 2), (1, 2)],
        [(0, 3), (1, 3), (2, 2), (3, 2)],
        [(0, 6)],
    ]
