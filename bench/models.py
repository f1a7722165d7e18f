"""The models of the benchmark: the demo, random weights in real shapes, or any checkpoint by path.

Random checkpoints are made on the spot in the 7B layout and kept, with their bundles, in a cache outside git.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from contender import ModelPaths
from rfprm_export.pipeline import Request, export
from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.errors import BundleFormatError

sys.path.append(str(Path(__file__).parents[1] / "tests" / "export"))
from checkpoints import DEMO_CHECKPOINT, LAYOUTS, make_checkpoint

RECIPE = "reasonflux-prm-7b"
CONTENDING = ("int8", "fp32")
"""The variants that are compared."""
QWEN = {"vocab_size": 151_936, "max_position_embeddings": 32_768, "num_key_value_heads": 2}
SEVEN = {"vocab_size": 152_064, "num_key_value_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {**QWEN, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14},
    "1.5b": {**QWEN, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12},
    "7b": {**QWEN, **SEVEN, "hidden_size": 3584, "intermediate_size": 18_944, "num_attention_heads": 28},
}
LAYERS = {"0.5b": 24, "1.5b": 28, "7b": 28}
SHARDS = {"0.5b": 2, "1.5b": 2, "7b": 16}


def _current(bundle: Path) -> bool:
    """Whether the bundle is there, and of this version with all variants."""
    try:
        manifest = manifests.load(bundle / manifests.FILE_NAME)
    except (FileNotFoundError, BundleFormatError):
        return False
    return {variant.name for variant in manifest.variants} >= set(CONTENDING)


def checkpoint_of(name: str, cache: Path, layers: int | None = None) -> Path:
    """demo, a shape's name or a folder. layers: in place of the shape's own number."""
    if name == "demo":
        return DEMO_CHECKPOINT
    if name not in SHAPES:
        return Path(name).resolve()
    checkpoint = cache / "checkpoints" / (f"{name}-{layers}-layers" if layers else name)
    if not checkpoint.exists():
        layout = replace(LAYOUTS[RECIPE], layers=layers or LAYERS[name], shards=SHARDS[name], config=SHAPES[name])
        partial = checkpoint.with_name(f"{checkpoint.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        make_checkpoint(partial, layout).rename(checkpoint)
    return checkpoint


def prepare(name: str, cache: Path) -> ModelPaths:
    """A model by name (demo, 0.5b, 1.5b), a bundle's folder, or a checkpoint in the 7B layout, exported if need be."""
    if (Path(name) / manifests.FILE_NAME).is_file():
        return ModelPaths("", str(Path(name).resolve()), "")
    checkpoint = checkpoint_of(name, cache)
    bundle = cache / "bundles" / checkpoint.name
    if not _current(bundle):
        shutil.rmtree(bundle, ignore_errors=True)
        export(Request(str(checkpoint), bundle, RECIPE, variants=CONTENDING))
    return ModelPaths(str(checkpoint), str(bundle), str(cache / "converted" / checkpoint.name))
