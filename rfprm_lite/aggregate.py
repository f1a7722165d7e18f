"""Step rewards to one reward.

In: step rewards and, where the aggregate has one, a final reward. Out: a float and the range it lies in. The
paper's own is `mean+final`: r_hat = mean_t(r_t) + alpha * r_final (arXiv 2506.18896, data selection and Best-of-N).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import InputError, InputTypeError

AggregateName = Literal["mean", "min", "product", "last", "mean+final"]
Final = Literal["last", "response"]
Reduce = Callable[[NDArray[np.float32]], float]
"""Step rewards, float32 [num_steps], to one number."""

_REDUCE: dict[str, Callable[[NDArray[np.float64]], np.float64]] = {
    "mean": np.mean,
    "min": np.min,
    "product": np.prod,
    "last": lambda rewards: rewards[-1],
}
_NAMES = (*_REDUCE, "mean+final")


class Aggregate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to make one reward of step rewards.

    Attributes:
        name: mean, min, product, last, or mean+final, the paper's mean + alpha * final.
        alpha: Weight of the final reward in mean+final, at least 0; 1.0 does best on AIME25 and MATH500 among the
            values of the paper's ablation up to 1.0. Without meaning elsewhere.
        final: What the final reward of the trajectory is, whatever the name: `last`, the last step's; or `response`,
            read out a second time with the whole final response as one step. The paper does not say which the released
            model was meant for.

    Raises:
        InputError: If a value is none of these.
    """

    name: AggregateName
    alpha: float = 1.0
    final: Final = "last"

    def __post_init__(self) -> None:
        if self.name not in _NAMES:
            raise InputError(f"no aggregate is called {self.name!r}: there are {', '.join(_NAMES)}")
        if self.final not in ("last", "response"):
            raise InputError(f"final={self.final!r}: it is 'last' or 'response'")
        if not isinstance(self.alpha, (int, float)) or not 0 <= self.alpha < float("inf"):
            raise InputError(f"alpha={self.alpha}: it is a finite number from 0 on")

    @property
    def scores_response(self) -> bool:
        """Whether a second read-out is needed, with the response as one step."""
        return self.final == "response"

    @property
    def monotone(self) -> bool:
        """Whether a higher step reward never lowers the reward: true of all names."""
        return True

    @property
    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest possible value."""
        return (0.0, 1.0 + self.alpha) if self.name == "mean+final" else (0.0, 1.0)

    def __call__(self, step_rewards: NDArray[np.float32], final: float) -> float:
        """The reward, computed in float64.

        Args:
            step_rewards: float32 [num_steps], at least one, in [0, 1].
            final: The final reward, in [0, 1].
        """
        rewards = np.asarray(step_rewards, np.float64)
        if self.name == "mean+final":
            return float(rewards.mean() + self.alpha * final)
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
    reward_range: tuple[float, float] | None = None

    @property
    def scores_response(self) -> bool:
        """Always False: it sees step rewards alone."""
        return False

    def __call__(self, step_rewards: NDArray[np.float32], final: float) -> float:  # noqa: ARG002
        """The function's value.

        Args:
            step_rewards: float32 [num_steps], at least one, in [0, 1].
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
        value: A name, which takes alpha and final from the default; an aggregate; a function of the step rewards; or
            None for the default.
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
        return Aggregate(value, default.alpha, default.final)
    if callable(value):
        return CustomAggregate(value)
    raise InputTypeError(f"an aggregate is a name, an Aggregate or a function, not {type(value).__name__}")
