r"""Final answers of mathematics, found and compared by math-verify: `pip install 'rfprm-lite[voting]'`.

In: candidates. Out: their answers, and whether two are equal as mathematics: 1/2, 0.5 and \frac{1}{2} are.

Candidates are hostile: a boxed 9^{9^{9^9}} keeps a computer algebra system busy for ever, in places where no signal
reaches it. So math-verify runs in a process of its own, which is ended where it takes too long.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from typing import Any, Self

from rfprm_lite.errors import EngineError, MissingExtraError
from rfprm_lite.voting.worker import READY

TAIL = 2_000
"""Characters at the end of a candidate in which its answer is looked for."""
STARTING = 60.0
"""Seconds that the process may take to start."""


class MathAnswers:
    """The answers of mathematics, found and compared in a process of their own. Not for several threads.

    Use it in a `with`, one for many votes: the process takes a second or two to start.

    `find` also compares each answer with a small number. An expression that takes too long there is rejected at once,
    instead of in every later comparison, so that a hostile one costs its time once.

    Args:
        seconds: The time that one candidate or one comparison may take. A candidate that takes longer has no answer;
            answers that take longer to compare are different.

    Raises:
        MissingExtraError: If math-verify is not installed.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        if find_spec("math_verify") is None:
            raise MissingExtraError("answers are found and compared by math-verify", "voting")
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def find(self, candidate: str) -> str | None:
        """The final answer of a candidate; None where it gives none.

        It is the boxed expression, else the last one near an "answer is", else the last one of all.

        Raises:
            EngineError: If math-verify does not start.
        """
        answer: str | None = self._ask("find", candidate[-TAIL:])
        return answer

    def same(self, candidate: str, other: str) -> bool:
        """Whether the answers of two candidates are equal as mathematics.

        Raises:
            EngineError: If math-verify does not start.
        """
        return self._ask("same", candidate[-TAIL:], other[-TAIL:]) is True

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, *request: str) -> Any:
        if self._process is None:
            self._process = self._start()
        answer = self._line(self._process, json.dumps(request) + "\n", self._seconds)
        if not answer:  # it was ended, by us or for want of memory
            self.close()
            return None
        return json.loads(answer)

    def _start(self) -> subprocess.Popen[str]:
        """Start the process. Raises EngineError where it says anything but that it is ready."""
        command = [sys.executable, "-P", "-m", "rfprm_lite.voting.worker"]  # no module of the current folder
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(  # noqa: S603  # our own module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, encoding="ascii"
            )
            if self._line(process, "", STARTING).strip() != json.dumps(READY):
                process.kill()
                process.communicate()
                stderr.seek(0)
                wrong = stderr.read().decode(errors="backslashreplace").strip()
                raise EngineError(f"the process of math-verify did not start: {wrong[-500:] or 'it was too slow'}")
        return process

    def _line(self, process: subprocess.Popen[str], request: str, seconds: float) -> str:
        """The line with which the process answers a request; empty where it takes longer, and is killed."""
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        late = threading.Timer(seconds, process.kill)
        late.start()
        try:
            process.stdin.write(request)
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:  # a pipe without a reader: BrokenPipeError, on Windows another
            return ""
        finally:
            late.cancel()
