"""Fixtures of the runtime's tests, which need neither PyTorch nor the exporter."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from network import refuse_connections
from rfprm_lite import PRM

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def prm() -> PRM:
    """The demo model. It keeps nothing between calls, so that each computes what it gives."""
    return PRM.from_pretrained("demo", threads=2, cache_bytes=0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Any attempt to connect fails, and is recorded."""
    return refuse_connections(monkeypatch)
