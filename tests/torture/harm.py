"""Loads bundles in a process of its own that has little memory, and says what came of it.

    python harm.py FOLDER ...

Out: one JSON object a folder. Each is loaded in a fork, before any thread runs.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime  # noqa: F401  # before memory is measured
import tokenizers  # noqa: F401

from rfprm_lite import PRM, RfprmError

ROOM = 3 << 30
"""Address space beside what the libraries have taken."""


@dataclass(frozen=True)
class Loaded:
    """What came of a bundle: the error and its kind, or none; seconds of a processor; bytes of growth."""

    error: str
    kind: str
    ours: bool
    seconds: float
    grown: int


def load(folders: Sequence[Path]) -> list[Loaded]:
    """Load each, in one process."""
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [Loaded(**json.loads(line)) for line in run.stdout.splitlines()]


def main() -> None:
    taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    for folder in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
            print(json.dumps(vars(_load(folder))), flush=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status:
            print(json.dumps(vars(Loaded(f"status {status}", "died", ours=False, seconds=0.0, grown=0))), flush=True)


def _load(folder: str) -> Loaded:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    error: BaseException | None = None
    try:
        PRM.from_pretrained(folder, threads=1, verify=False).score("What is 6 * 7?", "It is 42.")
    except BaseException as found:  # noqa: BLE001  # a panic is to be seen
        error = found
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    kind = "" if error is None else type(error).__name__
    return Loaded(str(error or ""), kind, isinstance(error, RfprmError), time.process_time() - start, grown * 1024)


if __name__ == "__main__":
    main()
