"""Parity: the rewards that users will get, against the PyTorch reference.

In: a PRM loaded by the runtime, traces, and the reference's step rewards for them. Out: a `Parity`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray

from rfprm_export.errors import ExportError, ParityError
from rfprm_export.probes import PROBES, long_trace, real_traces
from rfprm_export.variants import Bound
from rfprm_lite import PRM, ContextLengthError
from rfprm_lite.encoding import Encoder
from rfprm_lite.manifest import Parity
from rfprm_lite.trace import Trace


def traces_for(encoder: Encoder) -> list[tuple[str, Trace]]:
    """The probes and real traces that the model can read, and a long one. Raises ExportError where there are none."""

    def fits(problem: str, trace: Trace) -> bool:
        try:
            encoder.step_sequences(problem, trace)
        except ContextLengthError:
            return False
        return True

    traces = [probe for probe in (*PROBES, *real_traces("parity"), long_trace(fits)) if fits(*probe)]
    if not traces:
        raise ExportError("the model reads so few tokens that none of the exporter's traces fits it")
    return traces


def measure(prm: PRM, traces: Sequence[tuple[str, Trace]], expected: Sequence[NDArray[np.float32]]) -> Parity:
    """Differences of all step rewards, scored in one call (so with shared prefixes) and one by one."""
    shared = [score.step_rewards for score in prm.score_many(traces)]
    alone = [prm.score(problem, trace).step_rewards for problem, trace in traces]
    differences = np.abs(np.concatenate([*shared, *alone]) - np.concatenate([*expected, *expected]))
    return Parity(
        max_abs_difference=float(differences.max()),
        p99_abs_difference=float(np.quantile(differences, 0.99)),
        mean_abs_difference=float(differences.mean()),
        num_traces=len(traces),
        num_rewards=len(differences) // 2,
        onnxruntime=onnxruntime.__version__,
        torch=str(torch.__version__),
        transformers=transformers.__version__,
    )


def require(name: str, parity: Parity, bound: Bound) -> None:
    """Raise ParityError where a bound is missed that must be kept."""
    missed = bound.missed(parity)
    if missed and bound.needed:
        raise ParityError(
            f"the step rewards of {name} differ from PyTorch's by {missed}, "
            f"over {parity.num_rewards} rewards. No bundle was written"
        )
