"""The columns that rewards have beside their rows, in every file and data set that rfprm-lite writes."""

from __future__ import annotations

from collections.abc import Iterable

from rfprm_lite.errors import InputError
from rfprm_lite.results import Score

REWARD = "rfprm_reward"
TRAJECTORY_REWARD = "rfprm_trajectory_reward"
STEP_REWARDS = "rfprm_step_rewards"
KEPT = "rfprm_kept"
ERROR = "rfprm_error"

ALL = (REWARD, TRAJECTORY_REWARD, STEP_REWARDS, KEPT, ERROR)


def of(score: Score) -> dict[str, object]:
    """The values of a score's columns."""
    return {
        REWARD: score.reward,
        TRAJECTORY_REWARD: score.trajectory_reward,
        STEP_REWARDS: [float(reward) for reward in score.step_rewards],
    }


def require_free(names: Iterable[str]) -> None:
    """Raise InputError where a column has one of these names already."""
    taken = sorted(set(ALL) & set(names))
    if taken:
        raise InputError(f"the input has {', '.join(taken)} already: rename or drop what an earlier run wrote")
