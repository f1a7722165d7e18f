"""ProcessBench's numbers against a table worked out by hand, and the threshold against trying all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import labelled
from rfprm_lite import PRM, InputError
from rfprm_lite.evaluate import Candidate, Item, Result, evaluate
from rfprm_lite.evaluate.processbench import best_threshold, first_below
from rfprm_lite.evaluate.report import facts
from rfprm_lite.evaluate.run import with_threshold_of
from rfprm_lite.scale import Scale

T, F, N = True, False, None
TABLE: list[tuple[list[bool | None], list[float], bool, bool]] = [
    # labels, rewards, whether it is judged as it is at 0.5, and at 0.7
    ([T, F, N], [0.9, 0.2, 0.9], True, True),
    ([T, F, N], [0.6, 0.2, 0.9], True, False),  # at 0.7 the first step is taken for wrong
    ([F, N], [0.5, 0.1], False, True),  # 0.5 is not below 0.5
    ([T, T, F], [0.9, 0.8, 0.8], False, False),
    ([T, T], [0.9, 0.8], True, True),
    ([T], [0.6], True, False),
    ([T, T], [0.9, 0.4], False, False),
]
WRONG, RIGHT = 4, 3


@pytest.mark.parametrize(("threshold", "column"), [(0.5, 2), (0.7, 3)])
def test_a_table_by_hand(threshold: float, column: int) -> None:
    found = Result(labelled("processbench", [(row[0], row[1]) for row in TABLE]), threshold)
    wrong = sum(bool(row[column]) for row in TABLE[:WRONG]) / WRONG
    right = sum(bool(row[column]) for row in TABLE[WRONG:]) / RIGHT
    assert found.value("processbench", "wrong") == pytest.approx(wrong)
    assert found.value("processbench", "right") == pytest.approx(right)
    assert found.value("processbench", "f1") == pytest.approx(2 * wrong * right / (wrong + right))


def test_the_table_by_hand_as_numbers() -> None:
    """Of four wrong solutions two, of three right ones two: F1 is 2 * (1/2 * 2/3) / (1/2 + 2/3) = 4/7."""
    assert Result(labelled("processbench", [(row[0], row[1]) for row in TABLE])).value(
        "processbench", "f1"
    ) == pytest.approx(4 / 7)


def test_no_number_where_there_is_no_solution_of_a_kind() -> None:
    found = Result(labelled("processbench", [([T], [0.9])]))
    assert found.value("processbench", "right") == 1
    assert found.value("processbench", "wrong") is None
    assert found.value("processbench", "f1") is None
    none_found = Result(labelled("processbench", [([T], [0.1]), ([F], [0.9])]))
    assert none_found.value("processbench", "f1") == 0


def test_a_perfect_judge() -> None:
    labels: list[list[bool | None]] = [[T, F, N], [T, T], [F]]
    assert Result(labelled("processbench", [(some, [float(x or 0) for x in some]) for some in labels])).value(
        "processbench", "f1"
    ) == pytest.approx(1)


TRACES = st.lists(
    st.lists(st.integers(0, 5), min_size=1, max_size=4).flatmap(
        lambda rewards: st.tuples(st.just(rewards), st.integers(-1, len(rewards) - 1))
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=15)  # each threshold costs a bootstrap
@given(TRACES)
def test_the_best_threshold_is_the_best_of_all(traces: list[tuple[list[int], int]]) -> None:
    judged = labelled(
        "processbench",
        [
            ([T] * len(r) if first < 0 else [*[T] * first, F, *[N] * (len(r) - first - 1)], [x / 5 for x in r])
            for r, first in traces
        ],
    )
    firsts = {first < 0 for _, first in traces}
    if firsts != {True, False}:
        with pytest.raises(InputError, match="wrong and right solutions are needed"):
            best_threshold(judged)
        return
    everywhere = [Result(judged, t).value("processbench", "f1") or 0.0 for t in np.linspace(-0.1, 1.1, 7)]
    chosen = Result(judged, best_threshold(judged)).value("processbench", "f1")
    assert chosen == pytest.approx(max(everywhere))


def test_the_threshold_of_one_set_is_applied_to_the_others_alone() -> None:
    first = labelled("processbench", [([T], [0.3]), ([F], [0.2])], name="first")
    second = labelled("processbench", [([T], [0.3]), ([F], [0.1])], name="second")
    chosen, applied = with_threshold_of([Result(first), Result(second)], "first")
    assert (chosen.threshold, chosen.chosen_on) == (0.5, None)
    assert applied.threshold == pytest.approx(0.25)
    assert applied.chosen_on == "first"
    assert chosen.value("processbench", "f1") == 0
    assert applied.value("processbench", "f1") == 1
    with pytest.raises(InputError, match="there are first, second"):
        with_threshold_of([Result(first), Result(second)], "third")


def test_evaluate_in_python(prm: PRM) -> None:
    problem = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
    right = ("Tom now has 12 + 5 = 17 apples.", "The answer is 17.")
    wrong = ("Tom now has 12 + 5 = 27 apples.", "The answer is 27.")
    items = [
        Item(1, problem, (Candidate(right, (True, True)),)),
        Item(2, problem, (Candidate(wrong, (False, None)),)),
    ]
    found = evaluate(prm, items)
    assert found.value("processbench", "f1") == 1
    assert found.judged.units[1] == 1  # one problem
    assert found.judged.cost.tokens.reused > 0
    with pytest.raises(InputError, match="no items"):
        evaluate(prm, [])
    with pytest.raises(InputError, match="can't be told"):
        evaluate(prm, [Item(1, problem, (Candidate(right),))])


def test_first_below() -> None:
    assert first_below(np.array([0.5, 0.4]), 0.5) == 1
    assert first_below(np.array([0.5]), 0.5) is None


def test_a_judge_without_a_threshold_has_no_f1_until_one_is_given() -> None:
    """An outcome model's rewards lie anywhere, and no number of its own says which are good."""
    judged = labelled("processbench", [([T, F], [2.0, -1.0]), ([T], [3.0])])
    anywhere = replace(judged, scale=Scale(-np.inf, np.inf, None))
    assert Result(anywhere).value("processbench", "f1") is None
    assert Result(anywhere).value("steps", "auc") == 1
    assert "no threshold" in facts(Result(anywhere))
    assert Result(anywhere, 0.0).value("processbench", "f1") == 1
    (chosen, applied) = with_threshold_of(
        [Result(anywhere), Result(replace(anywhere, items=replace(judged.items, name="other")))], "set"
    )
    assert chosen.threshold is None
    assert applied.value("processbench", "f1") == 1
