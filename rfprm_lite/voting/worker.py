"""The process in which `MathAnswers` runs math-verify: requests as JSON lines in, answers as JSON lines out.

    ["find", text] -> the answer as text, or null
    ["same", text, other] -> true or false

The first line that it writes says that it is ready.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from contextlib import suppress
from typing import Any

READY = "ready"
PROBE = "7919"
"""A number that each answer is compared with, to reject those that can't be compared in time."""
MEMORY = 2 * 2**30
"""Bytes of address space: a number with as many digits as there are atoms ends here. Not on Windows."""


def main() -> None:
    """Answer requests until standard input ends."""
    _limit_memory()
    logging.disable()
    from math_verify import verify

    print(json.dumps(READY), flush=True)
    for line in sys.stdin:
        kind, *texts = json.loads(line)
        parsed = [_parse(text) for text in texts]
        if kind == "find":
            answer: Any = (str(parsed[0][-1]) or None) if parsed[0] else None
            verify(parsed[0], _parse(PROBE), timeout_seconds=0)  # an answer that can't be compared in time is none
        else:
            answer = bool(verify(*parsed, timeout_seconds=0))
        print(json.dumps(answer), flush=True)


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=0))  # its own limit is a signal, which waits for big numbers


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # none on Windows, and macOS may refuse it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
