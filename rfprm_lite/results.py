"""What scoring returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.trace import Step

Candidate = TypeVar("Candidate")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a result took, in tokens.

    total: of the text that the model reads, every read of it counted. computed: run through the model for this
    result. reused: total - computed, tokens whose keys and values were there already.
    """

    total: int
    computed: int

    @property
    def reused(self) -> int:
        return self.total - self.computed

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.total + other.total, self.computed + other.computed)


@dataclass(frozen=True, slots=True, eq=False)
class Score:
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
    tokens: Tokens

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
            "steps": [{"text": s.text, "start": s.start, "end": s.end, "part": s.part} for s in self.steps],
            "tokens": _tokens(self.tokens),
        }


@dataclass(frozen=True, slots=True, eq=False)
class BestOfN(Generic[Candidate]):
    """index: of the best candidate, the first among equals. scores: of all, in the order given."""

    index: int
    candidate: Candidate
    scores: tuple[Score, ...]
    tokens: Tokens

    @property
    def score(self) -> Score:
        """The best candidate's."""
        return self.scores[self.index]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "index": self.index,
            "scores": [score.to_dict() for score in self.scores],
            "tokens": _tokens(self.tokens),
        }


def _tokens(tokens: Tokens) -> dict[str, int]:
    return {"total": tokens.total, "computed": tokens.computed, "reused": tokens.reused}
