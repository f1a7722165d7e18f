"""What a call takes in a process of its own, beside the loaded model, and what was predicted of it.

    python process_memory.py MODEL

In: a bundle's folder, or demo; on standard input, as JSON, the lists of steps to score in turn. Out: one JSON object a
list. Only Linux tells a process's peak, and lets it begin anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rfprm_lite import PRM

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Taken:
    """Bytes beside the loaded model: at most what was predicted, and where the process stood after the call."""

    tokens: int
    measured: int
    predicted: int
    left: int


def taken(model: str | Path, calls: list[list[str]]) -> list[Taken]:
    """Of each call, in one process."""
    if not RESET.exists():
        pytest.skip("this system does not tell a process's peak")
    command = [sys.executable, str(Path(__file__).resolve()), str(model)]
    run = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, check=True)
    return [Taken(**json.loads(line)) for line in run.stdout.splitlines()]


def resident(name: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    prm = PRM.from_pretrained(sys.argv[1], threads=1, cache_bytes=0)
    footprint = prm._scorer.footprint
    prm.score("Warm", "up")
    base = resident("VmRSS")
    for steps in json.load(sys.stdin):
        RESET.write_text("5", encoding="utf-8")
        tokens = prm.score("What is it?", steps=steps).tokens.total
        peak, left = resident("VmHWM") - base, resident("VmRSS") - base
        print(json.dumps({"tokens": tokens, "measured": peak, "predicted": footprint.bytes(tokens, 1), "left": left}))


if __name__ == "__main__":
    main()
