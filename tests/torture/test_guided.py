"""Files of strangers again, looked for by coverage: where atheris is installed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from campaign import Effort, Tally
from targets import TARGETS, Target

GUIDED = Path(__file__).with_name("guided.py")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: --group fuzz")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_guided(target: Target, effort: Effort, tally: Tally, tmp_path: Path) -> None:
    """Files found by coverage."""
    tally.tried = f"Files found by coverage: {target.name}"
    command = [sys.executable, str(GUIDED), target.name, str(round(effort.seconds(1, 12))), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    broken = {path.name: path.read_bytes()[:500] for path in tmp_path.glob("broke-it-*")}
    assert run.returncode == 0, f"{broken}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    done = re.search(r"^Done (\d+) runs", run.stderr, re.MULTILINE)
    assert done, run.stderr[-3000:]
    tally.add("files", int(done[1]))
    lines = [int(lines) for lines in re.findall(r" cov: (\d+) ", run.stderr)]
    tally.measure("branches reached by the right files", lines[0])
    tally.measure("branches reached in the end", lines[-1])
