"""What the campaign's tests count by, and its report. Its options stand in tests/conftest.py."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime
import pytest

from campaign import Effort, Row, Tally
from rfprm_lite.engine.cpu import model_name

ROWS: pytest.StashKey[list[Row]] = pytest.StashKey()
TALLY: pytest.StashKey[Tally] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Effort:
    """How much to try."""
    return Effort(request.config.getoption("--long"), request.config.getoption("--factor"))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test counts what it tries."""
    words = (request.function.__doc__ or request.node.name).strip().partition("\n")[0]
    request.node.stash[TALLY] = Tally(words.removesuffix("."))
    return request.node.stash[TALLY]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    tally = item.stash.get(TALLY, None)
    if tally is not None and report.when == "call":
        part = item.path.stem.removeprefix("test_")
        row = Row(
            part=part,
            test=item.nodeid,
            tried=tally.tried,
            counts=tally.counts,
            found=tally.found,
            seconds=report.duration,
            outcome=report.outcome,
        )
        item.config.stash[ROWS].append(row)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--report")
    if path is None:
        return
    report = {
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model_name(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "rows": session.config.stash[ROWS],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    folder = Path(__file__).parent
    return subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
