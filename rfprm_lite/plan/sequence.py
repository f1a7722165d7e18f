"""Token sequences and their rewards: the nouns that plan, cache, schedule and engine share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rewards = NDArray[np.float32]
"""float32 [num_readouts]."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """A sequence of tokens, from the model's first position on.

    Attributes:
        ids: int64 [num_tokens].
        read_at: int64 [num_readouts], positions in `ids` whose rewards are wanted, ascending; the last is
            num_tokens - 1, since nothing behind the last read-out changes a reward.
    """

    ids: NDArray[np.int64]
    read_at: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SequenceRewards:
    """The rewards of a sequence.

    Attributes:
        rewards: float32 [num_readouts].
        computed: Tokens that were computed for this sequence first; others shared them, or they were cached.
    """

    rewards: Rewards
    computed: int
