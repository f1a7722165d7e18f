"""The columns that rewards have beside their rows, in every file and data set that rfprm-lite writes."""

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
    """What a `Score` and its like have."""

    @property
    def reward(self) -> float: ...
    @property
    def final(self) -> float: ...
    @property
    def step_rewards(self) -> NDArray[np.float32]: ...


def of(rewards: Rewards) -> dict[str, object]:
    """The values of its columns."""
    return {
        REWARD: rewards.reward,
        FINAL: rewards.final,
        STEP_REWARDS: [float(reward) for reward in rewards.step_rewards],
    }


def require_free(names: Iterable[str]) -> None:
    """Raise InputError where a column has one of these names already."""
    taken = sorted(set(ALL) & set(names))
    if taken:
        raise InputError(f"the input has {', '.join(taken)} already: rename or drop what an earlier run wrote")
