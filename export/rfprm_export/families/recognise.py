"""Which family a checkpoint belongs to: by its backbone, and by the names and shapes of its tensors.

What config.json calls itself decides nothing alone: published ones are wrong. What is ambiguous is refused with what
would decide it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rfprm_export.errors import RecipeError
from rfprm_export.families.family import Family
from rfprm_export.families.recipes import FAMILIES

Shape = tuple[int, ...]

LM_HEAD = "lm_head.weight"

IMAGES, GATED = "it reads images", "its reward comes from several heads and a gating network"
UNSUPPORTED = {
    "InternVLChatModel": IMAGES,
    "internvl_chat": IMAGES,
    "qwen2_vl": IMAGES,
    "qwen2_5_vl": IMAGES,
    "LlamaForRewardModelWithGating": GATED,
    "InternLM2ForCausalLM": "it writes text",
}
"""Architectures and model types that are known and can't be exported, with the reason."""


def require_supported(config: Mapping[str, Any]) -> None:
    """Refuse by name what is known and can't be exported.

    Args:
        config: config.json.

    Raises:
        RecipeError: It is such a model.
    """
    architectures = config.get("architectures")
    names = [
        str(name) for name in (*(architectures if isinstance(architectures, list) else ()), config.get("model_type"))
    ]
    known = next((UNSUPPORTED[name] for name in names if name in UNSUPPORTED), None)
    reason = IMAGES if "vision_config" in config else known
    if reason:
        raise RecipeError(f"a {names[0]} can't be exported: {reason}")


@dataclass(frozen=True, slots=True)
class Traits:
    """What is seen of a checkpoint without its weights.

    Attributes:
        model_type: Of config.json.
        architecture: The first that config.json names.
        shapes: Of its tensors, by name.
        files: The names of the files beside the shards.
    """

    model_type: str
    architecture: str
    shapes: Mapping[str, Shape]
    files: Collection[str]


@dataclass(frozen=True, slots=True)
class Recognition:
    """A family, and why it was chosen, in words."""

    family: Family
    reason: str


def recognise(traits: Traits) -> Recognition:
    """The one family that a checkpoint fits.

    Raises:
        RecipeError: It fits none, or several; the message says what would decide.
    """
    known = [family for family in FAMILIES if not family.model_types or traits.model_type in family.model_types]
    heads = [family for family in known if family.tensors.layers and not misfit(family, traits)]
    alone = [family for family in heads if family.alone]
    if len(alone) == 1:
        (family,) = alone
        others = " or ".join(f"--recipe {other.name}" for other in heads if other is not family)
        beside = f"; if it is another with the same tensors, give {others}" if others else ""
        return Recognition(family, f"{_seen(family)} on {traits.model_type}{beside}")
    if len(heads) == 1:
        return Recognition(heads[0], f"{_seen(heads[0])} on {traits.model_type}")
    if heads:
        choices = " or ".join(f"--recipe {family.name}" for family in heads)
        raise RecipeError(
            f"the checkpoint has {_seen(heads[0])} on {traits.model_type}, as several families have, which differ "
            f"in what they read and in the aggregate: name one, {choices}"
        )
    rows = [family for family in known if not family.tensors.layers and not misfit(family, traits)]
    if rows and not _has_other_head(traits):
        choices = ", ".join(family.name for family in rows)
        raise RecipeError(
            f"the checkpoint is a {traits.architecture} with nothing but a language model's head, which could be "
            f"anything. If it is a PRM that is read at a marker or at label tokens, name its recipe ({choices}), or "
            "write one and give it by --recipe FILE.toml. One that writes its judgement, or whose reward is a ratio of "
            "two models' probabilities, can't be exported"
        )
    raise RecipeError(
        f"no family fits the checkpoint: it is a {traits.architecture} on {traits.model_type}, and beside the backbone "
        f"it has {', '.join(_head_like(traits)) or 'nothing'}. `rfprm-export recipes` lists what fits; a recipe of "
        "your own is given by --recipe FILE.toml"
    )


def misfit(family: Family, traits: Traits) -> str | None:
    """Why a checkpoint can't be of a family; None if it can."""
    if family.architectures and traits.architecture not in family.architectures:
        return f"{family.name} is for a {' or '.join(family.architectures)}, the checkpoint is a {traits.architecture}"
    if not family.tensors.layers:
        return None
    if family.tensors.files:
        if any(file in traits.files for file in family.tensors.files):
            return None
        return f"{family.name} needs one of the files {', '.join(family.tensors.files)} beside the shards"
    *_, (weight, bias) = family.tensors.layers
    names = [name for layer in family.tensors.layers for name in layer if name]
    missing = [name for name in names if name not in traits.shapes]
    if missing:
        return f"{family.name} needs the tensor {missing[0]}, which the checkpoint lacks"
    outputs = traits.shapes[weight][0]
    if outputs != family.head.outputs:
        return f"{family.name} has {_outputs(family.head.outputs)}, {weight} of the checkpoint has {outputs}"
    if not bias and weight.replace(".weight", ".bias") in traits.shapes:
        return f"{family.name} has a head without bias, the checkpoint has {weight.replace('.weight', '.bias')}"
    return None


def _seen(family: Family) -> str:
    if family.tensors.files:
        return f"{' or '.join(family.tensors.files)} beside the shards"
    names = ", ".join(name for layer in family.tensors.layers for name in layer if name)
    return f"{names} with {_outputs(family.head.outputs)}"


def _outputs(number: int) -> str:
    return f"{number} output{'s' if number > 1 else ''}"


def _head_like(traits: Traits) -> list[str]:
    names = sorted(name for name in traits.shapes if not name.startswith("model.") and name != LM_HEAD)
    return [f"{name} {list(traits.shapes[name])}" for name in names]


def _has_other_head(traits: Traits) -> bool:
    return bool(_head_like(traits))
