"""A call in a thread of its own, for asyncio: cancelled or out of time, it really ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from rfprm_lite.errors import StoppedError
from rfprm_lite.stop import Stop

T = TypeVar("T")


async def run(call: Callable[[Stop], T], timeout: float | None) -> T:
    """What the call gives. timeout: seconds. Raises TimeoutError, and what the call raises."""
    stop = Stop()
    running = asyncio.get_running_loop().run_in_executor(None, call, stop)
    try:
        done, _ = await asyncio.wait({running}, timeout=timeout)
    except asyncio.CancelledError:
        await _ended(running, stop)
        raise
    if not done:
        await _ended(running, stop)
        raise TimeoutError(f"the call took longer than {timeout:g} seconds and was stopped")
    return running.result()


async def _ended(running: asyncio.Future[T], stop: Stop) -> None:
    stop.request()
    with suppress(StoppedError):
        await running
