"""Races: the winner is that of finishing all of them, and who is out could not have won."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rfprm_lite import Aggregate, InputError
from rfprm_lite.aggregate import AnyAggregate, CustomAggregate
from rfprm_lite.plan.usage import Usage
from rfprm_lite.results import Score
from rfprm_lite.scale import PROBABILITY
from rfprm_lite.scoring.race import Race

POOLS = json.loads((Path(__file__).parent / "data" / "step_scores.json").read_text(encoding="utf-8"))["pools"]
MOST = 12


class TableTrace:
    """A live trace whose rewards are known beforehand: a step is its own reward, written as text."""

    scale = PROBABILITY

    def __init__(self, aggregate: AnyAggregate, final: float | None = None) -> None:
        self.aggregate = aggregate
        self.steps: tuple[str, ...] = ()
        self.final = final

    def append(self, step: str) -> float:
        return self.append_all({0: (self, step)})[0]

    def fork(self) -> TableTrace:
        other = TableTrace(self.aggregate, self.final)
        other.steps = self.steps
        return other

    @property
    def step_rewards(self) -> tuple[float, ...]:
        return tuple(float(step) for step in self.steps)

    def score(self) -> Score:
        rewards = np.array(self.step_rewards, np.float32)
        final = float(rewards[-1]) if self.final is None else self.final
        return Score(rewards, self.aggregate, (), Usage(0, 0), self.aggregate(rewards, final), final)

    @staticmethod
    def append_all(steps: dict[int, tuple[TableTrace, str]], *, thinking: bool = False) -> dict[int, float]:
        for trace, step in steps.values():
            trace.steps += (step,)
        return {i: float(step) for i, (_, step) in steps.items()}


def lowest_two(rewards: NDArray[np.float32]) -> float:
    """Monotone: the sum of the two lowest, a missing one being 1."""
    return float(np.sort(np.append(rewards, np.float32(1)))[:2].astype(np.float64).sum())


AGGREGATES: list[AnyAggregate] = [
    *(Aggregate(name) for name in ("mean", "min", "product", "last")),
    Aggregate("mean+final", 1.0),
    Aggregate("mean+final", 0.4, "response"),
    CustomAggregate(lowest_two, monotone=True),
]
rewards = st.sampled_from([0.0, 1.0, 0.5, 0.1, 0.3, 1 / 3, 0.999]) | st.floats(0, 1, width=32)
candidates = st.lists(st.lists(rewards.map(np.float32), min_size=1, max_size=MOST), min_size=1, max_size=6)


def new_race(aggregate: AnyAggregate, count: int, final: float = 0.7, max_steps: int | None = MOST) -> Race:
    how = final if isinstance(aggregate, Aggregate) and aggregate.final == "response" else None
    return Race(TableTrace(aggregate, how), count, aggregate, max_steps)  # type: ignore[arg-type]


def totals(pool: Sequence[Sequence[np.float32]], aggregate: AnyAggregate, final: float = 0.7) -> list[float]:
    scores_response = isinstance(aggregate, Aggregate) and aggregate.final == "response"
    return [aggregate(np.array(one, np.float32), final if scores_response else float(one[-1])) for one in pool]


@given(candidates, st.sampled_from(AGGREGATES), st.booleans(), st.data())
def test_the_winner_is_that_of_finishing_all(
    pool: list[list[np.float32]], aggregate: AnyAggregate, known: bool, data: st.DataObject
) -> None:
    """Candidates grow in any order; those that are out grow no further."""
    never_rises = isinstance(aggregate, Aggregate) and aggregate.name in ("min", "product")
    race = new_race(aggregate, len(pool), max_steps=MOST if known or not never_rises else None)
    full = totals(pool, aggregate)
    best = min(range(len(pool)), key=lambda i: (-full[i], i))
    growing = list(range(len(pool)))
    before = set(growing)
    while race.winner is None:
        alive = set(race.alive)
        assert best in alive <= before  # nobody comes back
        before = alive
        i = data.draw(st.sampled_from([i for i in growing if i in alive]))
        done = len(race.trace(i).steps)
        if done < len(pool[i]):
            assert race.append(i, repr(float(pool[i][done]))) == pool[i][done]
        else:
            assert race.finish(i).reward == full[i]
            growing.remove(i)
    assert race.winner == best
    assert race.alive == (best,)
    assert race.scores[best].reward == full[best]


@given(candidates, st.sampled_from(AGGREGATES), st.data())
def test_bounds_hold_to_the_last_bit(
    pool: list[list[np.float32]], aggregate: AnyAggregate, data: st.DataObject
) -> None:
    race = new_race(aggregate, 1)
    (steps,) = pool[:1]
    total = totals([steps], aggregate)[0]
    for step in steps:
        assert race._candidates[0].highest >= total
        race.append(0, repr(float(step)))
    assert race._candidates[0].highest >= total


@pytest.mark.parametrize(("name", "at_least"), [("min", 0.15), ("product", 0.15), ("mean", 0.05)])
def test_real_pools_save_tokens_of_the_generator(name: str, at_least: float) -> None:
    """All candidates grow by a step at a time; who is out writes no more."""
    written = everything = 0
    aggregate = Aggregate(name)  # type: ignore[arg-type]
    for pool in POOLS:
        steps = [one["scores"] for one in pool["candidates"]]
        tokens = [one["tokens"] for one in pool["candidates"]]
        race = new_race(aggregate, len(steps), max_steps=max(map(len, steps)))
        everything += sum(map(sum, tokens))
        while race.winner is None:
            for i in race.alive:
                done = len(race.trace(i).steps)
                if i in race.scores or i not in race.alive:
                    continue
                if done == len(steps[i]):
                    race.finish(i)
                else:
                    written += tokens[i][done]
                    race.append(i, repr(float(np.float32(steps[i][done]))))
        full = totals([np.array(one, np.float32) for one in steps], aggregate)  # type: ignore[misc]
        assert race.winner == int(np.argmax(full))
    assert 1 - written / everything >= at_least


def test_wrong_uses_are_named_and_change_nothing() -> None:
    with pytest.raises(InputError, match="max_steps"):
        new_race(Aggregate("mean"), 2, max_steps=None)
    with pytest.raises(InputError, match="monotone"):
        new_race(CustomAggregate(lowest_two), 2)
    for wrong in (0, 2.5):
        with pytest.raises(InputError, match="n="):
            new_race(Aggregate("min"), wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_steps=0"):
        new_race(Aggregate("min"), 2, max_steps=0)
    race = new_race(Aggregate("min"), 2, max_steps=1)
    race.append(0, "0.5")
    with pytest.raises(InputError, match="candidate 0"):
        race.append(0, "0.4")
    with pytest.raises(InputError, match="candidate 2"):
        race.append(2, "0.4")
    with pytest.raises(InputError, match="candidate 0"):
        race.extend({1: "0.9", 0: "0.4"})
    assert [race.trace(i).steps for i in range(2)] == [("0.5",), ()]
    with pytest.raises(InputError, match="candidate 1.0"):
        race.append(1.0, "0.4")  # type: ignore[arg-type]
    race.trace(1).append("0.1")  # a fork: the race does not see it
    assert race.trace(1).steps == ()
    race.finish(0)
    with pytest.raises(InputError, match="finished"):
        race.finish(0)
    with pytest.raises(InputError, match="finished"):
        race.append(0, "0.4")
    assert race.extend({}) == {}
    assert (race.alive, race.winner) == ((0, 1), None)
    race.append(1, "0.5")
    assert (race.alive, race.winner) == ((0,), 0)  # a tie goes to the first


def test_an_aggregate_that_fails_leaves_the_race_as_it_was() -> None:
    def log(rewards: NDArray[np.float32]) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(rewards.astype(float)).sum())

    race = new_race(CustomAggregate(log, monotone=True), 2)
    race.extend({0: "0.5", 1: "0.4"})
    with pytest.raises(InputError, match="-inf"):
        race.extend({1: "0.9", 0: "0.0"})
    assert [race.trace(i).steps for i in range(2)] == [("0.5",), ("0.4",)]
