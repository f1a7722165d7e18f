"""The request to end a call that runs in another thread. It knows nothing of what runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rfprm_lite.errors import StoppedError


class Cancellation:
    """The request to end one call. Any thread may call `request`, at any time and more than once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = False
        self._interrupt: Callable[[], None] | None = None

    def request(self) -> None:
        """End the call with StoppedError: interrupt the run that is under way, let no other begin."""
        with self._lock:
            self._requested = True
            if self._interrupt is not None:
                self._interrupt()

    def check(self) -> None:
        """Raise StoppedError if the end was requested."""
        if self._requested:
            raise StoppedError("the call was stopped")

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Within this context a request calls `interrupt`, from the thread that requests.

        Raises:
            StoppedError: If the end was requested before.
        """
        with self._lock:
            self.check()
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None
