"""Exact best-of-N that reads no further than it must.

Rewards lie in [0, 1] and the number of a candidate's steps is known, so that what was read of it bounds its reward from
above. The candidates with the highest bounds are read further, a step at a time and as many at once as fill a run,
until the best ones are read to their ends and nothing can pass them any more. The choice is that of reading everything,
ties included.

Whatever the order, a loser must be read until its bound is below the winner's reward. What is known of that early saves
reading losers too far: so the most promising candidate, once read halfway, is read to its end at once.

In: readings, and a way to get their first rewards. Out: rewards as far as they were needed. Knows nothing of engines.
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

Advance = Callable[[Sequence[tuple[int, int]]], Sequence[Rewards]]
"""Given candidates and numbers of read-outs: the candidates' first rewards, so many."""


class Bounded(Protocol):
    """A candidate whose first rewards bound its reward."""

    @property
    def num_readouts(self) -> int:
        """Read-outs of the whole candidate."""

    def bounds(self, rewards: Rewards) -> tuple[float, float]:
        """The lowest and highest reward that it can have when its first rewards are known."""


def nothing(readings: Sequence[Bounded]) -> list[Rewards]:
    """What is known of each reading before anything is read."""
    return [np.zeros(0, np.float32) for _ in readings]


def best(
    readings: Sequence[Bounded], known: Sequence[Rewards], count: int, advance: Advance
) -> tuple[list[int], list[Rewards]]:
    """known: the first rewards of each, as far as they were read before.

    The `count` candidates of the highest rewards, the best first and the first among equals first, and all rewards
    that were read of each candidate: of the chosen ones, all.
    """
    rewards = list(known)
    highest = [reading.bounds(own)[1] for reading, own in zip(readings, rewards, strict=True)]
    while True:
        order = sorted(range(len(readings)), key=lambda i: (-highest[i], i))
        open_ = [i for i in order if len(rewards[i]) < readings[i].num_readouts]
        complete = [i for i in order if len(rewards[i]) == readings[i].num_readouts]
        if complete[:count] == order[:count]:
            return order[:count], rewards
        if len(complete) >= count:  # only what can still pass the last of the best so far
            passing = set(order[: order.index(complete[count - 1])])
            further = [(i, len(rewards[i]) + 1) for i in open_ if i in passing][:WIDTH]
        elif len(rewards[open_[0]]) >= HALFWAY * readings[open_[0]].num_readouts:
            further = [(open_[0], readings[open_[0]].num_readouts)]
        else:
            further = [(i, len(rewards[i]) + 1) for i in open_[:WIDTH]]
        for (i, _), own in zip(further, advance(further), strict=True):
            rewards[i] = own
            highest[i] = readings[i].bounds(own)[1]
