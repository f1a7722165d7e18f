"""Parity: the rewards that users will get, against the PyTorch reference.

In: a variant, and the reference's step rewards for the same traces. Out: a `Parity`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray

from rfprm_export.errors import ParityError
from rfprm_export.parity import stages
from rfprm_export.parity.emulate_float16 import emulating_cuda
from rfprm_export.parity.machine import machine
from rfprm_export.parity.texts import ParityTexts
from rfprm_export.variants import Bound
from rfprm_lite import PRM
from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle.manifest import Parity
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cuda
from rfprm_lite.evaluate import agreement
from rfprm_lite.evaluate.agreement import Differences
from rfprm_lite.options import LoadOptions
from rfprm_lite.text.encoding import Encoder

CPU = DeviceSpec("cpu")
StepRewards = Sequence[NDArray[np.float32]]
"""float32 [num_steps] for each trace."""


def measure(
    bundle: Bundle,
    encoder: Encoder,
    texts: ParityTexts,
    expected: StepRewards,
    *,
    by_layer: bool,
    device: DeviceSpec = CPU,
) -> Parity:
    """Score the texts with a variant, and compare.

    Args:
        bundle: With the variant.
        encoder: The runtime's.
        texts: What to score.
        expected: PyTorch's step rewards of the same traces.
        by_layer: Whether to have one layer in memory at a time; otherwise the runtime scores all traces in one call
            (so with shared prefixes) and then one by one, and differences are of both.
        device: Where variants for CUDA run; the CPU emulates them.

    Raises:
        NumericalError: A reward is no number.
    """
    ways: list[StepRewards]
    variant, speed = bundle.variant, None
    own = "cpu" in variant.devices
    if not own and device.kind == "cpu":
        with emulating_cuda(bundle) as twin:
            ways = [stages.step_rewards(twin, encoder, texts.traces, by_layer=by_layer)]
        by = f"{variant.kv_dtype} emulated on a CPU"
    elif by_layer and own:
        ways, by = [stages.step_rewards(bundle, encoder, texts.traces)], "layer by layer"
    else:
        ways, speed = _by_runtime(bundle, texts, CPU if own else device)
        by = "the runtime"
    apart = Differences.of(np.concatenate([np.concatenate(way) - np.concatenate(expected) for way in ways]))
    reference, found = (_totals(bundle.manifest.recipe.aggregate, rewards) for rewards in (expected, ways[0]))
    pairs = [(reference[pool], found[pool]) for pool in texts.pools]
    return Parity(
        max_abs_difference=apart.largest,
        p99_abs_difference=apart.p99,
        mean_abs_difference=apart.mean,
        tau=agreement.tau(pairs),
        same_choice=agreement.same_choice(pairs),
        num_pools=len(texts.pools),
        num_traces=len(texts.traces),
        num_rewards=sum(map(len, expected)),
        by=by,
        tokens_per_second=speed,
        machine=machine() if own or device.kind == "cpu" else cuda.card(device.index).name,
        onnxruntime=onnxruntime.__version__,
        torch=str(torch.__version__),
        transformers=transformers.__version__,
    )


def require(name: str, parity: Parity, bound: Bound) -> None:
    """Check a bound that must be kept.

    Args:
        name: The variant's.
        parity: What was measured.
        bound: The variant's.

    Raises:
        ParityError: It is missed.
    """
    missed = bound.missed(parity)
    if missed and bound.needed:
        raise ParityError(
            f"the step rewards of {name} differ from PyTorch's by {missed}, "
            f"over {parity.num_rewards} rewards. No bundle was written"
        )


def describe(parity: Parity, bound: Bound) -> str:
    """Say in words what was measured, and which bound was missed."""
    missed = bound.missed(parity)
    refused = f"; no device's default: {missed}" if missed else ""
    return (
        f"step rewards differ from PyTorch's by {parity.mean_abs_difference:.1e} on average, "
        f"{parity.max_abs_difference:.1e} at most{refused}"
    )


def _by_runtime(bundle: Bundle, texts: ParityTexts, device: DeviceSpec) -> tuple[list[StepRewards], float]:
    """Rewards in one call and one by one; tokens a second, one by one."""
    prm = PRM(bundle, LoadOptions(cache_bytes=0, device=str(device)))
    together = [score.step_rewards for score in prm.score_many(texts.traces)]
    started = time.perf_counter()
    alone = [prm.score(problem, trace) for problem, trace in texts.traces]
    seconds = time.perf_counter() - started
    speed = sum(score.tokens.computed for score in alone) / seconds
    return [together, [score.step_rewards for score in alone]], speed


def _totals(aggregate: Aggregate, rewards: StepRewards) -> NDArray[np.float64]:
    return np.array([aggregate(steps, float(steps[-1])) for steps in rewards])
