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

PATIENCE = 60
GUIDED = Path(__file__).with_name("guided.py")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: --group fuzz")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_guided(target: Target, effort: Effort, tally: Tally, tmp_path: Path) -> None:
    """Files found by coverage."""
    tally.tried = f"Files found by coverage: {target.name}"
    seconds = round(effort.seconds(1, 12))
    command = [sys.executable, str(GUIDED), target.name, str(seconds), str(tmp_path)]
    with (tmp_path / "said").open("w+b") as said, subprocess.Popen(command, stdout=said, stderr=said) as run:
        try:
            code = run.wait(seconds + PATIENCE)
        except subprocess.TimeoutExpired:  # pyarrow's threads may keep a process that is done from its end
            run.kill()
            code = 0
    told = (tmp_path / "said").read_text(encoding="utf-8", errors="replace")
    broken = {path.name: path.read_bytes()[:500] for path in tmp_path.glob("broke-it-*")}
    done = re.search(r"^Done (\d+) runs", told, re.MULTILINE)
    assert done, told[-3000:]
    assert not broken, f"{broken}\n{told[-3000:]}"
    assert code == 0, told[-3000:]
    tally.add("files", int(done[1]))
    lines = [int(lines) for lines in re.findall(r" cov: (\d+) ", told)]
    tally.measure("branches reached by the right files", lines[0])
    tally.measure("branches reached in the end", lines[-1])
