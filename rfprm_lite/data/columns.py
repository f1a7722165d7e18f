"""The columns of rewards beside their rows, in every file and data set that rfprm-lite writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import InputError

REWARD = "rfprm_reward"
FINAL = "rfprm_final"
STEP_REWARDS = "rfprm_step_rewards"
KEPT = "rfprm_kept"
ERROR = "rfprm_error"

ALL = (REWARD, FINAL, STEP_REWARDS, KEPT, ERROR)


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
    """The columns of a trace's rewards, with their values."""
    return {
        REWARD: rewards.reward,
        FINAL: rewards.final,
        STEP_REWARDS: [float(reward) for reward in rewards.step_rewards],
    }


def require_free(names: Iterable[str]) -> None:
    """Check that no column of the input has the name of one that is added.

    Raises:
        InputError: If one has.
    """
    clashes = sorted(set(ALL) & set(names))
    if clashes:
        raise InputError(f"the input has {', '.join(clashes)} already: rename or drop what an earlier run wrote")
