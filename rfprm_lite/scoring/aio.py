"""A call in a thread of its own, for asyncio: cancelled or out of time, it really ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import TypeVar

from rfprm_lite.plan.cancel import Cancellation

T = TypeVar("T")

THREADS = 8
"""Calls that run at once; others wait."""


async def run(call: Callable[[Cancellation], T], timeout: float | None) -> T:
    """What the call gives. timeout: seconds, waiting included. Raises TimeoutError, and what the call raises.

    When it is cancelled or out of time, the thread has ended, or never begun, before this returns.
    """
    cancel = Cancellation()
    submitted = _threads().submit(call, cancel)
    running = asyncio.wrap_future(submitted)

    async def ended() -> None:
        cancel.request()
        if submitted.cancel():
            return
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        running.exception()  # of no interest any more

    try:
        await asyncio.wait({running}, timeout=timeout)
    except asyncio.CancelledError:
        await ended()
        raise
    if running.done():
        return running.result()
    await ended()
    raise TimeoutError(f"the call took longer than {timeout:g} seconds and was stopped")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="rfprm-lite")
