"""What scoring returns. A result builds its own record; the views of records are imported where one is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.plan.usage import Usage
from rfprm_lite.show.record import BestOfNRecord, ScoreRecord, StepRecord
from rfprm_lite.trace import Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

Candidate = TypeVar("Candidate")


class Judged(ABC):
    """A trace with rewards, a `Score` or a `Unfinished`, as people look at it."""

    __slots__ = ()

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """For JSON."""

    @abstractmethod
    def record(self) -> ScoreRecord:
        """What every view shows of it."""

    def __rich__(self) -> RenderableType:
        """For `rich.print` and rich's consoles."""
        from rfprm_lite.show.terminal import score_view

        return score_view(self.record())

    def _repr_html_(self) -> str:
        """For notebooks: steps shaded by their rewards, in the reader's light or dark; no script."""
        from rfprm_lite.show.html import score_html

        return score_html(self.record())

    def plot(self) -> Figure:
        """Steps and their rewards as a matplotlib figure, to be saved by `savefig`; the thinking is shaded, the first
        step below 0.5 marked. `pip install 'rfprm-lite[plot]'`; raises ImportError without."""
        from rfprm_lite.show.figure import plot_score

        return plot_score(self.record())


@dataclass(frozen=True, slots=True, eq=False)
class Score(Judged):
    """The rewards of one trace.

    step_rewards: float32 [num_steps], in [0, 1].
    trajectory_reward: the final reward, in [0, 1], as `aggregate.final` defines it: the last step's, or the reward of
        the final response as one step. For a PRM with one reward a trajectory, that one.
    reward: the step rewards (and the final one) as `aggregate` makes them one; lies in `reward_range`.
    steps: the steps, in order.
    """

    step_rewards: NDArray[np.float32]
    trajectory_reward: float
    reward: float
    aggregate: Aggregate
    steps: tuple[Step, ...]
    tokens: Usage

    @property
    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest value that `reward` can have."""
        return self.aggregate.reward_range

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "reward": self.reward,
            "reward_range": list(self.reward_range),
            "aggregate": str(self.aggregate),
            "trajectory_reward": self.trajectory_reward,
            "step_rewards": [float(r) for r in self.step_rewards],
            "steps": _steps(self.steps),
            "tokens": _tokens(self.tokens),
        }

    def record(self) -> ScoreRecord:
        """What every view shows of it."""
        return ScoreRecord(**_shared(self), reward=self.reward)


@dataclass(frozen=True, slots=True, eq=False)
class Unfinished(Judged):
    """The rewards of a candidate that was not read to its end, since it can't be among the best any more.

    step_rewards: float32 [num_read], of the first steps: fewer than there are, or all where only the final reward was
        not read.
    lowest, highest: between these its reward lies.
    """

    step_rewards: NDArray[np.float32]
    lowest: float
    highest: float
    aggregate: Aggregate
    steps: tuple[Step, ...]
    tokens: Usage

    @property
    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest value that any reward can have."""
        return self.aggregate.reward_range

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "bounds": [self.lowest, self.highest],
            "reward_range": list(self.reward_range),
            "aggregate": str(self.aggregate),
            "step_rewards": [float(r) for r in self.step_rewards],
            "steps": _steps(self.steps),
            "tokens": _tokens(self.tokens),
        }

    def record(self) -> ScoreRecord:
        """What every view shows of it."""
        return ScoreRecord(**_shared(self), bounds=(self.lowest, self.highest))


@dataclass(frozen=True, slots=True, eq=False)
class BestOfN(Generic[Candidate]):
    """The best candidates of several.

    ranking: indices of the best, best first, the first among equals first: one of `best_of_n`, k of `top_k`.
    scores: of all candidates, in the order given: a `Unfinished` where one was not read to its end.
    """

    ranking: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    scores: tuple[Score | Unfinished, ...]
    tokens: Usage

    @property
    def index(self) -> int:
        """Of the best candidate."""
        return self.ranking[0]

    @property
    def candidate(self) -> Candidate:
        """The best."""
        return self.candidates[self.index]

    @property
    def ranked(self) -> tuple[Score, ...]:
        """The scores of the ranking."""
        return tuple(score for i in self.ranking if isinstance(score := self.scores[i], Score))

    @property
    def score(self) -> Score:
        """The best candidate's."""
        return self.ranked[0]

    @property
    def complete(self) -> tuple[bool, ...]:
        """Which candidates were read to their ends."""
        return tuple(isinstance(score, Score) for score in self.scores)

    def __rich__(self) -> RenderableType:
        """For `rich.print` and rich's consoles."""
        from rfprm_lite.show.terminal import best_of_n_view

        return best_of_n_view(self.record())

    def _repr_html_(self) -> str:
        """For notebooks: the candidates side by side, each as a `Score` is shown."""
        from rfprm_lite.show.html import best_of_n_html

        return best_of_n_html(self.record())

    def plot(self) -> Figure:
        """The candidates' rewards in one matplotlib figure: up to six of them named, thinking dotted, first steps
        below 0.5 marked. `pip install 'rfprm-lite[plot]'`; raises ImportError without."""
        from rfprm_lite.show.figure import plot_best_of_n

        return plot_best_of_n(self.record())

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "index": self.index,
            "ranking": list(self.ranking),
            "scores": [score.to_dict() for score in self.scores],
            "tokens": _tokens(self.tokens),
        }

    def record(self) -> BestOfNRecord:
        """What every view shows of it."""
        return BestOfNRecord(self.ranking, tuple(score.record() for score in self.scores), self.tokens)


class _Shared(TypedDict):
    steps: tuple[StepRecord, ...]
    step_rewards: tuple[float, ...]
    aggregate: str
    reward_range: tuple[float, float]
    tokens: Usage


def _shared(score: Score | Unfinished) -> _Shared:
    """What a score and a partial one have in common."""
    return {
        "steps": tuple(StepRecord(step.text, step.part) for step in score.steps),
        "step_rewards": tuple(float(reward) for reward in score.step_rewards),
        "aggregate": str(score.aggregate),
        "reward_range": score.reward_range,
        "tokens": score.tokens,
    }


def _steps(steps: tuple[Step, ...]) -> list[dict[str, object]]:
    return [{"text": s.text, "start": s.start, "end": s.end, "part": s.part} for s in steps]


def _tokens(tokens: Usage) -> dict[str, int]:
    found = {"total": tokens.total, "computed": tokens.computed, "reused": tokens.reused}
    return found | {"skipped": tokens.skipped} if tokens.skipped else found
