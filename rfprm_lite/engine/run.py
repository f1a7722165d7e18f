"""One run of a session, and what is checked of its result: for every engine alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import EngineError, NumericalError
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.sequence import Rewards

if TYPE_CHECKING:
    import onnxruntime as ort


def run_session(session: ort.InferenceSession, binding: ort.IOBinding, cancel: Cancellation) -> None:
    """Run what is bound. A request to cancel ends it within milliseconds.

    Raises:
        StoppedError: If the call was cancelled.
        EngineError: If ONNX Runtime failed.
    """
    import onnxruntime as ort

    options = ort.RunOptions()

    def terminate() -> None:
        options.terminate = True

    with cancel.interrupting(terminate):
        try:
            session.run_with_iobinding(binding, options)
        except Exception as error:  # ONNX Runtime's own have no common base but Exception
            cancel.check()
            raise EngineError(f"ONNX Runtime failed: {error}") from error


def check_numbers(rewards: Rewards, positions: NDArray[np.int64]) -> None:
    """Check that every reward is a number.

    Args:
        rewards: float32 [num_readouts].
        positions: The token of each in its sequence, int64 [num_readouts].

    Raises:
        NumericalError: If one is not.
    """
    wrong = ~np.isfinite(rewards)
    if wrong.any():
        raise NumericalError(
            f"{wrong.sum()} of {len(rewards)} rewards are no numbers, the first at token {positions[wrong][0]}: the "
            "variant's arithmetic overflowed or its weights are damaged. Take another variant (fp32 can't overflow "
            "where PyTorch does not), or check the bundle with rfprm-export verify"
        )
