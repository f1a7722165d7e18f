"""Token sequences and their rewards: the nouns that plan, cache, schedule and engine share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float32]
"""float32 [num_read], in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """What the model reads from its first position on.

    ids: int64 [num_tokens]. read_at: int64 [num_read], positions in ids whose rewards are wanted, ascending; the last
    is num_tokens - 1, since nothing behind the last read-out changes a reward.
    """

    ids: NDArray[np.int64]
    read_at: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SequenceRewards:
    """rewards: float32 [num_read] in [0, 1]. computed: tokens computed for this sequence first."""

    rewards: Rewards
    computed: int
