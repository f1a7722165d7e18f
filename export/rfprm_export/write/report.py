"""A bundle's parity.json: what was measured when it was made, for programs."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import msgspec

from rfprm_export.families.options import Options, escaped
from rfprm_lite.bundle.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Commands:
    """What makes a bundle again, and what measures it again. A local checkpoint is known by its folder's name.

    Attributes:
        export: A command line.
        verify: A command line.
    """

    export: str
    verify: str


def report(manifest: Manifest, commands: Commands) -> bytes:
    """Write parity.json. Differences are of step rewards in [0, 1] from the PyTorch model in FP32; sizes are in bytes.

    Args:
        manifest: With its variants.
        commands: That make and measure the bundle again.
    """
    variants = {
        variant.name: {
            "made_by": variant.made_by,
            "missed": variant.missed,
            "bytes": sum(file.bytes for file in variant.files),
            **(msgspec.structs.asdict(variant.parity) if variant.parity else {}),
        }
        for variant in manifest.variants
    }
    document = {
        "source": msgspec.structs.asdict(manifest.source),
        "recipe": manifest.recipe.name,
        "commands": asdict(commands),
        "variants": variants,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def commands(
    manifest: Manifest, recipe: str | None, options: Options, *, most_traces: int | None, low_memory: bool, device: str
) -> Commands:
    """Write down the commands that make and measure a bundle again.

    Args:
        manifest: The bundle's.
        recipe: As it was given; None where the checkpoint said which.
        options: As they were given.
        most_traces: As it was made.
        low_memory: As it was made.
        device: As it was made.
    """
    revision = f" --revision {manifest.source.revision}" if manifest.source.revision else ""
    source = f"{manifest.source.name}{revision}"
    names = ",".join(variant.name for variant in manifest.variants)
    traces = "" if most_traces is None else f" --traces {most_traces}"
    memory = (" --low-memory" if low_memory else "") + ("" if device == "cpu" else f" --device {device}")
    said = _said(options)
    own = f" --recipe {shlex.quote(Path(recipe).name)}" if recipe and recipe.endswith(".toml") else ""
    named = own or f" --recipe {manifest.recipe.name}"
    return Commands(
        export=f"rfprm-export {source} BUNDLE{named}{said} --variants {names}{traces}{memory}",
        verify=f"rfprm-export verify BUNDLE --reference {source}{own}{said}{memory}",
    )


def _said(options: Options) -> str:
    """Options as a command line has them."""
    given = {name: getattr(options, name) for name in (field.name for field in fields(Options))}
    words = {
        name: ",".join(value) if isinstance(value, tuple) else escaped(value) if name == "separator" else value
        for name, value in given.items()
        if value is not None
    }
    return "".join(f" --{name}={shlex.quote(word)}" for name, word in words.items())
