"""How far two judges agree: the one definition of tau, same choice and differences, the exporter's too.

In: rewards that both give the same steps or candidates. Out: Kendall's tau, how often they choose the same, how far
their rewards are apart, and how often they put two in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAR_TIE = 1e-3
"""A choice counts as the same where its reward, by the reference, is this near to the best."""
SWAP_BINS = 10

Rewards = NDArray[np.floating[Any]]
Pools = Sequence[tuple[Rewards, Rewards]]
"""The reference's rewards of a pool's candidates, and the other judge's."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Absolute differences of rewards.

    Attributes:
        mean: Their mean.
        p99: Their 99th percentile.
        largest: The largest.
        rewards: How many were compared.
    """

    mean: float
    p99: float
    largest: float
    rewards: int

    @classmethod
    def of(cls, differences: Rewards) -> Differences:
        """The differences of rewards, in any order, with either sign."""
        sizes = np.abs(differences)
        return cls(float(sizes.mean()), float(np.quantile(sizes, 0.99)), float(sizes.max()), len(sizes))


@dataclass(frozen=True, slots=True)
class Swaps:
    """Pairs whose rewards, by the reference, are about as far apart.

    Attributes:
        nearest: The least distance of a pair.
        farthest: The greatest.
        pairs: How many there are.
        swapped: The share that the other judge puts in the other order; a tie of his counts half.
    """

    nearest: float
    farthest: float
    pairs: int
    swapped: float


def tau(pools: Pools) -> float | None:
    """The mean over pools of Kendall's tau-b, from -1 to 1; None if no pool has rewards that differ."""
    taus = [tau for reference, other in pools if (tau := _tau(reference, other)) is not None]
    return float(np.mean(taus)) if taus else None


def same_choice(pools: Pools) -> float | None:
    """The part of the pools in which both find the same candidate the best, near-ties included; None without pools."""
    same = [is_same_choice(reference, other) for reference, other in pools]
    return float(np.mean(same)) if same else None


def is_same_choice(reference: Rewards, other: Rewards) -> bool:
    """Whether both find the same candidate of a pool the best, or one that the reference finds as good as the best."""
    return bool(reference.max() - reference[np.argmax(other)] < NEAR_TIE)


def swaps(pools: Pools) -> list[Swaps]:
    """How often pairs of one pool are put in another order, by their distance: ten bins with as many pairs each."""
    distances, swapped = [np.zeros(0)], [np.zeros(0)]
    for reference, other in pools:
        upper = np.triu_indices(len(reference), 1)
        x, y = ((v[:, None] - v[None])[upper] for v in (np.asarray(reference, float), np.asarray(other, float)))
        apart = x != 0
        distances.append(np.abs(x[apart]))
        swapped.append((1 - np.sign(x[apart]) * np.sign(y[apart])) / 2)
    sizes, wrong = np.concatenate(distances), np.concatenate(swapped)
    order = np.argsort(sizes, kind="stable")
    return [
        Swaps(float(sizes[some[0]]), float(sizes[some[-1]]), len(some), float(wrong[some].mean()))
        for some in np.array_split(order, SWAP_BINS)
        if len(some)
    ]


def _tau(a: Rewards, b: Rewards) -> float | None:
    """Pairs in the same order less pairs in the other, ties in either left out; None where all tie."""
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(v[:, None] - v[None])[upper] for v in (a, b))
    scale = np.sqrt((x != 0).sum() * (y != 0).sum())
    return float((x * y).sum() / scale) if scale else None
