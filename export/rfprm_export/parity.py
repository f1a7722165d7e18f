"""Parity: the rewards that users will get, against the PyTorch reference.

In: the reference and a PRM loaded by the runtime. Out: a `Parity`, measured on fixed traces, scored in one call (so
with shared prefixes) and one by one (without).
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
import transformers

from rfprm_export.errors import ParityError
from rfprm_export.probes import PROBES, long_trace
from rfprm_export.reference import Reference
from rfprm_lite import PRM, ContextLengthError
from rfprm_lite.encoding import Encoder
from rfprm_lite.manifest import Parity
from rfprm_lite.trace import Trace

FP32_BOUND = 1e-4
"""The largest difference of a step reward from the reference that an FP32 export may have."""


def measure(reference: Reference, prm: PRM, encoder: Encoder) -> Parity:
    """Differences of all step rewards, over both ways to score."""

    def fits(problem: str, trace: Trace) -> bool:
        try:
            encoder.step_sequences(problem, trace)
        except ContextLengthError:
            return False
        return True

    traces = [probe for probe in (*PROBES, long_trace(fits)) if fits(*probe)]
    expected = np.concatenate([reference.step_rewards(problem, trace) for problem, trace in traces])
    shared = np.concatenate([score.step_rewards for score in prm.score_many(traces)])
    alone = np.concatenate([prm.score(problem, trace).step_rewards for problem, trace in traces])
    differences = np.abs(np.stack([shared, alone]) - expected)
    return Parity(
        max_abs_difference=float(differences.max()),
        mean_abs_difference=float(differences.mean()),
        num_traces=len(traces),
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
            f"at most {bound:.0e} is allowed. Nothing was written"
        )
