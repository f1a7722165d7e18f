"""A bundle's parity.json: what was measured when it was made, for programs."""

from __future__ import annotations

import msgspec

from rfprm_lite.manifest import Manifest


def report(manifest: Manifest) -> bytes:
    """JSON. Differences are of step rewards in [0, 1] from the PyTorch model in FP32; sizes are in bytes."""
    variants = {
        variant.name: {
            "made_by": variant.made_by,
            "bytes": sum(file.bytes for file in variant.files),
            **(msgspec.structs.asdict(variant.parity) if variant.parity else {}),
        }
        for variant in manifest.variants
    }
    found = {
        "source": msgspec.structs.asdict(manifest.source),
        "recipe": manifest.recipe.name,
        "commands": {"export": export_command(manifest), "verify": verify_command(manifest)},
        "variants": variants,
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def export_command(manifest: Manifest) -> str:
    """Makes the bundle again."""
    names = ",".join(variant.name for variant in manifest.variants)
    return f"rfprm-export {_source(manifest)} BUNDLE --recipe {manifest.recipe.name} --variants {names}"


def verify_command(manifest: Manifest) -> str:
    """Measures the bundle again."""
    return f"rfprm-export verify BUNDLE --reference {_source(manifest)}"


def _source(manifest: Manifest) -> str:
    revision = f" --revision {manifest.source.revision}" if manifest.source.revision else ""
    return f"{manifest.source.name}{revision}"
