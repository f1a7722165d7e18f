"""What all tests share."""

from __future__ import annotations

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a package that is not installed."""
    for marker in item.iter_markers("needs"):
        for package in marker.args:
            pytest.importorskip(package)
