"""Labelled steps: AUC, average precision, Brier score and calibration against their definitions and by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import labelled
from rfprm_lite.evaluate import Result
from rfprm_lite.evaluate.statistics import estimate, mean
from rfprm_lite.evaluate.steps import LabelledSteps, keeping, reliability

STEPS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=20)


def result(steps: list[tuple[float, bool]]) -> Result:
    return Result(labelled("steps", [([right], [reward]) for reward, right in steps]))


@given(STEPS)
def test_auc_is_the_share_of_pairs_in_order(steps: list[tuple[int, bool]]) -> None:
    right, wrong = ([reward for reward, label in steps if label is kind] for kind in (True, False))
    found = result([(reward / 6, label) for reward, label in steps]).value("steps", "auc")
    if right and wrong:
        pairs = [(r > w) + (r == w) / 2 for r, w in product(right, wrong)]
        assert found == pytest.approx(np.mean(pairs))
    else:
        assert found is None


@given(STEPS)
def test_average_precision_is_the_mean_over_its_steps(steps: list[tuple[int, bool]]) -> None:
    """Each right step brings the precision among all steps of at least its reward; wrong steps, of at most theirs."""
    found = result([(reward / 6, label) for reward, label in steps])
    for name, kind, sign in (("right", True, 1), ("wrong", False, -1)):
        precisions = []
        for reward, label in steps:
            if label is kind:
                above = [other is kind for r, other in steps if sign * r >= sign * reward]
                precisions.append(np.mean(above))
        expected = np.mean(precisions) if precisions else None
        assert found.value("steps", f"average_precision_{name}") == (
            None if expected is None else pytest.approx(expected)
        )


def test_brier_and_calibration_by_hand() -> None:
    """Two bins: rewards .92 and .98, one of them right; .12, wrong."""
    found = result([(0.92, True), (0.98, False), (0.12, False)])
    assert found.value("steps", "brier") == pytest.approx((0.08**2 + 0.98**2 + 0.12**2) / 3)
    assert found.value("steps", "calibration_error") == pytest.approx(2 / 3 * (0.95 - 0.5) + 1 / 3 * 0.12)
    bins = [one for one in reliability(found.labelled) if one.steps]
    assert [(one.low, one.steps, one.right) for one in bins] == [(0.1, 1, 0.0), (0.9, 2, 0.5)]
    assert bins[1].reward == pytest.approx(0.95)


def test_a_perfect_judge_and_a_constant_one() -> None:
    labels = [True, False, True, True]
    perfect = result([(float(label), label) for label in labels])
    for name, value in (("auc", 1), ("average_precision_wrong", 1), ("brier", 0), ("calibration_error", 0)):
        assert perfect.value("steps", name) == value, name
    constant = result([(0.75, label) for label in labels])
    assert constant.value("steps", "auc") == 0.5
    assert constant.value("steps", "average_precision_right") == 0.75
    assert constant.value("steps", "calibration_error") == 0


def test_rewards_that_are_no_probabilities_have_no_calibration() -> None:
    found = result([(1.5, True), (-2.0, False)])
    assert found.value("steps", "auc") == 1
    assert found.value("steps", "brier") is None
    assert found.to_dict()["reliability"] == []


def test_the_threshold_that_keeps_a_share_of_right_steps() -> None:
    rewards = [(i / 10, True) for i in range(10)] + [(0.05, False), (0.25, False), (0.9, False)]
    labelled_steps = LabelledSteps.of(result(rewards).judged)
    kept = keeping(labelled_steps, 0.8)
    assert kept == {"threshold": 0.2, "right_kept": 0.8, "wrong_caught": pytest.approx(1 / 3)}
    assert (keeping(labelled_steps, 1.0) or {})["threshold"] == 0
    assert keeping(LabelledSteps.of(result([(0.5, True)]).judged), 0.9) is None


def test_unknown_labels_do_not_count() -> None:
    found = Result(labelled("steps", [([True, False, None], [0.9, 0.1, 0.95])]))
    assert found.value("steps", "auc") == 1
    assert len(found.labelled.rewards) == 2


def test_intervals_are_of_problems_not_of_steps() -> None:
    """Ten steps of one problem say no more than one: with one problem the interval has no width."""
    values = np.array([0.0, 1.0] * 5)
    alone = estimate(mean(values, np.zeros(10, np.intp), 1), 1)
    assert (alone.value, alone.low, alone.high) == (0.5, 0.5, 0.5)
    many = estimate(mean(np.tile(values, 40), np.arange(400), 400), 400)
    assert many.value == 0.5
    assert many.half_width == pytest.approx(1.96 * np.sqrt(0.25 / 400), rel=0.15)  # the normal approximation
