"""Aggregates: their values, their ranges, their laws."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rfprm_lite import Aggregate, CustomAggregate, InputError
from rfprm_lite.aggregate import as_aggregate
from rfprm_lite.errors import InputTypeError

REWARDS = np.array([0.5, 0.9, 0.2, 0.8], np.float32)
unit = st.floats(0, 1, width=32)
aggregates = st.builds(
    Aggregate,
    st.sampled_from(["mean", "min", "product", "last", "mean+final"]),
    st.floats(0, 10),
    st.sampled_from(["last", "response"]),
)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (Aggregate("mean"), 0.6),
        (Aggregate("min"), 0.2),
        (Aggregate("product"), 0.5 * 0.9 * 0.2 * 0.8),
        (Aggregate("last"), 0.8),
        (Aggregate("mean+final"), 0.6 + 0.7),
        (Aggregate("mean+final", alpha=0.5), 0.6 + 0.35),
    ],
)
def test_values(aggregate: Aggregate, expected: float) -> None:
    assert aggregate(REWARDS, 0.7) == pytest.approx(expected, abs=1e-7)


@given(aggregates, st.lists(unit, min_size=1, max_size=40), unit)
def test_a_reward_lies_in_its_range(aggregate: Aggregate, rewards: list[float], final: float) -> None:
    low, high = aggregate.range_over()
    assert low <= aggregate(np.array(rewards, np.float32), final) <= high + 1e-9


@given(aggregates)
def test_the_range_is_no_wider_than_what_rewards_reach(aggregate: Aggregate) -> None:
    found = tuple(aggregate(np.array([reward] * 3, np.float32), reward) for reward in (0.0, 1.0))
    assert found == aggregate.range_over()


@given(aggregates, st.lists(unit, min_size=1, max_size=20), unit, st.data())
def test_a_better_step_is_never_worse(
    aggregate: Aggregate, rewards: list[float], final: float, data: st.DataObject
) -> None:
    i = data.draw(st.integers(0, len(rewards) - 1))
    better = [*rewards]
    better[i] = data.draw(st.floats(rewards[i], 1, width=32))
    before, after = (aggregate(np.array(r, np.float32), final) for r in (rewards, better))
    assert after >= before - 1e-12


def test_names() -> None:
    default = Aggregate("product", alpha=0.3, final="response")
    assert as_aggregate(None, default) is default
    assert as_aggregate("mean+final", default) == Aggregate("mean+final", 0.3, "response")
    assert str(Aggregate("mean+final", 0.5)) == "mean + 0.5 * last"
    for name in ("mean", "min", "product", "last"):
        assert str(as_aggregate(name, default)) == name


def test_the_response_is_read_again_where_it_is_the_final_reward() -> None:
    assert Aggregate("mean", final="response").scores_response is True
    assert Aggregate("mean+final", final="last").scores_response is False


def test_an_aggregate_is_a_value() -> None:
    assert len({Aggregate("mean"), Aggregate("mean", 1.0, "last")}) == 1
    with pytest.raises(AttributeError):
        Aggregate("mean").alpha = 2.0  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="weight"):
        msgspec.convert({"name": "mean", "weight": 1.0}, Aggregate)


def test_what_is_no_aggregate() -> None:
    with pytest.raises(InputError, match="'median'.*mean, min"):
        as_aggregate("median", Aggregate("mean"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alpha=-1"):
        Aggregate("mean+final", alpha=-1)
    for alpha in ("nan", "inf"):
        with pytest.raises(InputError, match=f"alpha={alpha}"):
            Aggregate("mean+final", alpha=float(alpha))
    with pytest.raises(InputError, match="final='first'"):
        Aggregate("mean+final", final="first")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="int"):
        as_aggregate(3, Aggregate("mean"))  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9))
def test_a_function_is_an_aggregate_of_step_rewards_alone(values: list[float]) -> None:
    rewards = np.array(values, np.float32)

    def largest(step_rewards: NDArray[np.float32]) -> float:
        return float(step_rewards.max())

    custom = as_aggregate(largest, Aggregate("mean"))
    assert isinstance(custom, CustomAggregate)
    assert custom(rewards, 0.3) == max(rewards)
    assert (str(custom), custom.monotone, custom.reward_range, custom.scores_response) == (
        "largest",
        False,
        None,
        False,
    )
    declared = CustomAggregate(largest, monotone=True, reward_range=(0, 1))
    assert as_aggregate(declared, Aggregate("mean")) is declared
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="finite"):
            CustomAggregate(lambda _rewards, wrong=wrong: float(wrong))(rewards, 0)  # type: ignore[misc]
