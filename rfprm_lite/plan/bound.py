"""Exact best-of-N that stops early.

A step reward has a highest value and the number of a candidate's steps is known, so that the rewards read out so far
bound its reward from above. The candidates with the highest bounds are read further, a step at a time and as many at
once as fill a run. It ends when the best ones are complete and no other bound passes theirs. The choice is that of
reading everything, ties included.

A losing candidate can be abandoned only once its upper bound falls below the winner's reward. The sooner that reward is
known, the less of the losers is read; so a promising candidate that is half read is finished at once.

In: candidates, and a way to get their first rewards. Out: rewards as far as they were needed. Knows nothing of engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from rfprm_lite.plan.sequence import Rewards

WIDTH = 4
"""Candidates that are read further at once. With this and HALFWAY real pools took the least time
(bench/log/2026-11-23-lazy-best-of-n-policy.md)."""
HALFWAY = 0.5
"""The share of a promising candidate's read-outs from which on it is read to its end at once."""

Advance = Callable[[Sequence[tuple[int, int]]], Sequence[Rewards]]
"""A function of pairs of a candidate and a number of read-outs, which gives that many first rewards of each."""


class Bounded(Protocol):
    """A candidate whose first rewards bound its reward."""

    @property
    def num_readouts(self) -> int:
        """Read-outs of the whole candidate."""

    def highest(self, rewards: Rewards) -> float:
        """The highest reward that it can have when its first rewards are known."""


def nothing(candidates: Sequence[Bounded]) -> list[Rewards]:
    """The known rewards of each candidate before anything is read out: none."""
    return [np.zeros(0, np.float32) for _ in candidates]


def best(
    candidates: Sequence[Bounded], known: Sequence[Rewards], count: int, advance: Advance
) -> tuple[list[int], list[Rewards]]:
    """The `count` candidates with the highest rewards, the best first and the first among equals first.

    `order` sorts candidates by their upper bounds, ties by index; a complete candidate's bound is its reward. When the
    first `count` of it are complete, each other candidate's bound is below theirs, or equal with a higher index: no
    reward that it can still have changes the choice. Before that, only open candidates that stand in `order` before the
    last of the `count` best complete ones can pass it, in value or as a tie with a lower index. So
    `order.index(complete[count - 1])` tells all that matter.

    Args:
        candidates: All of them.
        known: The first rewards of each, as far as they were read out before.
        count: How many are wanted.
        advance: Gives the first rewards of candidates.

    Returns:
        Indices of the chosen ones, and all rewards that were read out of each candidate: of the chosen ones, all.
    """
    rewards = list(known)
    highest = [candidate.highest(first) for candidate, first in zip(candidates, rewards, strict=True)]
    while True:
        order = sorted(range(len(candidates)), key=lambda i: (-highest[i], i))
        incomplete = [i for i in order if len(rewards[i]) < candidates[i].num_readouts]
        complete = [i for i in order if len(rewards[i]) == candidates[i].num_readouts]
        if complete[:count] == order[:count]:
            return order[:count], rewards
        if len(complete) >= count:
            passing = set(order[: order.index(complete[count - 1])])
            further = [(i, len(rewards[i]) + 1) for i in incomplete if i in passing][:WIDTH]
        elif len(rewards[incomplete[0]]) >= HALFWAY * candidates[incomplete[0]].num_readouts:
            further = [(incomplete[0], candidates[incomplete[0]].num_readouts)]
        else:
            further = [(i, len(rewards[i]) + 1) for i in incomplete[:WIDTH]]
        for (i, _), first in zip(further, advance(further), strict=True):
            rewards[i] = first
            highest[i] = candidates[i].highest(first)
