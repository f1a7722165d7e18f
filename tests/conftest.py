"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the campaign in tests/torture."""
    group = parser.getgroup("torture")
    group.addoption("--long", action="store_true", help="the whole campaign, half an hour")
    group.addoption("--factor", type=float, default=1.0, help="so many times the campaign's amounts")
    group.addoption("--report", type=Path, help="write what was tried to this file, as JSON")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a package that is not installed."""
    for marker in item.iter_markers("needs"):
        for package in marker.args:
            pytest.importorskip(package)
