"""Examples run as they stand, and are short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def run(path: Path) -> str:
    return subprocess.run([sys.executable, str(path)], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_at_most_30_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30


def test_score_trace() -> None:
    assert run(EXAMPLES[2]).count("thinking") == 2


def test_best_of_n() -> None:
    output = run(EXAMPLES[0])
    (best,) = [line for line in output.splitlines() if line.startswith("*")]
    assert best.endswith("The answer is 74.")


def test_export_checkpoint() -> None:
    assert "differ from PyTorch's by at most" in run(EXAMPLES[1])


def test_these_are_all() -> None:
    assert [path.stem for path in EXAMPLES] == ["best_of_n", "export_checkpoint", "score_trace"]
