"""Scores as every view shows them, and as they stand in JSON.

A result builds its own record, and a line of a file is decoded into the same: a view knows one shape.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Annotated, Any

import msgspec

from rfprm_lite.plan.usage import Usage
from rfprm_lite.show.words import counted
from rfprm_lite.written.forms import Part


class StepRecord(msgspec.Struct, frozen=True):
    """A step's text, and the part of the trace that it stands in."""

    text: str
    part: Part


Problem = str | list[dict[str, Any]] | None
"""A problem: text, or the messages of a conversation, whatever they hold; None where there is none."""


class ScoreRecord(msgspec.Struct, frozen=True):
    """The plain values of a `Score`, of an `Unfinished`, which has bounds in place of a reward, or of an error.

    Attributes:
        steps: All steps, in order.
        step_rewards: Rewards of all steps, or of the first ones; None of a step that was left out of a text too long.
        aggregate: The name of what makes one reward of them.
        reward_range: Lowest and highest reward that there can be; None if there are none.
        tokens: Token counts.
        reward: The reward; None where there are bounds or an error.
        bounds: The lowest and highest reward that it can have, None in the place of one that there is not; None where
            there is a reward or an error.
        step_range: Lowest and highest reward of a step; None if there are none.
        good_above: The reward below which a step is called weak; None if none is.
        error: Why there is no reward; nothing else is needed then.

    Raises:
        ValueError: If its numbers don't fit each other.
    """

    steps: tuple[StepRecord, ...] = ()
    step_rewards: tuple[float | None, ...] = ()
    aggregate: str = ""
    reward_range: tuple[float, float] | None = None
    tokens: Usage = Usage(0, 0)
    reward: float | None = None
    bounds: tuple[float | None, float | None] | None = None
    step_range: tuple[float, float] | None = (0.0, 1.0)
    good_above: float | None = 0.5
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.reward, self.bounds, self.error).count(None) != 2:
            raise ValueError("one of reward, bounds and error is needed")
        if self.error is None and not (self.steps and self.aggregate):
            raise ValueError("steps and aggregate are needed")
        if len(self.step_rewards) > len(self.steps):
            raise ValueError(f"{len(self.step_rewards)} step_rewards for {len(self.steps)} steps")
        if self.reward is not None and len(self.step_rewards) < len(self.steps):
            raise ValueError(f"a reward, but only {len(self.step_rewards)} step_rewards for {len(self.steps)} steps")
        low, high = self.step_range or (-math.inf, math.inf)
        wrong = [reward for reward in self.known if not low <= reward <= high]
        if wrong:
            raise ValueError(f"step_rewards hold {wrong[0]}: their step_range is {low:g} to {high:g}")

    @property
    def known(self) -> list[float]:
        """The rewards of the steps that have one."""
        return [reward for reward in self.step_rewards if reward is not None]

    @property
    def first_weak(self) -> int | None:
        """The index of the first step whose reward is below `good_above`; None if there is none."""
        good = self.good_above
        return (
            None
            if good is None
            else next((i for i, x in enumerate(self.step_rewards) if x is not None and x < good), None)
        )

    @property
    def weak_mark(self) -> str:
        """What is said beside the first weak step."""
        return "" if self.good_above is None else f"first below {self.good_above:g}"

    def level(self, reward: float) -> float:
        """The place of a reward on its scale, for bars and shades: 0 the lowest, 0.5 `good_above`, 1 the highest.

        Where nothing bounds rewards, the scale ends with those of this trace.
        """
        low, high = self.step_range or (min(self.known), max(self.known))
        good = (low + high) / 2 if self.good_above is None else self.good_above
        if reward < good:
            return 0.5 * (reward - low) / (good - low)
        return 0.5 + 0.5 * (reward - good) / (high - good) if high > good else 0.5

    @property
    def highest(self) -> float:
        """The reward, or the highest that it can be; -inf for an error."""
        if self.error is not None:
            return -math.inf
        highest = self.reward if self.bounds is None else self.bounds[1]
        return math.inf if highest is None else highest

    @property
    def reward_text(self) -> str:
        """The reward, its bounds, or the error, as text."""
        if self.error is not None:
            return f"not scored: {self.error}"
        if self.bounds is None:
            return f"{self.reward:.3f}"
        low, high = ("any" if bound is None else f"{bound:.3f}" for bound in self.bounds)
        return f"{low} to {high}"

    @property
    def summary(self) -> str:
        """The aggregate, the reward and its range, as text."""
        span = f" (from {self.reward_range[0]:g} to {self.reward_range[1]:g})" if self.reward_range else ""
        return f"{self.aggregate}: {self.reward_text}{span}"

    @property
    def trajectory(self) -> str:
        """The course of the rewards, in words."""
        known = self.known
        if not known:
            return f"none of {counted(len(self.steps), 'step')} was read"
        lowest = self.step_rewards.index(min(known))
        share = f"{len(known)} of " if len(known) < len(self.steps) else ""
        return (
            f"{share}{counted(len(self.steps), 'step')}, lowest {min(known):.3f} at step {lowest + 1}, "
            f"last {known[-1]:.3f}"
        )

    @property
    def parts(self) -> list[tuple[Part, range]]:
        """The parts of the trace in order, each with the indices of its steps."""
        parts: list[tuple[Part, range]] = []
        for part, steps in groupby(self.steps, key=lambda step: step.part):
            start = parts[-1][1].stop if parts else 0
            parts.append((part, range(start, start + sum(1 for _ in steps))))
        return parts


class ScoreLine(ScoreRecord, frozen=True):
    """A line of `rfprm score --json`."""

    problem: Problem = None


class BestOfNRecord(msgspec.Struct, frozen=True):
    """The plain values of a `BestOfN`, and a line of `rfprm best-of-n --json`.

    Attributes:
        ranking: Indices of the best candidates, best first.
        scores: One a candidate.
        tokens: Token counts of all together.
        problem: The question, where a line has it.

    Raises:
        ValueError: If the ranking names a candidate that there is not.
    """

    ranking: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    scores: Annotated[tuple[ScoreRecord, ...], msgspec.Meta(min_length=1)]
    tokens: Usage
    problem: Problem = None

    def __post_init__(self) -> None:
        wrong = [i for i in self.ranking if not 0 <= i < len(self.scores)]
        if wrong:
            raise ValueError(f"the ranking names candidate {wrong[0]}, but there are {len(self.scores)} scores")

    def rank(self, candidate: int) -> str:
        """The rank of a candidate: `best` or, from the second on, `rank 2`; empty where it is not in the ranking."""
        if candidate not in self.ranking:
            return ""
        place = self.ranking.index(candidate)
        return f"rank {place + 1}" if place else "best"
