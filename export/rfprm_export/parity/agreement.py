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
    """Compute the mean over pools of Kendall's tau-b.

    Args:
        pools: The reference's rewards of a pool's candidates, and the other model's.

    Returns:
        From -1 to 1; None if no pool has rewards that differ.
    """
    taus = [tau for reference, other in pools if (tau := _tau(reference, other)) is not None]
    return float(np.mean(taus)) if taus else None


def same_choice(pools: Sequence[tuple[Rewards, Rewards]]) -> float | None:
    """Compute the part of the pools in which both models find the same candidate the best, near-ties included.

    Args:
        pools: The reference's rewards of a pool's candidates, and the other model's.

    Returns:
        From 0 to 1; None without pools.
    """
    same = [reference.max() - reference[np.argmax(other)] < NEAR_TIE for reference, other in pools]
    return float(np.mean(same)) if same else None


def _tau(a: Rewards, b: Rewards) -> float | None:
    """Pairs in the same order less pairs in the other, ties in either left out; None where all tie."""
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(v[:, None] - v[None])[upper] for v in (a, b))
    scale = np.sqrt((x != 0).sum() * (y != 0).sum())
    return float((x * y).sum() / scale) if scale else None
