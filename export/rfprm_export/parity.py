"""Parity: the rewards that users will get, against the PyTorch reference.

In: the reference and a PRM loaded by the runtime. Out: a `Parity`, measured on fixed traces, scored in one call (so
with shared prefixes) and one by one (without).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray

from rfprm_export.errors import ExportError, ParityError
from rfprm_export.probes import PROBES, long_trace
from rfprm_export.reference import Reference
from rfprm_lite import PRM, ContextLengthError
from rfprm_lite.encoding import Encoder
from rfprm_lite.manifest import Parity
from rfprm_lite.trace import Trace

FP32_BOUND = 1e-4
"""The largest difference of a step reward from the reference that an FP32 export may have."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Step rewards of the runtime on the traces: float32 [2, num_rewards], in one call and one by one."""

    traces: list[tuple[str, Trace]]
    rewards: NDArray[np.float32]


def traces_for(encoder: Encoder) -> list[tuple[str, Trace]]:
    """The probes that the model can read, and a long trace. Raises ExportError where there are none."""

    def fits(problem: str, trace: Trace) -> bool:
        try:
            encoder.step_sequences(problem, trace)
        except ContextLengthError:
            return False
        return True

    traces = [probe for probe in (*PROBES, long_trace(fits)) if fits(*probe)]
    if not traces:
        raise ExportError("the model reads so few tokens that none of the exporter's probes fits it")
    return traces


def score(prm: PRM, traces: list[tuple[str, Trace]]) -> Measured:
    """What users will get."""
    shared = np.concatenate([score.step_rewards for score in prm.score_many(traces)])
    alone = np.concatenate([prm.score(problem, trace).step_rewards for problem, trace in traces])
    return Measured(traces, np.stack([shared, alone]))


def compare(measured: Measured, reference: Reference) -> Parity:
    """Differences of all step rewards, over both ways to score."""
    expected = np.concatenate(reference.step_rewards(measured.traces))
    differences = np.abs(measured.rewards - expected)
    return Parity(
        max_abs_difference=float(differences.max()),
        mean_abs_difference=float(differences.mean()),
        num_traces=len(measured.traces),
        num_rewards=len(expected),
        onnxruntime=onnxruntime.__version__,
        torch=str(torch.__version__),
        transformers=transformers.__version__,
    )


def require(parity: Parity, bound: float) -> None:
    """Raise ParityError where the bound is missed; not-a-number misses it too."""
    if not parity.max_abs_difference <= bound:
        raise ParityError(
            f"the exported graph's step rewards differ from PyTorch's by up to {parity.max_abs_difference:.2e} "
            f"(mean {parity.mean_abs_difference:.2e}) over {parity.num_rewards} rewards; "
            f"at most {bound:.0e} is allowed. No bundle was written"
        )
