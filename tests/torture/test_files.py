"""Files of strangers: whatever they hold, reading them gives something, or an error of ours, soon and in little memory.

Those that are right or broke something once are replayed, and changed at random. `guided.py` looks for others by
coverage.
"""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from campaign import Effort, Tally
from mutating import mutated
from rfprm_lite.errors import RfprmError
from targets import TARGETS, Target

SHORT, SHORT_SECONDS = 300, 0.4
"""Of each target among the other tests: so many files, always the same ones, or fewer where time is up."""
MOST_SECONDS = 10
TIMES, CONSTANT = 10, 64 << 20
"""Memory that a file may take: so many times its bytes, and what the libraries take once."""


# pyarrow decodes a row that it can't read before it hands it over: what is not UTF-8 is told on standard error, and the
# file is refused.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_files(target: Target, effort: Effort, tally: Tally, tmp_path: Path) -> None:
    """Files changed at random."""
    seeds, read = target.seeds, target.reader(tmp_path)
    seed = time.time_ns() if effort.long else 0
    generator = random.Random(seed)
    tally.tried = f"Files changed at random: {target.name}"
    tally.measure("seed", str(seed))
    with suppress(RfprmError):  # what is imported at the first file is not the file's
        read(seeds[0])
    slowest = peak = 0.0
    end = time.monotonic() + SHORT_SECONDS
    for i in range(effort.times(len(seeds) + SHORT, target.runs)):
        data = seeds[i] if i < len(seeds) else mutated(generator, seeds)
        seconds, grown = attempt(read, data, tmp_path / "broke-it")
        slowest, peak = max(slowest, seconds), max(peak, grown)
        tally.add("files")
        if not effort.long and i >= len(seeds) and time.monotonic() > end:
            break
    tally.measure("slowest in s", slowest)
    tally.measure("memory grown by one in MB", peak / 1e6)


def attempt(read: object, data: bytes, kept: Path) -> tuple[float, int]:
    """Read a file, which is kept where it breaks anything. Returns the seconds, and by how much memory grew."""
    before, start = peak_memory(), time.process_time()
    try:
        with alarm(MOST_SECONDS):
            read(data)  # type: ignore[operator]
    except RfprmError:
        pass
    except BaseException as error:
        kept.write_bytes(data)
        raise AssertionError(f"{type(error).__name__}: {error}: {kept}, {data!r:.2000}") from error
    seconds, grown = time.process_time() - start, peak_memory() - before
    if seconds > MOST_SECONDS or grown > TIMES * len(data) + CONSTANT:
        kept.write_bytes(data)
        raise AssertionError(f"{seconds:.1f} s and {grown / 1e6:.0f} MB for {len(data)} bytes: {kept}, {data!r:.2000}")
    return seconds, grown


class LateError(BaseException):
    """It took too long. No `except Exception` hides it."""


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """A `LateError` where Python code takes longer on a processor; what else that does counts for nothing."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _late(_number: int, _frame: object) -> None:
    raise LateError(f"more than {MOST_SECONDS} s")


signal.signal(signal.SIGPROF, _late)
