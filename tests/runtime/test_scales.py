"""Rewards outside [0, 1]: ranges hold, lazy best-of-N and races choose as if all had been read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rfprm_lite import Aggregate, CustomAggregate, InputError
from rfprm_lite.plan import bound
from rfprm_lite.plan.sequence import Rewards, TokenSequence
from rfprm_lite.scale import Scale
from rfprm_lite.scoring.choose import why_unbounded
from rfprm_lite.scoring.race import Race
from rfprm_lite.scoring.request import Request
from rfprm_lite.trace import Trace
from test_race import TableTrace

NAMES = ("mean", "min", "max", "product", "last", "softmin", "mean+final")
SCALES = (Scale(), Scale(-1.0, 1.0, 0.0), Scale(0.0, 3.0), Scale(-0.5, 0.25), Scale(-math.inf, math.inf, None))

scales = st.sampled_from(SCALES)
aggregates = st.builds(
    Aggregate,
    st.sampled_from(NAMES),
    st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    st.sampled_from(["last", "response"]),
    st.sampled_from([0.01, 0.1, 2.0]),
)


def rewards_of(scale: Scale, most: int = 7) -> st.SearchStrategy[list[float]]:
    low, high = max(scale.low, -50.0), min(scale.high, 50.0)
    return st.lists(st.sampled_from([low, high, 0.125]) | st.floats(low, high, width=32), min_size=1, max_size=most)


@given(scales, aggregates, st.data())
def test_a_reward_lies_in_its_range(scale: Scale, aggregate: Aggregate, data: st.DataObject) -> None:
    rewards = data.draw(rewards_of(scale))
    low, high = aggregate.range_over(scale.range)
    slack = 1e-6 * max(1.0, *map(abs, rewards)) ** len(rewards)
    assert low - slack <= aggregate(np.array(rewards, np.float32), rewards[-1]) <= high + slack


@given(scales, aggregates, st.data())
def test_a_better_step_is_never_worse_where_it_says_so(scale: Scale, aggregate: Aggregate, data: st.DataObject) -> None:
    assume(aggregate.is_monotone(scale.range))
    rewards = np.array(data.draw(rewards_of(scale)), np.float32)
    better = rewards.copy()
    i = data.draw(st.integers(0, len(rewards) - 1))
    better[i] = data.draw(st.floats(float(rewards[i]), max(float(rewards[i]), min(scale.high, 50.0)), width=32))
    before, after = (aggregate(r, float(r[-1])) for r in (rewards, better))
    assert after >= before


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # few of them never rise
@given(scales, aggregates, st.data())
def test_a_further_step_never_raises_it_where_it_says_so(
    scale: Scale, aggregate: Aggregate, data: st.DataObject
) -> None:
    assume(aggregate.never_rises(scale.range))
    rewards = np.array(data.draw(rewards_of(scale)), np.float32)
    longer = np.append(rewards, np.float32(data.draw(rewards_of(scale))[0]))
    assert aggregate(longer, float(longer[-1])) <= aggregate(rewards, float(rewards[-1])) + 1e-9


@given(scales, aggregates, st.data())
def test_where_candidates_are_bounded_the_choice_is_that_of_reading_everything(
    scale: Scale, aggregate: Aggregate, data: st.DataObject
) -> None:
    assume(why_unbounded(aggregate, scale) is None)
    rewards = [np.array(own, np.float32) for own in data.draw(st.lists(rewards_of(scale), min_size=1, max_size=6))]
    requests = [request(len(own), aggregate, scale) for own in rewards]
    if aggregate.scores_response:
        rewards = [np.append(own, own[0]) for own in rewards]

    def advance(further: Sequence[tuple[int, int]]) -> list[Rewards]:
        return [rewards[i][:number] for i, number in further]

    count = data.draw(st.integers(1, len(rewards)))
    ranking, found = bound.best(requests, bound.nothing(requests), count, advance)
    totals = [aggregate(own[: len(r.trace.steps)], float(own[-1])) for r, own in zip(requests, rewards, strict=True)]
    assert ranking == sorted(range(len(totals)), key=lambda i: (-totals[i], i))[:count]
    for r, own, total in zip(requests, found, totals, strict=True):
        assert r.lowest(own) <= total <= r.highest(own)


def request(steps: int, aggregate: Aggregate, scale: Scale) -> Request:
    ends = np.array([*accumulate([3] * steps)])
    sequences = [TokenSequence(np.zeros(ends[-1], np.int64), ends - 1)]
    if aggregate.scores_response:
        sequences.append(TokenSequence(np.zeros(30, np.int64), np.array([29])))
    return Request(Trace.from_steps([str(n) for n in range(steps)]), tuple(sequences), aggregate, scale)


@pytest.mark.parametrize(
    ("aggregate", "scale", "reason"),
    [
        (Aggregate("mean"), SCALES[0], None),
        (Aggregate("mean"), SCALES[1], None),
        (Aggregate("mean"), SCALES[4], "nothing bounds"),
        (Aggregate("last"), SCALES[4], "nothing bounds"),
        (Aggregate("min"), SCALES[4], None),
        (Aggregate("product"), SCALES[0], None),
        (Aggregate("product"), SCALES[1], "product may fall"),
        (Aggregate("softmin"), SCALES[0], "softmin may fall"),
        (CustomAggregate(lambda r: float(r.max()), monotone=True), SCALES[0], None),
        (CustomAggregate(lambda r: float(r.max()), monotone=True), SCALES[4], "nothing bounds"),
    ],
    ids=str,
)
def test_why_candidates_are_not_bounded(aggregate: Aggregate, scale: Scale, reason: str | None) -> None:
    found = why_unbounded(aggregate, scale)
    assert found is None if reason is None else reason in str(found)


class OnScale(TableTrace):
    """A trace of rewards on another scale than probabilities'."""

    def __init__(self, aggregate: Aggregate, scale: Scale) -> None:
        super().__init__(aggregate)
        self.scale = scale

    def fork(self) -> OnScale:
        other = OnScale(self.aggregate, self.scale)  # type: ignore[arg-type]
        other.steps = self.steps
        return other


