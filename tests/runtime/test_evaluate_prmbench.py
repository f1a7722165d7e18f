"""PRMScore against counts by hand, and against the authors' own table."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import labelled
from rfprm_lite import InputError
from rfprm_lite.evaluate import Result
from rfprm_lite.evaluate.prmbench import CATEGORIES, CLASSES, f1, negative_f1, score


def test_counts_by_hand() -> None:
    """Of five right steps four are kept, of three wrong ones two are caught."""
    judged = labelled(
        "prmbench",
        [([True, True, False], [0.9, 0.5, 0.2]), ([True, False, False, True, True], [0.8, 0.1, 0.6, 0.9, 0.4])],
        ["circular", "redundency"],
    )
    found = Result(judged)
    of_right, of_wrong = 2 * 4 / (2 * 4 + 1 + 1), 2 * 2 / (2 * 2 + 1 + 1)
    assert found.value("prmbench", "f1") == pytest.approx(of_right)
    assert found.value("prmbench", "negative_f1") == pytest.approx(of_wrong)
    assert found.value("prmbench", "score") == pytest.approx((of_right + of_wrong) / 2)
    assert found.value("prmbench", "classes", "NCL") == 1
    nr = (2 * 2 / (2 * 2 + 1 + 1) + 2 * 1 / (2 * 1 + 1 + 1)) / 2
    assert found.value("prmbench", "classes", "NR") == pytest.approx(nr)
    assert found.value("prmbench", "categories", "simplicity") == pytest.approx((1 + nr) / 2)
    assert found.value("prmbench", "categories", "soundness") is None


def test_a_class_without_wrong_steps_has_the_score_of_right_ones() -> None:
    found = Result(labelled("prmbench", [([True, True], [0.9, 0.1])], ["multi_solutions"]))
    assert found.value("prmbench", "classes", "MS") == pytest.approx(2 / 3)


def test_the_authors_numbers() -> None:
    """ssmisya/PRMBench, form_excel_strs.ipynb: F1, F1 of wrong steps and PRMScore of three PRMs, in percent."""
    for right, wrong, whole in ((90.8, 29.2, 60.0), (83.8, 37.2, 60.5), (64.9, 29.2, 47.0)):
        assert (right + wrong) / 2 == pytest.approx(whole, abs=0.051)
    counts = np.array([[80.0, 10.0, 5.0, 5.0]])
    precision, recall = 80 / 85, 80 / 90
    assert f1(counts)[0] == pytest.approx(2 * precision * recall / (precision + recall))
    precision, recall = 5 / 15, 5 / 10
    assert negative_f1(counts)[0] == pytest.approx(2 * precision * recall / (precision + recall))
    assert score(counts)[0] == pytest.approx((f1(counts)[0] + negative_f1(counts)[0]) / 2)


def test_every_class_has_a_category() -> None:
    assert sorted(name for names in CATEGORIES.values() for name in names) == sorted(CLASSES.values())


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(InputError, match="no class 'other'"):
        _ = Result(labelled("prmbench", [([True], [0.9])], ["other"])).numbers
