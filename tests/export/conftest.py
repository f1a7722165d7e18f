"""Fixtures: the demo PRM in FP32, and an exported checkpoint of each official layout."""

from __future__ import annotations

import hub_environment  # noqa: F401  # first: huggingface-hub reads its environment once

# isort: split
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from checkpoints import ALL_LAYOUTS, DEMO_CHECKPOINT, LAYOUTS, make_checkpoint
from exporting import Exported, open_reference
from network import refuse_connections
from rfprm_export.pipeline import Request, export
from rfprm_lite import PRM

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile(
    "mutants", settings.get_profile("default"), derandomize=True, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("default")
torch.set_num_threads(1)  # more only get in each other's way on models as small as these


@pytest.fixture(scope="session")
def prm(tmp_path_factory: pytest.TempPathFactory) -> PRM:
    """The demo model in FP32. It keeps nothing between calls, so that each computes what it gives."""
    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    export(Request(str(DEMO_CHECKPOINT), bundle, "reasonflux-prm-7b", variants=["fp32"], most_traces=1))
    return PRM.from_pretrained(bundle, threads=2, cache_bytes=0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Any attempt to connect fails, and is recorded."""
    return refuse_connections(monkeypatch)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Exports a layout by its name, once."""
    done: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in done:
            root, layout = tmp_path_factory.mktemp("exported"), ALL_LAYOUTS[name]
            checkpoint = make_checkpoint(root / "checkpoint", layout)
            export(Request(str(checkpoint), root / "bundle", layout.recipe, most_traces=8))
            fp32 = PRM.from_pretrained(root / "bundle", variant="fp32", threads=2, cache_bytes=0)
            done[name] = Exported(checkpoint, root / "bundle", open_reference(checkpoint, layout.recipe), fp32)
        return done[name]

    return get


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint", LAYOUTS["reasonflux-prm-7b"])
