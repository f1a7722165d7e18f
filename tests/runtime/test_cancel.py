"""The request to end a call: a run that is under way is interrupted, and no other begins."""

from __future__ import annotations

import pytest

from rfprm_lite.errors import StoppedError
from rfprm_lite.plan.cancel import Cancellation


def test_a_request_interrupts_the_run_under_way_and_lets_no_other_begin() -> None:
    cancel, interrupted = Cancellation(), []
    with cancel.interrupting(lambda: interrupted.append("first")):
        cancel.check()
    with pytest.raises(ZeroDivisionError), cancel.interrupting(lambda: interrupted.append("second")):
        _ = 1 / 0
    with cancel.interrupting(lambda: interrupted.append("third")):
        assert interrupted == []
        cancel.request()
        assert interrupted == ["third"]
    cancel.request()
    assert interrupted == ["third"]
    with pytest.raises(StoppedError):
        cancel.check()
    with pytest.raises(StoppedError), cancel.interrupting(lambda: interrupted.append("never")):
        interrupted.append("run")
    assert interrupted == ["third"]
