"""The columns of rewards beside their rows, in every file and data set that rfprm-lite writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import InputError

REWARD = "rfprm_reward"
FINAL = "rfprm_final"
STEP_REWARDS = "rfprm_step_rewards"
KEPT = "rfprm_kept"
ERROR = "rfprm_error"

ALL = (REWARD, FINAL, STEP_REWARDS, KEPT, ERROR)
EXAMPLE: dict[str, object] = {REWARD: 0.0, FINAL: 0.0, STEP_REWARDS: [0.0]}
"""What a row that is scored gets."""


class Rewards(Protocol):
    """The rewards of a trace, as a `Score` has them."""

    @property
    def reward(self) -> float:
        """The reward of the trace."""

    @property
    def final(self) -> float:
        """The final reward."""

    @property
    def step_rewards(self) -> NDArray[np.float32]:
        """The reward of each step, float32 [num_steps]."""


def of(rewards: Rewards) -> dict[str, object]:
    """The columns of a trace's rewards, with their values; a step that was left out has none."""
    return {
        REWARD: rewards.reward,
        FINAL: rewards.final,
        STEP_REWARDS: [None if np.isnan(reward) else float(reward) for reward in rewards.step_rewards],
    }


def arrow_types(pa: Any) -> dict[str, Any]:
    """The type of each column in Parquet and in Arrow.

    Args:
        pa: The module pyarrow.
    """
    return {
        REWARD: pa.float64(),
        FINAL: pa.float64(),
        STEP_REWARDS: pa.list_(pa.float32()),
        KEPT: pa.bool_(),
        ERROR: pa.string(),
    }


def require_free(names: Iterable[str]) -> None:
    """Check that no column of the input has the name of one that is added.

    Raises:
        InputError: If one has.
    """
    clashes = sorted(set(ALL) & set(names))
    if clashes:
        raise InputError(f"the input has {', '.join(clashes)} already: rename or drop what an earlier run wrote")
