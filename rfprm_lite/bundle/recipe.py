"""How one family of PRMs is scored, as data.

A recipe says what text the model reads, where its rewards stand and how they become one. The exporter has a table
of recipes and asserts one on a checkpoint; the bundle's manifest carries it; the runtime does what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """Where the problem or the steps go; in a message, its role and its content."""

    name: Literal["problem", "steps", "role", "content"]


Piece = Special | Text | Slot


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the PRM's chat template writes a conversation.

    message: the pieces of one, with the slots `role` and `content`. system: what the system message says where the
    conversation has none. opening: what stands between the last message and the steps.
    """

    message: tuple[Piece, ...]
    system: str
    opening: tuple[Piece, ...]

    def __post_init__(self) -> None:
        slots = [piece.name for piece in self.message if isinstance(piece, Slot)]
        if slots != ["role", "content"]:
            raise ValueError(f"a message of a chat has a role and a content, not {slots}")

    @property
    def template(self) -> list[Piece]:
        """Of one message of the user, a problem, and the steps that answer it."""
        turns = [*written(self.message, "system", Text(self.system)), *written(self.message, "user", Slot("problem"))]
        return merged([*turns, *self.opening, Slot("steps")])


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
    chat: how a conversation is written in the problem's place; None where the authors use no chat template.
    """

    name: str
    template: tuple[Piece, ...]
    separator: str | None
    head: Head
    aggregate: Aggregate
    max_tokens: int | None
    source: str
    chat: Chat | None = None

    def __post_init__(self) -> None:
        slots = [piece.name for piece in self.template if isinstance(piece, Slot)]
        if slots != ["problem", "steps"] or not isinstance(self.template[-1], Slot):
            raise ValueError(f"the template of {self.name} must have a problem and end with the steps, it has {slots}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens of {self.name} is {self.max_tokens}")
        if self.chat and self.chat.template != merged(self.template):
            raise ValueError(f"the template of {self.name} is not what its chat writes for a problem")


def written(message: Sequence[Piece], role: str, content: Piece) -> list[Piece]:
    """The pieces of a message, its slots filled."""
    fill: dict[str, Piece] = {"role": Text(role), "content": content}
    return [fill[piece.name] if isinstance(piece, Slot) else piece for piece in message]


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The same with each run of literal text as one piece."""
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and found and isinstance(last := found[-1], Text):
            found[-1] = Text(last.text + piece.text)
        else:
            found.append(piece)
    return found
