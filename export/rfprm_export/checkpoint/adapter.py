"""LoRA adapters: repositories that hold what was learnt on top of a base's weights, and not those (arXiv 2106.09685).

In: a folder with adapter_config.json and the adapter's tensors. Out: an `Adapter`, which adds its part to blocks of the
base's tensors and has tensors of its own, such as a head. What is more than plain LoRA is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_export.checkpoint.architecture import Architecture, Shape
from rfprm_export.checkpoint.shards import INDEXES, SINGLES, load_json, read, shapes_in
from rfprm_export.errors import CheckpointError

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""Where an adapter's tensors are; the first one that is there counts."""
WRAPPER = "base_model.model."
"""What PEFT puts before the base's names."""
FIRST, SECOND, SAVED = ".lora_A.weight", ".lora_B.weight", ".modules_to_save."
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "alpha_pattern": (None, {}),
    "layer_replication": (None,),
    "target_parameters": (None, []),
}
"""Keys of an adapter's config, and their values in plain LoRA."""
BY_HAND = "merge it with peft's merge_and_unload() and export what save_pretrained() then writes"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        file: With its tensors.
        alpha: What sums are scaled by, before the rank divides it.
        by_root: Whether the rank's root divides it (rank-stabilised LoRA).
        pairs: The names of A and B in the file, by our name of the weight that they add to.
        own: The name in the file of each tensor that takes the base's place or is new, by our name.
        shapes: Of those, by our name.
    """

    file: Path
    alpha: float
    by_root: bool
    pairs: Mapping[str, tuple[str, str]]
    own: Mapping[str, str]
    shapes: Mapping[str, Shape]

    @classmethod
    def open(cls, folder: Path, architecture: Architecture, base: Mapping[str, Shape]) -> Adapter:
        """Open an adapter's folder.

        Args:
            folder: The adapter's.
            architecture: The base's.
            base: The shapes of the base's tensors, by our names.

        Raises:
            CheckpointError: It is more than plain LoRA, or does not fit the base.
        """
        if architecture.kind.names:
            raise CheckpointError(f"{folder}: adapters of a {architecture.kind.model_type} are not merged: {BY_HAND}")
        config, file = _config(folder), next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            raise CheckpointError(f"{folder} has {CONFIG}, but neither {' nor '.join(FILES)}")
        held = shapes_in(file)
        pairs: dict[str, tuple[str, str]] = {}
        own: dict[str, str] = {}
        for name, shape in held.items():
            if name.endswith(FIRST):
                weight = _ours(name.removesuffix(FIRST) + ".weight")
                second = name.removesuffix(FIRST) + SECOND
                if base.get(weight) != (*held.get(second, ())[:1], *shape[1:]):
                    raise CheckpointError(
                        f"{file}: {name} of shape {list(shape)} adds to {weight}, which in the base is "
                        f"{list(base.get(weight, ()))}: the base is another model, or {BY_HAND}"
                    )
                pairs[weight] = name, second
            elif ".lora_" not in name:
                own[_ours(name.replace(SAVED, "."))] = name
            elif not (name.endswith(SECOND) and name.removesuffix(SECOND) + FIRST in held):
                raise CheckpointError(f"{file}: {name} is more than plain LoRA: {BY_HAND}")
        shapes = {ours: held[name] for ours, name in own.items()}
        return cls(file, float(config["lora_alpha"]), bool(config.get("use_rslora")), pairs, own, shapes)

    def add(self, name: str, block: NDArray[np.float32], start: int, end: int) -> NDArray[np.float32]:
        """Add the adapter's part to rows of one of the base's tensors.

        Args:
            name: The tensor's, in our words.
            block: The rows, float32.
            start: The first.
            end: The one behind the last.
        """
        if name not in self.pairs:
            return block
        first, second = self.pairs[name]
        shapes = shapes_in(self.file)
        rank = shapes[first][0]
        a = read(self.file, first, 0, rank)
        scale = self.alpha / (rank**0.5 if self.by_root else rank)
        added: NDArray[np.float32] = block + np.float32(scale) * (read(self.file, second, start, end) @ a)
        return added

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Read a whole tensor of the adapter's own, by our name, float32."""
        return read(self.file, self.own[name], 0, self.shapes[name][0])


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder has an adapter's config and no whole model."""
    return (folder / CONFIG).is_file() and not any((folder / file).is_file() for file in (*INDEXES, *SINGLES))


def base_of(folder: Path) -> tuple[str, str | None]:
    """Tell an adapter's base: a folder or a hub id, and its revision.

    Raises:
        CheckpointError: The config does not say it.
    """
    config = _config(folder)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder / CONFIG} names no base_model_name_or_path: {BY_HAND}")
    try:
        revision = None if Path(base).is_dir() else config.get("revision")
    except OSError as error:
        raise CheckpointError(
            f"{folder / CONFIG}: the base {base!r:.80} can't be looked for: {error.strerror}"
        ) from error
    if not isinstance(revision, str | None):
        raise CheckpointError(f"{folder / CONFIG}: revision is {revision!r:.80}, no text")
    return base, revision


def _config(folder: Path) -> dict[str, Any]:
    config = load_json(folder / CONFIG)
    for key, plain in PLAIN.items():
        if config.get(key) not in plain:
            raise CheckpointError(f"{folder / CONFIG}: {key} is {config.get(key)!r}, which is no plain LoRA: {BY_HAND}")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise CheckpointError(f"{folder / CONFIG}: lora_alpha is {config.get('lora_alpha')!r}, no number")
    return config


def _ours(name: str) -> str:
    """The base's name; of a bare backbone PEFT leaves `model.` out."""
    bare = name.removeprefix(WRAPPER)
    return f"model.{bare}" if bare.startswith(("layers.", "embed_tokens.", "norm.")) else bare
