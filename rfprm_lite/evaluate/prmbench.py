"""PRMBench, arXiv 2501.03124: are wrong steps of nine classes found?

A step is taken for right where its reward is at least the threshold. PRMScore is the mean of two F1: with right steps
as the positive ones, and with wrong steps (ssmisya/PRMBench, mr_eval/tasks/prmtest_classified/task.py and
mr_visualize/eval_res_view/draw_tabs/form_excel_strs.ipynb). All steps of a class, or of all, are counted together. A
class without wrong steps (MS) has no second F1: its score is the first one, as in the authors' table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rfprm_lite.errors import InputError
from rfprm_lite.evaluate.judged import Judged
from rfprm_lite.evaluate.statistics import Numbers, Statistic, Statistics, ratio

CLASSES = {
    "redundency": "NR",
    "circular": "NCL",
    "counterfactual": "ES",
    "step_contradiction": "SC",
    "domain_inconsistency": "DC",
    "confidence": "CI",
    "missing_condition": "PS",
    "deception": "DR",
    "multi_solutions": "MS",
}
"""The class of a row, as it is written there, and its name in the authors' table."""
CATEGORIES = {
    "simplicity": ("NR", "NCL"),
    "soundness": ("ES", "SC", "DC", "CI"),
    "sensitivity": ("PS", "DR", "MS"),
}
"""Each category's score is the mean of its classes' scores."""


def statistics(judged: Judged, threshold: float | None) -> Statistics:
    """PRMScore of all steps, of each class and each category; no numbers without a threshold.

    Raises:
        InputError: If a row has an unknown class.
    """
    if threshold is None:
        return {}
    names = np.array([_name(item.group) for item in judged.items.items])
    counts = _counts(judged, threshold)
    unit, problems = judged.units

    def summed(chosen: Numbers) -> Statistic:
        totals = np.stack([np.bincount(unit, column * chosen, problems) for column in counts.T], axis=1)
        return lambda weights: weights @ totals

    everything = summed(np.ones(len(names)))
    found: dict[tuple[str, ...], Statistic] = {
        ("prmbench", "score"): _of(everything, score),
        ("prmbench", "f1"): _of(everything, f1),
        ("prmbench", "negative_f1"): _of(everything, negative_f1),
    }
    classes = {
        name: _of(summed((names == name).astype(np.float64)), score)
        for name in CLASSES.values()
        if (names == name).any()
    }
    found |= {("prmbench", "classes", name): statistic for name, statistic in classes.items()}
    for category, members in CATEGORIES.items():
        if all(name in classes for name in members):
            found["prmbench", "categories", category] = _average([classes[name] for name in members])
    return found


def score(counts: Numbers) -> Numbers:
    """PRMScore of counts [k, 4]: right steps taken for right, and for wrong; wrong ones for wrong, and for right."""
    no_wrong_steps = counts[:, 2] + counts[:, 3] == 0
    return np.where(no_wrong_steps, f1(counts), (f1(counts) + negative_f1(counts)) / 2)


def f1(counts: Numbers) -> Numbers:
    """F1 of finding right steps."""
    return _f1(counts[:, 0], counts[:, 3], counts[:, 1])


def negative_f1(counts: Numbers) -> Numbers:
    """F1 of finding wrong steps."""
    return _f1(counts[:, 2], counts[:, 1], counts[:, 3])


def _f1(true: Numbers, false: Numbers, missed: Numbers) -> Numbers:
    return ratio(2 * true, 2 * true + false + missed)


def _counts(judged: Judged, threshold: float) -> Numbers:
    """The four counts of each item's modified process, float64 [items, 4], in the order of `score`."""
    counts = np.zeros((len(judged.rewards), 4))
    for row, item, (rewards, *_) in zip(counts, judged.items.items, judged.rewards, strict=True):
        right = np.array(item.candidates[0].labels, bool)
        taken = rewards >= threshold
        row[:] = (right & taken).sum(), (right & ~taken).sum(), (~right & ~taken).sum(), (~right & taken).sum()
    return counts


def _name(group: str) -> str:
    if group not in CLASSES:
        raise InputError(f"PRMBench has no class {group!r}: it has {', '.join(CLASSES)}")
    return CLASSES[group]


def _of(counts: Statistic, function: Callable[[Numbers], Numbers]) -> Statistic:
    return lambda weights: function(counts(weights))


def _average(parts: list[Statistic]) -> Statistic:
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)
