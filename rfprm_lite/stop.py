"""Stopping a call that runs in another thread.

In: a request to stop. Out: the run that is under way ends within milliseconds, and no other begins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rfprm_lite.errors import EngineError, StoppedError

if TYPE_CHECKING:
    import onnxruntime as ort


class Stop:
    """One call's. `request` may come from any thread, at any time, more than once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = False
        self._running: ort.RunOptions | None = None

    def request(self) -> None:
        """End the call by StoppedError."""
        with self._lock:
            self._requested = True
            if self._running is not None:
                self._running.terminate = True

    def check(self) -> None:
        """Raise StoppedError where a stop was requested."""
        if self._requested:
            raise StoppedError("the call was stopped")

    def run(self, session_run: Callable[[ort.RunOptions], None]) -> None:
        """A run of a session that a request ends. Raises StoppedError; EngineError where it fails."""
        import onnxruntime as ort

        options = ort.RunOptions()
        with self._lock:
            self.check()
            self._running = options
        try:
            session_run(options)
        except Exception as error:  # ONNX Runtime's own have no common base but Exception
            self.check()
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        finally:
            with self._lock:
                self._running = None
