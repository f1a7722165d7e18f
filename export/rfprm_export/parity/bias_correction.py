"""Taking a variant's mean error off its rewards, at the head's bias (bias correction, arXiv 1906.04721).

In: rewards of the same read-outs, as they should be and as the variant has them. Out: a number for its logits. Rounding
errs to both sides alike, but rewards all went the same way on real activations
(bench/log/2026-11-24-head-bias-correction.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rfprm_export.parity import stages
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.scoring.wiring import open_engine

Rewards = NDArray[np.float32]


def variant_rewards(bundle: Bundle, sequences: Sequence[TokenSequence], *, by_layer: bool) -> list[Rewards]:
    """float32 [num_read] of each. by_layer: one layer in memory at a time; otherwise by the runtime."""
    if by_layer:
        return stages.rewards(bundle, sequences)
    call = Call(open_engine(bundle, DeviceSpec("cpu"), None))
    return [scored.rewards for scored in call.rewards(sequences)]


def logit_shift(expected: Rewards, found: Rewards) -> float:
    """What, added to the logits of the rewards found, brings them nearest to those expected: by least squares over the
    rewards, in one step of Gauss and Newton. Rewards of 0 and 1 have no say."""
    found_exactly = found.astype(np.float64)
    slopes = found_exactly * (1 - found_exactly)
    return float(slopes @ (expected - found_exactly) / (slopes @ slopes or 1.0))
