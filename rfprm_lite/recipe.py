"""How one family of PRMs is scored, as data.

A recipe says what text the model reads, where its rewards stand and how they become one. The exporter has a table
of recipes and asserts one on a checkpoint; the bundle's manifest carries it; the runtime does what it says.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from rfprm_lite.aggregate import Aggregate


class Special(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="special"):
    """A special token of the template, by its text. Only a template can put one into what the model reads."""

    token: str


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """Literal text of the template."""

    text: str


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="slot"):
    """Where the problem or the steps go."""

    name: Literal["problem", "steps"]


Piece = Special | Text | Slot


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reward head, fused into the graph.

    layers: `linear`, h -> outputs; or `mlp`, h -> h, ReLU, h -> outputs.
    activation: `softmax` over the outputs, the reward is the probability of `positive`; or `sigmoid` of the one
        output.
    """

    layers: Literal["linear", "mlp"]
    outputs: int
    activation: Literal["softmax", "sigmoid"]
    positive: int = 0


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a PRM is scored.

    name: of the family, such as reasonflux-prm-7b.
    template: the pieces of the text, in order, up to and including the slot `steps`.
    separator: the special token that follows each step and carries its reward; None where a trace has one reward at
        its last token. Then the reward of a step is that of the text cut off after it.
    head: what stands on the hidden states.
    aggregate: the authors' way from step rewards to one.
    max_tokens: the authors' own limit, in tokens; None where only the model's positions limit it.
    source: where all this was read.
    """

    name: str
    template: tuple[Piece, ...]
    separator: str | None
    head: Head
    aggregate: Aggregate
    max_tokens: int | None
    source: str

    def __post_init__(self) -> None:
        slots = [piece.name for piece in self.template if isinstance(piece, Slot)]
        if slots != ["problem", "steps"] or not isinstance(self.template[-1], Slot):
            raise ValueError(f"the template of {self.name} must have a problem and end with the steps, it has {slots}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens of {self.name} is {self.max_tokens}")
