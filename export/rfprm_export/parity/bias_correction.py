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
from rfprm_export.parity.emulate_float16 import emulating_cuda
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.bundle.recipe import Head
from rfprm_lite.device import DeviceSpec
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.scoring.wiring import open_model

Rewards = NDArray[np.float32]


def variant_rewards(
    bundle: Bundle, sequences: Sequence[TokenSequence], *, by_layer: bool, device: DeviceSpec
) -> list[Rewards]:
    """Score sequences with a variant.

    Args:
        bundle: With the variant.
        sequences: What to score.
        by_layer: Whether to have one layer in memory at a time; otherwise the runtime scores.
        device: Where a variant for CUDA is run; the CPU emulates it.

    Returns:
        float32 [num_read] of each sequence.
    """
    own = "cpu" in bundle.variant.devices
    if not own and device.kind == "cpu":
        with emulating_cuda(bundle) as twin:
            return stages.rewards(twin, sequences, by_layer=by_layer)
    if own and by_layer:
        return stages.rewards(bundle, sequences)
    model = open_model(bundle, DeviceSpec("cpu") if own else device, None, 0, None)
    call = Call(model.engine, budget=model.budget)
    return [scored.rewards for scored in call.rewards(sequences)]


def logit_shift(head: Head, expected: Rewards, actual: Rewards) -> float:
    """Find what, added to the logits of rewards, brings them nearest to those expected.

    By least squares over the rewards, in one step of Gauss and Newton. With r = low + (high - low) * sigmoid(logit),
    dr/dlogit = (r - low) (high - r) / (high - low), so rewards at the ends of the range have no say. Without an
    activation the slope is the same everywhere.

    Args:
        head: The recipe's.
        expected: The reference's rewards, float32 [num_read].
        actual: The variant's rewards of the same read-outs.
    """
    rewards = actual.astype(np.float64)
    low, high = head.range
    if head.activation == "none":
        slopes = np.full(len(rewards), max(head.weights) / head.std)
    else:
        slopes = (rewards - low) * (high - rewards) / (high - low)
    return float(slopes @ (expected - rewards) / (slopes @ slopes or 1.0))