def race(aggregate: Aggregate, scale: Scale, count: int, max_steps: int | None) -> Race:
    return Race(OnScale(aggregate, scale), count, aggregate, max_steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", SCALES)
def test_a_race_refuses_softmin(scale: Scale) -> None:
    with pytest.raises(InputError, match="softmin may fall"):
        race(Aggregate("softmin"), scale, 2, 5)


@pytest.mark.parametrize("aggregate", [Aggregate("mean"), Aggregate("last"), Aggregate("mean+final", 0.0)], ids=str)
def test_without_a_bound_all_stay_alive_in_a_race(aggregate: Aggregate) -> None:
    racing = race(aggregate, SCALES[4], 3, 2)
    racing.extend({0: "40", 1: "-7", 2: "1"})
    racing.finish(0)
    assert list(racing.alive) == [0, 1, 2]
    racing.finish(1)
    assert list(racing.alive) == [0, 2]
    racing.extend({2: "90"})
    racing.finish(2)
    assert racing.winner == 2


@given(st.sampled_from(SCALES[1:]), st.data())
def test_who_is_out_of_a_race_could_not_have_won(scale: Scale, data: st.DataObject) -> None:
    aggregate = data.draw(aggregates.filter(lambda a: a.is_monotone(scale.range) and not a.scores_response))
    rewards = data.draw(st.lists(rewards_of(scale, 4), min_size=2, max_size=4))
    racing = race(aggregate, scale, len(rewards), 4)
    out: set[int] = set()
    for step in range(4):
        for i, own in enumerate(rewards):
            if step < len(own):
                racing.append(i, repr(float(own[step])))
            if step == len(own) - 1:
                racing.finish(i)
        out |= set(range(len(rewards))) - set(racing.alive)
    assert racing.winner is not None
    assert racing.winner not in out
    totals = [aggregate(np.array(own, np.float32), float(np.float32(own[-1]))) for own in rewards]
    assert racing.winner == int(np.argmax(totals))
