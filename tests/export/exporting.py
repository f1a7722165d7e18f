"""What the exporter's tests share: an exported checkpoint with its oracle, and the command in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rfprm_export.checkpoint.head import load_head
from rfprm_export.oracle.reference import Reference
from rfprm_export.planning import Request, fetch, plan
from rfprm_lite import PRM, LoadOptions
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.text.encoding import Encoder

EXPORT = (
    sys.executable,
    "-c",
    # What a shell runs in the background has SIGINT ignored.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);from rfprm_export.cli import main; main()",
)
"""The exporter's command, in a process of its own that hears every signal."""


@dataclass(frozen=True)
class Exported:
    """A checkpoint, the bundle made of it, and its oracle. prm: the FP32 variant."""

    checkpoint: Path
    bundle: Path
    reference: Reference
    prm: PRM

    @property
    def encoder(self) -> Encoder:
        return self.prm._scorer.encoder

    def variant(self, name: str) -> PRM:
        """Any variant on the CPU, also those that the runtime would refuse there."""
        return PRM(self.opened(name), LoadOptions(threads=2, cache_bytes=0))

    def opened(self, name: str) -> Bundle:
        return Bundle(self.bundle, self.prm.manifest, self.prm.manifest.variant(name))


def open_reference(folder: Path, recipe: str) -> Reference:
    planned = plan(Request(str(folder), folder / "no-output", recipe, variants=["fp32"], most_traces=1))
    checkpoint = fetch(planned)
    return Reference(checkpoint, planned.spec.recipe.head, load_head(checkpoint, planned.spec), planned.encoder)
