"""The recipe of a family of PRMs: how it is scored, as data.

A recipe says what text the model sees, where its rewards stand and how they become one. The exporter has a table
of recipes and asserts one on a checkpoint; the bundle's manifest carries it; the runtime does what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from rfprm_lite.aggregate import Aggregate


class Special(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="special"):
    """A special token of the template, by its text. Only a template can put one into what the model sees."""

    token: str


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """Literal text of the template."""

    text: str


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="slot"):
    """A place in the template: of the problem or the steps; in a message, of its role or its content."""

    name: Literal["problem", "steps", "role", "content"]


Piece = Special | Text | Slot


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The PRM's chat template: how it writes a conversation.

    Attributes:
        message: The pieces of one message, with the slots `role` and `content`.
        system: The system message of a conversation that has none.
        opening: The pieces between the last message and the steps.

    Raises:
        ValueError: If a message has other slots.
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
        """The pieces of a conversation of one message of the user, the problem, and of the steps that answer it."""
        turns = [*written(self.message, "system", Text(self.system)), *written(self.message, "user", Slot("problem"))]
        return merged([*turns, *self.opening, Slot("steps")])


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reward head, fused into the graph.

    Attributes:
        layers: `linear`, h -> outputs; or `mlp`, h -> h, ReLU, h -> outputs.
        outputs: How many there are.
        activation: `softmax` over the outputs, the reward is the probability of `positive`; or `sigmoid` of the one
            output.
        positive: The output that means a good step.
    """

    layers: Literal["linear", "mlp"]
    outputs: int
    activation: Literal["softmax", "sigmoid"]
    positive: int = 0


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The way to score a PRM of one family.

    Attributes:
        name: The family's, such as reasonflux-prm-7b.
        template: The pieces of the text, in order, up to and including the slot `steps`.
        separator: The special token that follows each step and carries its reward; None where a trace has one reward
            at its last token. Then the reward of a step is that of the text cut off after it.
        head: The reward head on the hidden states.
        aggregate: The authors' way from step rewards to one.
        max_tokens: The authors' own limit, in tokens; None where only the model's positions limit it.
        source: The files and papers that say all this.
        chat: How a conversation is written in the problem's place; None where the authors use no chat template.

    Raises:
        ValueError: If the template has other slots, or is not what `chat` writes for a problem.
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
    """The pieces of a message, its slots filled with a role and a content."""
    fill: dict[str, Piece] = {"role": Text(role), "content": content}
    return [fill[piece.name] if isinstance(piece, Slot) else piece for piece in message]


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces with each run of literal text as one piece."""
    runs: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and runs and isinstance(last := runs[-1], Text):
            runs[-1] = Text(last.text + piece.text)
        else:
            runs.append(piece)
    return runs
