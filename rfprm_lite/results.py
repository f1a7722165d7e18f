"""The results of scoring. Each builds its own record; the views of records are imported where one is needed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.aggregate import AnyAggregate
from rfprm_lite.errors import RfprmError
from rfprm_lite.plan.usage import Usage
from rfprm_lite.scale import PROBABILITY, Scale
from rfprm_lite.show.record import BestOfNRecord, ScoreRecord, StepRecord
from rfprm_lite.trace import Response, Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

Candidate = TypeVar("Candidate", bound=Response)
Scored_co = TypeVar("Scored_co", bound="Score | Unfinished | RfprmError", covariant=True)
Range = tuple[float, float] | None
"""Lowest and highest possible value; None where there are none."""


@dataclass(frozen=True, slots=True, eq=False)
class _Judged(ABC):
    """A trace with rewards, as people look at it.

    Attributes:
        step_rewards: float32, within `scale`, of the steps that were read out.
        aggregate: What makes one reward of them.
        steps: All steps, in order.
        tokens: Token counts.
        scale: What a step reward can be; a probability for most PRMs.
        truncated: Steps that the model did not see to their ends, since the text was too long and the caller asked for
            truncation. The rewards of dropped ones are NaN, and the aggregate is of the others.
    """

    step_rewards: NDArray[np.float32]
    aggregate: AnyAggregate
    steps: tuple[Step, ...]
    tokens: Usage
    scale: Scale = field(default=PROBABILITY, kw_only=True)
    truncated: int = field(default=0, kw_only=True)

    @property
    def reward_range(self) -> Range:
        """Lowest and highest value that the reward can have; None where nothing bounds it."""
        return _finite(self.aggregate.range_over(self.scale.range))

    @abstractmethod
    def _outcome(self) -> dict[str, object]:
        """The reward or its bounds, for JSON."""

    @abstractmethod
    def record(self) -> ScoreRecord:
        """The plain values that every view shows."""

    def to_dict(self) -> dict[str, object]:
        """The result in types that JSON has, as `rfprm score --json` writes it."""
        return {
            **self._outcome(),
            "reward_range": self.reward_range and list(self.reward_range),
            "aggregate": str(self.aggregate),
            "step_rewards": [_number(reward) for reward in self.step_rewards],
            "truncated": self.truncated,
            "step_range": list(self.scale.range) if self.scale.bounded else None,
            "good_above": self.scale.good_above,
            "steps": [{"text": s.text, "start": s.start, "end": s.end, "part": s.part} for s in self.steps],
            "tokens": self.tokens.to_dict(),
        }

    def __rich__(self) -> RenderableType:
        """The renderable of `rich.print` and rich's consoles."""
        from rfprm_lite.show.terminal import score_view

        return score_view(self.record())

    def _repr_html_(self) -> str:
        """The view of notebooks: steps shaded by their rewards, in the reader's light or dark; no script."""
        from rfprm_lite.show.html import score_html

        return score_html(self.record())

    def plot(self) -> Figure:
        """Steps and their rewards as a matplotlib figure, to be saved by `savefig`.

        The thinking is shaded, the first weak step marked. `pip install 'rfprm-lite[plot]'`.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        from rfprm_lite.show.figure import plot_score

        return plot_score(self.record())

    def _record(self, reward: float | None = None, bounds: tuple[float, float] | None = None) -> ScoreRecord:
        return ScoreRecord(
            steps=tuple(StepRecord(step.text, step.part) for step in self.steps),
            step_rewards=tuple(_number(value) for value in self.step_rewards),
            aggregate=str(self.aggregate),
            reward_range=self.reward_range,
            step_range=_finite(self.scale.range),
            good_above=self.scale.good_above,
            tokens=self.tokens,
            reward=reward,
            bounds=bounds,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Score(_Judged):
    """The rewards of one trace.

    Attributes:
        step_rewards: float32 [num_steps], within `scale`.
        aggregate: What made one reward of them.
        steps: The steps, in order.
        tokens: Token counts.
        reward: The reward of the trace, as `aggregate` makes it; lies in `reward_range`.
        final: The final reward of the trajectory, as `aggregate.final` defines it: the last step's, or that of the
            final response as one step. For a PRM with one reward a trajectory, that one.
        scale: What a step reward can be.
        truncated: Steps that the model did not see to their ends; see `LoadOptions.truncate`.
    """

    reward: float
    final: float

    def _outcome(self) -> dict[str, object]:
        return {"reward": self.reward, "final": self.final}

    def record(self) -> ScoreRecord:
        """The plain values that every view shows."""
        return self._record(reward=self.reward)


@dataclass(frozen=True, slots=True, eq=False)
class Unfinished(_Judged):
    """The rewards of a candidate that was not read to its end, since it can't be among the best any more.

    Attributes:
        step_rewards: float32, of the first steps: fewer than there are, or all where only the final reward is missing.
        aggregate: What would make one reward of them.
        steps: All steps, in order.
        tokens: Token counts.
        lowest: The lowest reward that it can have; -inf where there is none.
        highest: The highest reward that it can have; inf where there is none.
        scale: What a step reward can be.
    """

    lowest: float
    highest: float

    def _outcome(self) -> dict[str, object]:
        return {"bounds": [x if math.isfinite(x) else None for x in (self.lowest, self.highest)]}  # JSON has no inf

    def record(self) -> ScoreRecord:
        """The plain values that every view shows."""
        return self._record(bounds=(self.lowest, self.highest))


@dataclass(frozen=True, slots=True, eq=False)
class BestOfN(Generic[Candidate, Scored_co]):
    """The best candidates of several.

    Attributes:
        ranking: Indices of the best, best first, the first among equals first: one of `best_of_n`, k of `top_k`. A
            candidate with an error is behind all others.
        candidates: All candidates, in the order given.
        scores: The scores of all candidates, in that order. With `exhaustive=True`, each is a `Score`; otherwise one
            that was not read to its end is an `Unfinished`. With `on_error="return"`, one that can't be scored is its
            error.
        tokens: Token counts of all together.
    """

    ranking: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    scores: tuple[Scored_co, ...]
    tokens: Usage

    @property
    def index(self) -> int:
        """The index of the best candidate."""
        return self.ranking[0]

    @property
    def candidate(self) -> Candidate:
        """The best candidate."""
        return self.candidates[self.index]

    @property
    def ranked(self) -> tuple[Score, ...]:
        """The scores of the ranking, without errors."""
        return tuple(score for i in self.ranking if isinstance(score := self.scores[i], Score))

    @property
    def score(self) -> Score:
        """The best candidate's score."""
        return self.ranked[0]

    @property
    def complete(self) -> tuple[bool, ...]:
        """Whether each candidate was read to its end."""
        return tuple(isinstance(score, Score) for score in self.scores)

    def record(self) -> BestOfNRecord:
        """The plain values that every view shows."""
        scores = (
            ScoreRecord(error=str(score)) if isinstance(score, RfprmError) else score.record() for score in self.scores
        )
        return BestOfNRecord(self.ranking, tuple(scores), self.tokens)

    def to_dict(self) -> dict[str, object]:
        """The result in types that JSON has, as `rfprm best-of-n --json` writes it."""
        return {
            "index": self.index,
            "ranking": list(self.ranking),
            "scores": [
                {"error": str(score)} if isinstance(score, RfprmError) else score.to_dict() for score in self.scores
            ],
            "tokens": self.tokens.to_dict(),
        }

    def __rich__(self) -> RenderableType:
        """The renderable of `rich.print` and rich's consoles."""
        from rfprm_lite.show.terminal import best_of_n_view

        return best_of_n_view(self.record())

    def _repr_html_(self) -> str:
        """The view of notebooks: the candidates side by side, each as a `Score` is shown."""
        from rfprm_lite.show.html import best_of_n_html

        return best_of_n_html(self.record())

    def plot(self) -> Figure:
        """The candidates' rewards in one matplotlib figure.

        Up to six are named, thinking is dotted, first weak steps are marked. `pip install 'rfprm-lite[plot]'`.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        from rfprm_lite.show.figure import plot_best_of_n

        return plot_best_of_n(self.record())


def _finite(values: tuple[float, float] | None) -> Range:
    return values if values is not None and all(map(math.isfinite, values)) else None


def _number(reward: float) -> float | None:
    """A step's reward for JSON and views; None where it has none."""
    return None if math.isnan(reward) else float(reward)
