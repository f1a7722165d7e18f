"""Labelled steps: how well their rewards tell right from wrong, and whether a reward is a probability.

In: rewards and labels of steps. Out: AUC, average precision, Brier score, calibration, and a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.evaluate.judged import Judged
from rfprm_lite.evaluate.statistics import Numbers, Statistic, Statistics, mean, ratio

BINS = 10
"""Bins of equal width over [0, 1], for the calibration."""
KEPT = 0.95
"""The share of right steps that the threshold keeps, unless another is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSteps:
    """The steps of a set whose labels are known.

    Attributes:
        rewards: float64 [num_steps].
        right: bool [num_steps].
        unit: The problem of each.
        problems: How many problems there are.
    """

    rewards: Numbers
    right: NDArray[np.bool_]
    unit: NDArray[np.intp]
    problems: int

    @classmethod
    def of(cls, judged: Judged) -> LabelledSteps:
        """The labelled steps of all traces of a set; of PRMBench those of the modified processes alone."""
        units, problems = judged.units
        rewards: list[float] = []
        right: list[bool] = []
        unit: list[int] = []
        for item, some, problem in zip(judged.items.items, judged.rewards, units, strict=True):
            pairs = list(zip(item.candidates, some, strict=True))
            for candidate, steps in pairs[:1] if judged.items.kind == "prmbench" else pairs:
                known = [(r, label) for r, label in zip(steps, candidate.labels, strict=False) if label is not None]
                rewards += [float(reward) for reward, _ in known]
                right += [bool(label) for _, label in known]
                unit += [int(problem)] * len(known)
        return cls(np.array(rewards), np.array(right, bool), np.array(unit, np.intp), problems)

    @property
    def probabilities(self) -> bool:
        """Whether all rewards lie in [0, 1], so that they can be read as probabilities."""
        return bool(((self.rewards >= 0) & (self.rewards <= 1)).all())


@dataclass(frozen=True, slots=True)
class Bin:
    """The steps whose rewards lie in a bin.

    Attributes:
        low: Its lower edge.
        high: Its upper edge, which belongs to the next bin but for the last.
        steps: How many there are.
        reward: Their mean reward; None without any.
        right: The share of them that is right; None without any.
    """

    low: float
    high: float
    steps: int
    reward: float | None
    right: float | None


def statistics(steps: LabelledSteps) -> Statistics:
    """AUC, average precision of finding right and of finding wrong steps; Brier score and calibration error.

    The last two only where all rewards are probabilities.
    """
    found: dict[tuple[str, ...], Statistic] = {
        ("steps", "auc"): _each(steps, auc),
        ("steps", "average_precision_right"): _each(steps, average_precision),
        ("steps", "average_precision_wrong"): _each(
            LabelledSteps(-steps.rewards, ~steps.right, steps.unit, steps.problems), average_precision
        ),
    }
    if steps.probabilities and len(steps.rewards):
        found["steps", "brier"] = mean((steps.rewards - steps.right) ** 2, steps.unit, steps.problems)
        found["steps", "calibration_error"] = _calibration_error(steps)
    return found


def auc(rewards: Numbers, right: Numbers, wrong: Numbers) -> float:
    """How often a right step has the higher reward of a right and a wrong one; a tie counts half.

    Args:
        rewards: float64 [num_steps], in falling order.
        right: How often each counts as a right step.
        wrong: How often each counts as a wrong step.
    """
    starts = _ties(rewards)
    r, w = np.add.reduceat(right, starts), np.add.reduceat(wrong, starts)
    above = np.cumsum(r) - r / 2
    pairs = right.sum() * wrong.sum()
    return float((w * above).sum() / pairs) if pairs else np.nan


def average_precision(rewards: Numbers, right: Numbers, wrong: Numbers) -> float:
    """The mean precision of the right steps, each with all steps of at least its reward; arguments as of `auc`."""
    starts = _ties(rewards)
    r, w = np.add.reduceat(right, starts), np.add.reduceat(wrong, starts)
    total = right.sum()
    precision = ratio(np.cumsum(r), np.cumsum(r) + np.cumsum(w))
    return float(np.nansum(r * precision) / total) if total else np.nan


def reliability(steps: LabelledSteps) -> list[Bin]:
    """The reliability diagram; empty where rewards are no probabilities."""
    if not steps.probabilities:
        return []
    place, edges = _bins(steps.rewards), np.linspace(0, 1, BINS + 1)
    bins = []
    for i in range(BINS):
        inside = place == i
        some = bool(inside.any())
        reward = float(steps.rewards[inside].mean()) if some else None
        right = float(steps.right[inside].mean()) if some else None
        bins.append(Bin(float(edges[i]), float(edges[i + 1]), int(inside.sum()), reward, right))
    return bins


def keeping(steps: LabelledSteps, share: float) -> dict[str, float] | None:
    """The highest threshold that keeps a share of the right steps: their rewards are at least it.

    Returns:
        The threshold, the share of right steps that it keeps, and the share of wrong steps that lie below it; None
        without right or wrong steps.
    """
    right, wrong = np.sort(steps.rewards[steps.right]), steps.rewards[~steps.right]
    if not len(right) or not len(wrong):
        return None
    lost = int(np.floor((1 - share) * len(right) + 1e-9))
    threshold = right[min(lost, len(right) - 1)]
    return {
        "threshold": float(threshold),
        "right_kept": float((right >= threshold).mean()),
        "wrong_caught": float((wrong < threshold).mean()),
    }


def _each(steps: LabelledSteps, function: object) -> Statistic:
    order = np.argsort(-steps.rewards, kind="stable")
    rewards, unit = steps.rewards[order], steps.unit[order]
    right, wrong = steps.right[order].astype(np.float64), (~steps.right[order]).astype(np.float64)

    def statistic(weights: Numbers) -> Numbers:
        if not len(rewards):
            return np.full(len(weights), np.nan)
        counts = (row[unit] for row in weights)
        return np.array([function(rewards, right * count, wrong * count) for count in counts])  # type: ignore[operator]

    return statistic


def _ties(rewards: Numbers) -> NDArray[np.intp]:
    """Where each run of equal rewards begins."""
    return np.flatnonzero(np.r_[True, rewards[1:] != rewards[:-1]])


def _bins(rewards: Numbers) -> NDArray[np.intp]:
    return np.minimum((rewards * BINS).astype(np.intp), BINS - 1)


def _calibration_error(steps: LabelledSteps) -> Statistic:
    """The distance of mean reward and share of right steps, the mean over bins, each with the weight of its steps."""
    place = _bins(steps.rewards) + steps.unit * BINS
    shape = (steps.problems, BINS)
    gaps = np.bincount(place, steps.rewards - steps.right, steps.problems * BINS).reshape(shape)
    counts = np.bincount(place, minlength=steps.problems * BINS).reshape(shape).astype(np.float64)
    return lambda weights: ratio(np.abs(weights @ gaps).sum(1), (weights @ counts).sum(1))
