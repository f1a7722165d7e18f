"""Fixtures of the runtime's tests, which need neither PyTorch nor the exporter."""

from __future__ import annotations

import hub_environment  # noqa: F401  # first: huggingface-hub reads its environment once

# isort: split
import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

import rfprm_lite
from network import refuse_connections
from rfprm_lite import PRM

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile(
    "mutants", settings.get_profile("default"), derandomize=True, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("default")

PACKAGE = Path(rfprm_lite.__file__).parent


def pytest_report_header() -> str:
    return f"rfprm_lite: {PACKAGE}"


def pytest_sessionstart() -> None:
    """With RFPRM_TEST_INSTALLED=1 an installed wheel is tested, and nothing else."""
    if os.environ.get("RFPRM_TEST_INSTALLED") == "1":
        if PACKAGE.parent.name != "site-packages":
            pytest.exit(f"the wheel is to be tested, but rfprm_lite is {PACKAGE}", returncode=4)
        if importlib.util.find_spec("torch"):
            pytest.exit("the wheel is to be tested alone, but torch is installed", returncode=4)


@pytest.fixture(scope="session")
def prm() -> PRM:
    """The demo model. It keeps nothing between calls, so that each computes what it gives."""
    return PRM.from_pretrained("demo", threads=2, cache_bytes=0)


@pytest.fixture(scope="session")
def loaded_demo() -> PRM:
    """The demo model, which keeps what it computed, from test to test."""
    return PRM.from_pretrained("demo", threads=2)


@pytest.fixture
def demo(loaded_demo: PRM) -> PRM:
    """The demo model. It keeps what it computed, and has nothing from other tests."""
    loaded_demo.clear_cache()
    return loaded_demo


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Any attempt to connect fails, and is recorded."""
    return refuse_connections(monkeypatch)
