"""Step rewards to one reward.

In: step rewards and, where the aggregate has one, a final reward. Out: a float and the range it lies in. The
paper's own is `mean+final`: r_hat = mean_t(r_t) + alpha * r_final (arXiv 2506.18896, data selection and Best-of-N).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import InputError, InputTypeError

AggregateName = Literal["mean", "min", "max", "product", "last", "softmin", "mean+final"]
Final = Literal["last", "response"]
Reduce = Callable[[NDArray[np.float32]], float]
"""Step rewards, float32 [num_steps], to one number."""
Range = tuple[float, float]
"""Lowest and highest possible value; infinite where nothing bounds it."""

UNIT: Range = (0.0, 1.0)
"""The range of a probability, which most step rewards are."""

_REDUCE: dict[str, Callable[[NDArray[np.float64]], np.float64]] = {
    "mean": np.mean,
    "min": np.min,
    "max": np.max,
    "product": np.prod,
    "last": lambda rewards: rewards[-1],
}
_NAMES = (*_REDUCE, "softmin", "mean+final")


class Aggregate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to make one reward of step rewards.

    Attributes:
        name: mean, min, max, product, last; softmin, a mean in which low rewards weigh the most (PURE, arXiv
            2504.15275); or mean+final, the paper's mean + alpha * final.
        alpha: Weight of the final reward in mean+final, at least 0; 1.0 does best on AIME25 and MATH500 among the
            values of the paper's ablation up to 1.0. Without meaning elsewhere.
        final: What the final reward of the trajectory is, whatever the name: `last`, the last step's; or `response`,
            read out a second time with the whole final response as one step. The paper does not say which the released
            model was meant for.
        temperature: Of softmin, above 0: the lower, the nearer it is to min. Without meaning elsewhere.

    Raises:
        InputError: If a value is none of these.
    """

    name: AggregateName
    alpha: float = 1.0
    final: Final = "last"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.name not in _NAMES:
            raise InputError(f"no aggregate is called {self.name!r}: there are {', '.join(_NAMES)}")
        if self.final not in ("last", "response"):
            raise InputError(f"final={self.final!r}: it is 'last' or 'response'")
        if not isinstance(self.alpha, (int, float)) or not 0 <= self.alpha < float("inf"):
            raise InputError(f"alpha={self.alpha}: it is a finite number from 0 on")
        if not isinstance(self.temperature, (int, float)) or not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature={self.temperature}: it is a finite number above 0")

    @property
    def scores_response(self) -> bool:
        """Whether a second read-out is needed, with the response as one step."""
        return self.final == "response"

    def is_monotone(self, steps: Range = UNIT) -> bool:
        """Whether a higher step reward never lowers the reward, so that missing ones can be bounded.

        Not of softmin, where a high reward loses its weight; and of a product only where no reward is below 0.

        Args:
            steps: The range of step rewards.
        """
        return self.name != "softmin" and (self.name != "product" or steps[0] >= 0)

    def never_rises(self, steps: Range = UNIT) -> bool:
        """Whether a further step never raises the reward: true of min, and of a product of probabilities.

        Args:
            steps: The range of step rewards.
        """
        return self.name == "min" or (self.name == "product" and steps[0] >= 0 and steps[1] <= 1)

    def range_over(self, steps: Range = UNIT) -> Range:
        """Lowest and highest possible value.

        Args:
            steps: The range of step rewards.
        """
        low, high = steps
        if self.name == "mean+final":
            return low * (1 + self.alpha), high * (1 + self.alpha)
        if self.name == "product" and not (low >= 0 and high <= 1):
            size = max(-low, high)
            return (-1.0 if low < 0 else 0.0, 1.0) if size <= 1 else (-math.inf if low < 0 else 0.0, math.inf)
        return (0.0, high) if self.name == "product" else (low, high)

    def __call__(self, step_rewards: NDArray[np.float32], final: float) -> float:
        """The reward, computed in float64.

        Args:
            step_rewards: float32 [num_steps], at least one.
            final: The final reward.
        """
        rewards = np.asarray(step_rewards, np.float64)
        if self.name == "mean+final":
            weighted = self.alpha * final if self.alpha else 0.0  # of an infinite bound, too
            return float(rewards.mean() + weighted)
        if self.name == "softmin":
            return _softmin(rewards, self.temperature)
        return float(_REDUCE[self.name](rewards))

    def __str__(self) -> str:
        return f"mean + {self.alpha:g} * {self.final}" if self.name == "mean+final" else self.name


@dataclass(frozen=True, slots=True)
class CustomAggregate:
    """A function of yours as an aggregate.

    Attributes:
        function: Step rewards, float32 [num_steps], to one finite number.
        monotone: Say True where a higher step reward never lowers the result, to the last bit: then best-of-N may stop
            reading a candidate whose highest possible reward is too low. It is not checked.
        reward_range: Lowest and highest possible value, or None if there are none.
    """

    function: Reduce
    monotone: bool = False
    reward_range: Range | None = None

    @property
    def scores_response(self) -> bool:
        """Always False: it sees step rewards alone."""
        return False

    def is_monotone(self, _steps: Range = UNIT) -> bool:
        """Whether you said so."""
        return self.monotone

    def never_rises(self, _steps: Range = UNIT) -> bool:
        """Always False: nobody knows what a further step does."""
        return False

    def range_over(self, _steps: Range = UNIT) -> Range | None:
        """The range that you gave."""
        return self.reward_range

    def __call__(self, step_rewards: NDArray[np.float32], final: float) -> float:  # noqa: ARG002
        """The function's value.

        Args:
            step_rewards: float32 [num_steps], at least one.
            final: Not used.

        Raises:
            InputError: If the value is no finite number.
        """
        value = float(self.function(step_rewards.copy()))  # it may sort them
        if not np.isfinite(value):
            raise InputError(f"the aggregate {self} gave {value} for {len(step_rewards)} step rewards: a finite number")
        return value

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


AnyAggregate = Aggregate | CustomAggregate
AggregateLike = AggregateName | Aggregate | CustomAggregate | Reduce
"""The aggregates that calls take: a name, an `Aggregate`, or a function of the step rewards."""


def as_aggregate(value: AggregateLike | None, default: Aggregate) -> AnyAggregate:
    """The aggregate that a caller named or gave.

    Args:
        value: A name, which takes alpha, final and temperature from the default; an aggregate; a function of the step
            rewards; or None for the default.
        default: The recipe's own.

    Raises:
        InputError: If no aggregate is called so.
        InputTypeError: If it is neither a name, an aggregate nor a function.
    """
    if value is None:
        return default
    if isinstance(value, (Aggregate, CustomAggregate)):
        return value
    if isinstance(value, str):
        return Aggregate(value, default.alpha, default.final, default.temperature)
    if callable(value):
        return CustomAggregate(value)
    raise InputTypeError(f"an aggregate is a name, an Aggregate or a function, not {type(value).__name__}")


def _softmin(rewards: NDArray[np.float64], temperature: float) -> float:
    """Sum of r * softmax(-r / temperature), as PURE's turn_process_reward_logits_to_reward has it."""
    weights = np.exp((rewards.min() - rewards) / temperature)
    return float(weights @ rewards / weights.sum())
