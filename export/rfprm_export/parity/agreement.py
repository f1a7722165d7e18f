"""How far two models agree on pools of candidates.

In: for each pool, the rewards that both give its candidates. Out: Kendall's tau, and how often they choose the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR_TIE = 1e-3
"""A choice counts as the same where its reward, by the reference, is this near to the best."""

Rewards = NDArray[np.floating]


def tau(pools: Sequence[tuple[Rewards, Rewards]]) -> float | None:
    """The mean over the pools of Kendall's tau-b; None where there is no pool whose rewards differ."""
    found = [value for expected, given in pools if (value := _tau(expected, given)) is not None]
    return float(np.mean(found)) if found else None


def same_choice(pools: Sequence[tuple[Rewards, Rewards]]) -> float | None:
    """The part of the pools in which both find the same candidate the best, near-ties included; None without pools."""
    same = [expected.max() - expected[np.argmax(given)] < NEAR_TIE for expected, given in pools]
    return float(np.mean(same)) if same else None


def _tau(a: Rewards, b: Rewards) -> float | None:
    """Pairs in the same order less pairs in the other, ties in either left out; None where all tie."""
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(v[:, None] - v[None])[upper] for v in (a, b))
    scale = np.sqrt((x != 0).sum() * (y != 0).sum())
    return float((x * y).sum() / scale) if scale else None
