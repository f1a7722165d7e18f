"""One contender in a process of its own: JSON lines in on stdin, JSON lines out on stdout.

    python bench/worker.py TARGET ARGUMENTS

Commands: {"load": {...paths}, "threads": n} and {"run": "file with calls"}; each is answered with its own seconds,
measured here, and the process's peak memory in it. Whatever a library prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from contender import Contender, Keeping, ModelPaths
from workloads import Sequence


def main(target: str, arguments: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = target.split(":")
    contender: Contender = getattr(importlib.import_module(f"contenders.{module}"), name)(**json.loads(arguments))
    for line in sys.stdin:
        command = json.loads(line)
        answer = load(contender, command) if "load" in command else run(contender, command)
        answers.write(json.dumps({**answer, "peak_bytes": peak_bytes()}) + "\n")
        answers.flush()


def load(contender: Contender, command: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    contender.load(ModelPaths(**command["load"]), command["threads"])
    return {"seconds": time.perf_counter() - start}


def run(contender: Contender, command: dict[str, Any]) -> dict[str, Any]:
    calls = [[Sequence(**s) for s in call] for call in json.loads(Path(command["run"]).read_text(encoding="utf-8"))]
    if isinstance(contender, Keeping):
        contender.begin()
    reset_peak()
    start = time.perf_counter()
    results = [contender.score(call) for call in calls]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rewards": [r for r, _ in results], "computed": sum(n for _, n in results)}


def reset_peak() -> None:
    """The peak counts from here on, where Linux can be told so."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int | None:
    """Most resident memory since `reset_peak`; None where /proc does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
