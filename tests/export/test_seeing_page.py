"""docs/seeing.md shows how scores are seen: its block runs, its images are there and small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "seeing.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "seeing.md", "exec"), {})
    assert (tmp_path / "rewards.svg").stat().st_size > 1000
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / "docs" / target).stat().st_size < 150_000
