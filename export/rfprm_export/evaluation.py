"""What a bundle's variants are worth on labelled sets, for its card.

In: a bundle's folder, and sets. Out: `evaluation.json`, and a section of the card, by the runtime's own evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from rfprm_export.variants import FP32
from rfprm_lite import PRM, LoadOptions
from rfprm_lite.bundle.manifest import Manifest
from rfprm_lite.data.files import replaced
from rfprm_lite.evaluate import Report, Result, judge
from rfprm_lite.evaluate.reading import Sets, read_sets


def read(specs: Sequence[str]) -> Sets:
    """Read the sets of these names, as `rfprm evaluate` does.

    Raises:
        InputError: One can't be read.
        ModelNotFoundError: One can't be downloaded.
    """
    return read_sets(specs, LoadOptions())


def evaluate(folder: Path, manifest: Manifest, sets: Sets) -> Report:
    """Evaluate the CPU's default variant, beside FP32 where that is another, and write it down.

    Args:
        folder: The bundle's.
        manifest: The bundle's.
        sets: What to evaluate on.
    """
    default = manifest.default_variant("cpu").name
    others = [variant.name for variant in manifest.variants if variant.name == FP32.name != default]
    results = {name: _results(folder, name, sets) for name in (default, *others)}
    report = Report(results[default], {name: results[name] for name in others}, sets.known)
    document = msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=2)
    with replaced(folder / "evaluation.json") as file:
        file.write(document + b"\n")
    card = folder / "README.md"
    text = f"{card.read_text(encoding='utf-8')}\n{report.markdown()}"
    with replaced(card) as file:
        file.write(text.encode())
    return report


def _results(folder: Path, variant: str, sets: Sets) -> tuple[Result, ...]:
    prm = PRM.from_pretrained(folder, variant=variant)
    return tuple(Result(judge(prm, items, name=variant)) for items in sets.items)
