"""Parity: the rewards that users will get, against the PyTorch reference.

In: what a variant scores, and the reference's step rewards for the same traces. Out: a `Parity`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray

from rfprm_export.errors import ExportError, ParityError
from rfprm_export.parity import agreement, stages
from rfprm_export.parity.machine import machine
from rfprm_export.parity.probes import PROBES, long_trace, pools
from rfprm_export.parity.rounding import rounded
from rfprm_export.variants import Bound
from rfprm_lite import PRM, ContextLengthError
from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle.manifest import Parity
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.options import LoadOptions
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Trace

StepRewards = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Material:
    """Problems with traces, and which of them are the candidates of one problem."""

    traces: list[tuple[str, Trace]]
    pools: list[slice]


def material(encoder: Encoder, most: int | None = None) -> Material:
    """The pools, the probes and a long trace, as far as the model can read them. most: of the pools' candidates; whole
    pools alone are taken, the first in any case. Raises ExportError where the model can read none."""

    def fits(problem: str, trace: Trace) -> bool:
        try:
            encoder.step_sequences(problem, trace)
        except ContextLengthError:
            return False
        return True

    traces: list[tuple[str, Trace]] = []
    slices: list[slice] = []
    for pool in pools():
        candidates = [candidate for candidate in pool if fits(*candidate)]
        if most is not None and traces and len(traces) + len(candidates) > most:
            break
        slices.append(slice(len(traces), len(traces) + len(candidates)))
        traces += candidates
    traces += [probe for probe in (*PROBES, long_trace(fits)) if fits(*probe)]
    if not traces:
        raise ExportError("the model reads so few tokens that none of the exporter's traces fits it")
    return Material(traces, [pool for pool in slices if pool.stop - pool.start > 1])


def measure(bundle: Bundle, encoder: Encoder, texts: Material, expected: StepRewards, *, by_layer: bool) -> Parity:
    """by_layer: one layer in memory at a time; otherwise by the runtime, in one call (so with shared prefixes) and one
    by one."""
    found: list[StepRewards]
    with rounded(bundle) if bundle.variant.dtype == "float16" else nullcontext(bundle) as opened:
        if by_layer:
            found, speed = [stages.step_rewards(opened, encoder, texts.traces)], None
        else:
            found, speed = _by_runtime(opened, texts)
    if "cpu" not in bundle.variant.devices:
        speed = None  # of a device that is none of its own
    differences = np.abs(np.concatenate([np.concatenate(f) - np.concatenate(expected) for f in found]))
    chosen = [_totals(bundle.manifest.recipe.aggregate, rewards) for rewards in (expected, found[0])]
    pairs = [(chosen[0][pool], chosen[1][pool]) for pool in texts.pools]
    return Parity(
        max_abs_difference=float(differences.max()),
        p99_abs_difference=float(np.quantile(differences, 0.99)),
        mean_abs_difference=float(differences.mean()),
        tau=agreement.tau(pairs),
        same_choice=agreement.same_choice(pairs),
        num_pools=len(texts.pools),
        num_traces=len(texts.traces),
        num_rewards=sum(map(len, expected)),
        by="layer by layer" if by_layer else "the runtime",
        tokens_per_second=speed,
        machine=machine(),
        onnxruntime=onnxruntime.__version__,
        torch=str(torch.__version__),
        transformers=transformers.__version__,
    )


def _by_runtime(bundle: Bundle, texts: Material) -> tuple[list[StepRewards], float]:
    """Rewards in one call and one by one; tokens a second, one by one."""
    prm = PRM(bundle, LoadOptions(cache_bytes=0))
    together = [score.step_rewards for score in prm.score_many(texts.traces)]
    started = time.perf_counter()
    alone = [prm.score(problem, trace) for problem, trace in texts.traces]
    seconds = time.perf_counter() - started
    speed = sum(score.tokens.computed for score in alone) / seconds
    return [together, [score.step_rewards for score in alone]], speed


def _totals(aggregate: Aggregate, rewards: StepRewards) -> NDArray[np.float64]:
    return np.array([aggregate(steps, float(steps[-1])) for steps in rewards])


def require(name: str, parity: Parity, bound: Bound) -> None:
    """Raise ParityError where a bound is missed that must be kept."""
    missed = bound.missed(parity)
    if missed and bound.needed:
        raise ParityError(
            f"the step rewards of {name} differ from PyTorch's by {missed}, "
            f"over {parity.num_rewards} rewards. No bundle was written"
        )
