"""Numbers with intervals: the bootstrap over problems.

A statistic is a function of how often each problem counts. With all ones it is the number itself; with the counts of a
resample it is what that resample gives. Two judges are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]
"""Counts of problems, float64 [resamples, problems], to the number of each resample; not-a-number where there is none.
"""

RESAMPLES = 1000
COVERED = 0.95
"""The part of the resamples that an interval covers."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the interval of 95 % that the bootstrap over problems gives it.

    Attributes:
        value: The number; None where it has no value, such as an accuracy on no traces.
        low: The lower end.
        high: The upper end.
    """

    value: float | None
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(statistic: Statistic, problems: int) -> Estimate:
    """The value of a statistic, and its interval.

    Args:
        statistic: Of so many problems.
        problems: How many there are.
    """
    if not problems:
        return Estimate(None, None, None)
    value = float(statistic(np.ones((1, problems)))[0])
    if not np.isfinite(value):
        return Estimate(None, None, None)
    drawn = statistic(resamples(problems))
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(value, None, None)
    low, high = np.quantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Estimate(value, float(low), float(high))


@lru_cache(maxsize=4)
def resamples(problems: int) -> Numbers:
    """How often each problem is drawn, float64 [RESAMPLES, problems]; always the same draws."""
    drawn = np.random.default_rng(0).multinomial(problems, np.full(problems, 1 / problems), RESAMPLES)
    return drawn.astype(np.float64)


def units(problems: Iterable[Hashable]) -> tuple[NDArray[np.intp], int]:
    """The index of each item's problem among the different ones, and how many of these there are."""
    index: dict[Hashable, int] = {}
    found = [index.setdefault(problem, len(index)) for problem in problems]
    return np.array(found, np.intp), len(index)


def mean(values: Numbers, unit: NDArray[np.intp], problems: int) -> Statistic:
    """The mean of values.

    Args:
        values: Of items; those that are not-a-number don't count.
        unit: The problem of each item.
        problems: How many there are.
    """
    counted = np.isfinite(values)
    totals = np.bincount(unit[counted], values[counted], problems)
    counts = np.bincount(unit[counted], minlength=problems).astype(np.float64)
    return lambda weights: ratio(weights @ totals, weights @ counts)


def difference(one: Statistic, other: Statistic) -> Statistic:
    """How much higher one is, resample by resample."""
    return lambda weights: one(weights) - other(weights)


def ratio(above: Numbers, below: Numbers) -> Numbers:
    """The quotient; not-a-number where the divisor is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def harmonic_mean(one: Numbers, other: Numbers) -> Numbers:
    """The harmonic mean; 0 where both are."""
    total = one + other
    zero = np.where(np.isnan(total), np.nan, 0.0)
    return np.divide(2 * one * other, total, out=zero, where=total > 0)


Path = tuple[str, ...]
Statistics = Mapping[Path, Statistic]
"""The statistics of a set by their places in a report."""


def nested(values: Mapping[Path, object]) -> dict[str, object]:
    """The values as a tree: each path's parts are the names on the way."""
    tree: dict[str, object] = {}
    for path, value in values.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})  # type: ignore[assignment]
        branch[path[-1]] = value
    return tree
