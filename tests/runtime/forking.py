"""A call in a forked process, and what came of it."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

SECONDS = 300
"""A child that takes longer hangs."""
HUNG = "hung"


def forked(call: Callable[[], object], ending: Callable[[int], object] = os._exit) -> str:
    """The type of what the call returned or raised in a fork of this process, or HUNG.

    Args:
        call: Runs in the child.
        ending: Ends the child, with exit code 0.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on Python warns of threads, which are the point
        child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        try:
            came = type(call()).__name__
        except BaseException as error:  # noqa: BLE001
            came = type(error).__name__
        os.write(writer, came.encode())
        ending(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as told:
        came = told.read()
    return came if os.waitpid(child, 0)[1] == 0 else HUNG
