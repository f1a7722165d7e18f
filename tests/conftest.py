"""Fixtures: the demo PRM, and an exported checkpoint of each official layout."""

from __future__ import annotations

import hub_environment  # noqa: F401  # first: huggingface-hub reads its environment once

# isort: split
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from checkpoints import DEMO_CHECKPOINT, LAYOUTS, make_checkpoint
from rfprm_export.checkpoint.head import load_head
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.families.recipes import choose
from rfprm_export.oracle.reference import Reference
from rfprm_export.pipeline import Request, export
from rfprm_lite import PRM, LoadOptions
from rfprm_lite.bundle.open import Bundle

settings.register_profile(
    "default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("default")
torch.set_num_threads(1)  # more only get in each other's way on models as small as these


EXPORT = (
    sys.executable,
    "-c",
    # What a shell runs in the background has SIGINT ignored.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);from rfprm_export.cli import main; main()",
)
"""The exporter's command, in a process of its own that hears every signal."""


@pytest.fixture(scope="session")
def prm(tmp_path_factory: pytest.TempPathFactory) -> PRM:
    """The demo model in FP32. It keeps nothing between calls, so that each computes what it gives."""
    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    export(Request(str(DEMO_CHECKPOINT), bundle, "reasonflux-prm-7b", variants=["fp32"], most_traces=1))
    return PRM.from_pretrained(bundle, threads=2, cache_bytes=0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Any attempt to connect fails, and is recorded."""
    attempts: list[object] = []

    def refuse(*address: object, **options: object) -> None:
        attempts.append(address)
        raise OSError(f"a connection to {address} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@dataclass(frozen=True)
class Exported:
    """A checkpoint, the bundle made of it, and its oracle. prm: the FP32 variant."""

    checkpoint: Path
    bundle: Path
    reference: Reference
    prm: PRM

    def variant(self, name: str) -> PRM:
        """Any variant on the CPU, also those that the runtime would refuse there."""
        return PRM(self.opened(name), LoadOptions(threads=2, cache_bytes=0))

    def opened(self, name: str) -> Bundle:
        return Bundle(self.bundle, self.prm.manifest, self.prm.manifest.variant(name))


def open_reference(folder: Path, recipe: str) -> Reference:
    checkpoint = Checkpoint.open(folder)
    spec = choose(recipe, checkpoint.architecture.name)
    return Reference(checkpoint, spec, load_head(checkpoint, spec))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Exports a layout by the name of its recipe, once."""
    done: dict[str, Exported] = {}

    def get(recipe: str) -> Exported:
        if recipe not in done:
            root = tmp_path_factory.mktemp("exported")
            checkpoint = make_checkpoint(root / "checkpoint", LAYOUTS[recipe])
            export(Request(str(checkpoint), root / "bundle", recipe, most_traces=8))
            fp32 = PRM.from_pretrained(root / "bundle", variant="fp32", threads=2, cache_bytes=0)
            done[recipe] = Exported(checkpoint, root / "bundle", open_reference(checkpoint, recipe), fp32)
        return done[recipe]

    return get


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint", LAYOUTS["reasonflux-prm-7b"])
