"""A family by its name or from a file, and what a caller says of a checkpoint that the checkpoint does not say.

In: a name or a TOML file; options. Out: a `Family`, or an error that points at the field or the option.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rfprm_export.errors import RecipeError
from rfprm_export.families.family import Family
from rfprm_export.families.recipes import FAMILIES
from rfprm_lite.aggregate import Aggregate
from rfprm_lite.errors import InputError


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller says of a checkpoint.

    Attributes:
        separator: What stands behind each step: a special token, or text.
        labels: Label tokens, the good one first.
        system: The system message that is passed to the tokenizer's chat template.
        aggregate: The name of the way from step rewards to one.
        activation: Of the head: softmax, sigmoid or none.
    """

    separator: str | None = None
    labels: tuple[str, ...] | None = None
    system: str | None = None
    aggregate: str | None = None
    activation: str | None = None

    def applied(self, family: Family) -> Family:
        """The family with the options in it.

        Raises:
            RecipeError: An option has no meaning for the family, or one is missing that it needs.
        """
        missing = [f"--{name}" for name in family.needs if getattr(self, name) is None]
        if missing:
            raise RecipeError(f"{family.name} can't be told from the checkpoint alone: give {' and '.join(missing)}")
        for name, apply in APPLY.items():
            value = getattr(self, name)
            if value is not None:
                family = apply(family, value)
        return family


ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t"}
"""Characters of a separator, and how a command line writes them."""


def escaped(text: str) -> str:
    """A separator as a command line writes it."""
    return "".join(ESCAPES.get(character, character) for character in text)


def unescaped(text: str) -> str:
    """The separator that a command line wrote."""
    written = {short: character for character, short in ESCAPES.items()}
    return re.sub(r"\\[nt\\]", lambda found: written[found[0]], text)


def family_from(recipe: str) -> Family:
    """The family that `--recipe` names.

    Args:
        recipe: A name in the table, or the path of a TOML file.

    Raises:
        RecipeError: There is none, or the file holds none; the message points at the field.
    """
    if recipe.endswith(".toml"):
        return _from_file(Path(recipe))
    family = next((family for family in FAMILIES if family.name == recipe), None)
    if family is None:
        names = ", ".join(family.name for family in FAMILIES)
        raise RecipeError(f"no recipe is called {recipe!r}: there are {names}; a recipe of your own is a file .toml")
    return family


def to_toml(family: Family) -> str:
    """A family as TOML for `family_from`."""
    return msgspec.toml.encode(family).decode()


def _from_file(path: Path) -> Family:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Family)
    except FileNotFoundError as error:
        raise RecipeError(f"{path} is missing") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{path} is no recipe: {error}. `rfprm-export recipes trl-prm` prints one to start from"
        ) from error


def _with_separator(family: Family, separator: str) -> Family:
    if family.separator is None and "separator" not in family.needs:
        raise RecipeError(f"--separator: what stands behind a step of {family.name} is known; leave it out")
    if not separator:
        raise RecipeError("--separator: it is empty, and a reward stands at its last token")
    return msgspec.structs.replace(family, separator=separator)


def _with_labels(family: Family, labels: tuple[str, ...]) -> Family:
    if family.tensors.layers:
        raise RecipeError(f"--labels: {family.name} has a head of its own and no labels; leave it out")
    if len(labels) < 2 or not all(labels):
        raise RecipeError(f"--labels {','.join(labels)}: at least two are needed, the good one first")
    head = msgspec.structs.replace(family.head, weights=(1.0, *(0.0 for _ in labels[1:])))
    return msgspec.structs.replace(family, tensors=msgspec.structs.replace(family.tensors, labels=labels), head=head)


def _with_system(family: Family, system: str) -> Family:
    if not family.template_parts:
        raise RecipeError(f"--system: {family.name} does not ask the tokenizer's chat template; leave it out")
    return msgspec.structs.replace(family, system=system)


def _with_aggregate(family: Family, name: str) -> Family:
    try:
        aggregate = Aggregate(name)  # type: ignore[arg-type]  # it refuses other names itself
    except InputError as error:
        raise RecipeError(f"--aggregate: {error}") from error
    return msgspec.structs.replace(family, aggregate=aggregate)


def _with_activation(family: Family, activation: str) -> Family:
    if activation not in ("softmax", "sigmoid", "none"):
        raise RecipeError(f"--activation {activation}: it is softmax, sigmoid or none")
    return msgspec.structs.replace(family, head=msgspec.structs.replace(family.head, activation=activation))


APPLY: dict[str, Callable[..., Family]] = {
    "separator": _with_separator,
    "labels": _with_labels,
    "system": _with_system,
    "aggregate": _with_aggregate,
    "activation": _with_activation,
}
