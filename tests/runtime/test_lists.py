"""Arrays and columns work wherever a list does; what only looks like a list says what to pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rfprm_lite import PRM, Trace
from rfprm_lite.errors import InputTypeError

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
STEPS = ["Tom now has 12 + 5 = 17 apples.", "The answer is 17."]
ASKED = [{"role": "user", "content": PROBLEM}]


class Column:
    """A column as pandas, Polars and PyArrow have them: iterable, no Sequence, with a method that gives a list."""

    def __init__(self, values: list[Any], method: str) -> None:
        self._values = values
        setattr(self, method, lambda: list(values))

    def __iter__(self) -> Iterator[Any]:
        return iter([object()] * len(self._values))  # PyArrow gives scalars of its own


def arrayed(values: list[Any]) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


SHAPES: list[Callable[[list[Any]], Any]] = [
    tuple,
    arrayed,
    lambda values: Column(values, "tolist"),
    lambda values: Column(values, "to_list"),
    lambda values: Column(values, "to_pylist"),
    lambda values: dict(enumerate(values)).values(),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_works_as_a_list(prm: PRM, shape: Callable[[list[Any]], Any]) -> None:
    expected = prm.score(PROBLEM, steps=STEPS)
    assert prm.score(PROBLEM, steps=shape(STEPS)).step_rewards.tolist() == expected.step_rewards.tolist()
    assert prm.score(shape(ASKED), steps=STEPS).step_rewards.tolist() == expected.step_rewards.tolist()
    assert prm.best_of_n(PROBLEM, shape(["1", "\n\n".join(STEPS)])).score.reward == expected.reward
    assert prm.score_many(shape([shape([PROBLEM, "\n\n".join(STEPS)])]))[0].reward == expected.reward
    assert [step.text for step in Trace.from_steps(shape(STEPS)).steps] == STEPS


def test_generators_are_read_once(prm: PRM) -> None:
    expected = prm.score(PROBLEM, steps=STEPS).reward
    assert prm.score(PROBLEM, steps=(step for step in STEPS)).reward == expected
    assert prm.best_of_n(ASKED, (text for text in ["1", "\n\n".join(STEPS)])).score.reward == expected
    with pytest.raises(InputTypeError, match="more than once.*generator"):
        prm.best_of_n((message for message in ASKED), STEPS)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"first": STEPS[0]}, r"dict, whose keys.*list\(its.values\(\)\)"),
        (set(STEPS), "set, which has no order"),
        (SimpleNamespace(columns=["a"]), "table.*one column"),
        (STEPS[0], "come in a list, not in one str"),
        (b"bytes", "not in one bytes"),
        (np.array("0-d"), "ndarray|str"),
        (3, "int"),
        (None, "NoneType"),
    ],
)
def test_what_only_looks_like_a_list(prm: PRM, wrong: Any, said: str) -> None:
    with pytest.raises(InputTypeError, match=said):
        prm.best_of_n(PROBLEM, wrong)
    with pytest.raises(InputTypeError, match=said):
        Trace.from_steps(wrong)
    with pytest.raises(InputTypeError, match=said):
        prm.score_many(wrong)
    with pytest.raises(InputTypeError, match=said):
        prm.score_many(wrong, on_error="return")


@pytest.mark.parametrize("response", [STEPS, tuple(STEPS), arrayed(STEPS), ASKED[0], {"a": STEPS}])
def test_a_list_in_the_responses_place_says_both_ways(prm: PRM, response: Any) -> None:
    for call in (
        lambda: prm.score(PROBLEM, response),
        lambda: prm.score_many([(PROBLEM, response)]),
        lambda: prm.best_of_n(PROBLEM, [response]),
    ):
        with pytest.raises(InputTypeError, match=rf"{type(response).__name__}.*steps=\[\.\.\.\].*best_of_n"):
            call()


def test_a_splitter_named_at_loading_holds_for_every_call(prm: PRM) -> None:
    by_lines = PRM.from_pretrained("demo", splitter="lines")
    text = "\n".join(STEPS)
    expected = prm.score(PROBLEM, steps=STEPS).step_rewards.tolist()
    assert by_lines.score(PROBLEM, text).step_rewards.tolist() == expected
    assert by_lines.score_many([(PROBLEM, text)])[0].step_rewards.tolist() == expected
    assert by_lines.best_of_n(PROBLEM, [text]).score.step_rewards.tolist() == expected
    assert len(prm.score(PROBLEM, text).steps) == 1
    with pytest.raises(ValueError, match="'lines' meant"):
        PRM.from_pretrained("demo", splitter="line")
