"""ProcessBench, arXiv 2412.06559: is the first wrong step found?

The first step whose reward is below the threshold is taken for the first wrong one; none, for a right solution. F1 is
the harmonic mean of the accuracy on wrong and on right solutions, as in QwenLM/ProcessBench, code/run_eval_prm_trl.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import InputError
from rfprm_lite.evaluate.judged import Judged, Rewards
from rfprm_lite.evaluate.statistics import Numbers, Statistics, harmonic_mean, mean


def first_below(rewards: Rewards, threshold: float) -> int | None:
    """The index of the first reward below the threshold; None if there is none."""
    low = np.flatnonzero(rewards < threshold)
    return int(low[0]) if len(low) else None


def statistics(judged: Judged, threshold: float | None) -> Statistics:
    """Accuracy on wrong and on right solutions, and F1.

    Args:
        judged: A set with labels.
        threshold: The reward below which a step is taken for wrong; None for none, and no numbers.
    """
    if threshold is None:
        return {}
    wrong, right = hits(judged, threshold)
    unit, problems = judged.units
    of_wrong, of_right = mean(wrong, unit, problems), mean(right, unit, problems)
    return {
        ("processbench", "wrong"): of_wrong,
        ("processbench", "right"): of_right,
        ("processbench", "f1"): lambda weights: harmonic_mean(of_wrong(weights), of_right(weights)),
    }


def hits(judged: Judged, threshold: float) -> tuple[Numbers, Numbers]:
    """Whether each wrong, and each right solution was judged as it is: 1 or 0, not-a-number for the other kind."""
    wrong, right = np.full((2, len(judged.rewards)), np.nan)
    for i, (item, (rewards, *_)) in enumerate(zip(judged.items.items, judged.rewards, strict=True)):
        first = item.candidates[0].first_error
        (right if first is None else wrong)[i] = first_below(rewards, threshold) == first
    return wrong, right


def best_threshold(judged: Judged) -> float:
    """The threshold with the highest F1 on a set; of equals the nearest to 0.5. It is for other sets, never for this.

    A wrong solution is judged as it is by every threshold above its first wrong step's reward, up to the lowest reward
    before it; a right one up to its lowest reward. So F1 changes at rewards only.

    Raises:
        InputError: If the set has no wrong, or no right solution.
    """
    spans: list[tuple[float, float]] = []
    lowest: list[float] = []
    for item, (rewards, *_) in zip(judged.items.items, judged.rewards, strict=True):
        first = item.candidates[0].first_error
        if first is None:
            lowest.append(float(rewards.min()))
        else:
            spans.append((float(rewards[first]), float(rewards[:first].min(initial=np.inf))))
    if not spans or not lowest:
        raise InputError(f"no threshold can be chosen on {judged.items.name}: wrong and right solutions are needed")
    good = np.array([span for span in spans if span[0] < span[1]]).reshape(-1, 2)
    changes = np.unique(np.concatenate([rewards for some in judged.rewards for rewards in some]))
    between = np.concatenate([changes[:1] - 1, (changes[1:] + changes[:-1]) / 2, changes[-1:] + 1])
    wrong = (_below(good[:, 0], between) - _below(good[:, 1], between)) / len(spans)
    right = 1 - _below(np.array(lowest), between) / len(lowest)
    f1 = harmonic_mean(wrong, right)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(between[best[np.argmin(np.abs(between[best] - 0.5))]])


def _below(values: Numbers, thresholds: Numbers) -> NDArray[np.intp]:
    """How many values lie below each threshold."""
    return np.searchsorted(np.sort(values), thresholds, side="left")
