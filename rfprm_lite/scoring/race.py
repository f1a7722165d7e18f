"""Best of N while the candidates are still being written: which of them can still win.

In: the steps of several candidates, as they come. Out: who can still win, given who is complete, so that a generator
can stop writing the others. The winner is that of finishing all of them, exactly, ties included.

What a candidate can still reach depends on the aggregate and on what is known of its length:

    1. min, product: a further step never raises them. The bound is the reward so far; no length is needed.
    2. Others: the bound is the highest reward over all numbers of steps up to `max_steps`, all missing ones at the
       highest reward that a step can have. Where nothing bounds that, every candidate can win to its end.

Case 2 is exact to the last bit: the bound is computed for each length, and with the same number of terms numpy rounds
in the same order, monotonically. In case 1 a longer product may be rounded in another order than a shorter one, by less
than one unit in the last place a step. So the bound of a product gets a slack that covers millions of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.aggregate import Aggregate, AnyAggregate
from rfprm_lite.errors import InputError
from rfprm_lite.results import Score
from rfprm_lite.scoring.live import LiveTrace

NEVER_RISING = {"min": (0.0, 0.0), "product": (1e-9, 1e-300)}
"""Aggregates that no further step raises, with the relative and absolute slack of their bounds."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A candidate so far. highest: the highest reward that it can have in the end."""

    trace: LiveTrace
    highest: float


class Race:
    """Candidates of one problem that grow side by side, made by `PRM.race`. Not for several threads at once.

    Args:
        origin: A live trace without steps.
        count: How many candidates there are.
        aggregate: What makes one reward of a candidate's.
        max_steps: The most steps that a candidate may have. Needed unless the aggregate is min or product.

    Raises:
        InputError: If `max_steps` is missing, or if the aggregate can't be bounded.
    """

    def __init__(self, origin: LiveTrace, count: int, aggregate: AnyAggregate, max_steps: int | None) -> None:
        if not isinstance(count, int) or count < 1:
            raise InputError(f"n={count!r}: a whole number from 1 on is needed")
        self._scale = origin.scale
        if not aggregate.is_monotone(self._scale.range):
            raise InputError(
                f"the aggregate {aggregate} may fall when a step reward rises, so that candidates can't be bounded: "
                "take another, or say CustomAggregate(function, monotone=True) of a function that never does"
            )
        falling = isinstance(aggregate, Aggregate) and aggregate.never_rises(self._scale.range)
        self._slack = NEVER_RISING.get(str(aggregate)) if falling else None
        if max_steps is None and self._slack is None:
            raise InputError(
                f"with the aggregate {aggregate} a candidate's chances depend on how long it may become: give max_steps"
            )
        if max_steps is not None and (not isinstance(max_steps, int) or max_steps < 1):
            raise InputError(f"max_steps={max_steps!r}: a whole number from 1 on is needed")
        self._aggregate = aggregate
        self._max_steps = max_steps
        self._most_steps = max_steps or 0
        self._candidates = [_Candidate(origin.fork(), self._bound(origin)) for _ in range(count)]
        self._scores: dict[int, Score] = {}

    def append(self, i: int, step: str, *, thinking: bool = False) -> float:
        """Add a step to candidate i and return its reward.

        Args:
            i: The candidate's index.
            step: The step's text.
            thinking: Whether it is of the thinking trajectory.

        Raises as `extend` does.
        """
        return self.extend({i: step}, thinking=thinking)[i]

    def extend(self, steps: Mapping[int, str], *, thinking: bool = False) -> dict[int, float]:
        """Add a step to each of several candidates, computed together; returns their rewards by index.

        Args:
            steps: By the candidates' indices.
            thinking: Whether they are of the thinking trajectories.

        Raises:
            InputError: If there is no such candidate, if it is finished, if it has `max_steps` steps already, or if a
                step is empty.
            InputTypeError: If a step is no text.
            ContextLengthError: If a trace has become longer than the model reads.
            MemoryLimitError: If it would take too much memory.

        After any error the race is as it was.
        """
        if not steps:
            return {}
        for i in steps:
            self._require_open(i)
            if self._max_steps is not None and len(self._candidates[i].trace.steps) >= self._max_steps:
                raise InputError(f"candidate {i} has max_steps={self._max_steps} steps already: finish it")
        longer = {i: self._candidates[i].trace.fork() for i in steps}
        append_all = self._candidates[0].trace.append_all
        rewards = append_all({i: (longer[i], step) for i, step in steps.items()}, thinking=thinking)
        changed = {i: _Candidate(trace, self._bound(trace)) for i, trace in longer.items()}
        # All at once, when nothing can fail any more: neither a bound nor an interrupt leaves half of it.
        self._candidates = [changed.get(i, candidate) for i, candidate in enumerate(self._candidates)]
        return rewards

    def finish(self, i: int) -> Score:
        """Say that candidate i is complete; returns its score.

        Raises:
            InputError: If there is no such candidate, if it is finished already, or if it has no step.
        """
        self._require_open(i)
        self._scores[i] = self._candidates[i].trace.score()
        return self._scores[i]

    @property
    def alive(self) -> tuple[int, ...]:
        """Indices of the candidates that can still win, given what is complete."""
        leader = self._leader
        if leader is None:
            return tuple(range(len(self._candidates)))
        best = self._scores[leader].reward
        return tuple(i for i in range(len(self._candidates)) if i == leader or self._may_pass(i, leader, best))

    @property
    def winner(self) -> int | None:
        """The candidate that wins whatever the others still write; None as long as that is open."""
        leader = self._leader
        return leader if leader is not None and self.alive == (leader,) else None

    @property
    def scores(self) -> dict[int, Score]:
        """The scores of the finished candidates, by index."""
        return dict(self._scores)

    def trace(self, i: int) -> LiveTrace:
        """A fork of the trace of candidate i: what is added to it, the race does not see.

        Raises:
            InputError: If there is no such candidate.
        """
        self._require(i)
        return self._candidates[i].trace.fork()

    @property
    def _leader(self) -> int | None:
        """The best of the finished candidates, the first among equals."""
        return min(self._scores, key=lambda i: (-self._scores[i].reward, i), default=None)

    def _may_pass(self, i: int, leader: int, best: float) -> bool:
        if i in self._scores:
            return False
        return self._candidates[i].highest > best or (self._candidates[i].highest == best and i < leader)

    def _bound(self, trace: LiveTrace) -> float:
        """The highest reward that the candidate can have in the end."""
        rewards = np.array(trace.step_rewards or (self._scale.high,), np.float32)
        if self._slack is None:
            return max(self._if_perfect(rewards, length) for length in range(len(rewards), self._most_steps + 1))
        relative, absolute = self._slack
        return self._if_perfect(rewards, len(rewards)) * (1 + relative) + absolute

    def _if_perfect(self, rewards: NDArray[np.float32], length: int) -> float:
        """The reward with so many steps if all that are missing had the highest reward."""
        high = self._scale.high
        full = np.concatenate([rewards, np.full(length - len(rewards), high, np.float32)])
        # Nothing is known of the response as one step before the candidate is finished.
        return self._aggregate(full, high if self._aggregate.scores_response else float(full[-1]))

    def _require(self, i: int) -> None:
        if not isinstance(i, SupportsIndex) or i not in range(len(self._candidates)):
            raise InputError(f"there is no candidate {i!r}: there are {len(self._candidates)}, from 0 on")

    def _require_open(self, i: int) -> None:
        self._require(i)
        if i in self._scores:
            raise InputError(f"candidate {i} is finished already")
