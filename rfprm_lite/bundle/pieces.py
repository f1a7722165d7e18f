"""The pieces of the text that a PRM sees: a template as data.

A template is a run of pieces. Text and special tokens stand as they are, slots are filled with what is scored, and a
`Read` says where a reward stands: at the last token written so far. Nothing is ever looked for in the text itself, so
that text can't forge a read-out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

SlotName = Literal["problem", "reference", "choices", "content", "step", "steps", "text"]

STEP_SLOTS = ("step", "steps", "text")

Strip = Literal["none", "both", "left", "right", "left-newlines"]
STRIPS: dict[Strip, Callable[[str], str]] = {
    "none": lambda text: text,
    "both": str.strip,
    "left": str.lstrip,
    "right": str.rstrip,
    "left-newlines": lambda text: text.lstrip("\n"),
}
"""What chat templates leave out of the texts that they are given."""


class Special(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="special"):
    """A special token of the template, by its text. Only a template can put one into what the model sees."""

    token: str


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """Literal text of the template."""

    text: str


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="slot"):
    """A place in the template.

    Attributes:
        name: `problem`; `reference` and `choices`, which a `Question` may have; `content`, in a message of a
            conversation; `step`, one step; `steps`, the steps so far with a blank line between each two; `text`, the
            trace's own text up to the end of a step.
        strip: Which whitespace is left out at its ends, as a chat template's `trim` does.
        default: What is written where a `Question` has no such text; None if it must have it.
    """

    name: SlotName
    strip: Strip = "none"
    default: str | None = None


class Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="read"):
    """A read-out: the reward of a step stands at the last token written so far."""


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cut"):
    """A place at which the text on both sides is encoded separately: nothing merges into one token across it."""


Piece = Special | Text | Slot | Read | Cut
Atom = Special | Text | Read | Cut
"""A piece without a slot."""


def filled(pieces: Iterable[Piece], fill: Callable[[Slot], str]) -> list[Atom]:
    """The pieces with text in place of their slots, stripped as each slot says."""
    return [Text(STRIPS[piece.strip](fill(piece))) if isinstance(piece, Slot) else piece for piece in pieces]


def slot_names(pieces: Iterable[Piece]) -> list[str]:
    """The names of the slots, in order."""
    return [piece.name for piece in pieces if isinstance(piece, Slot)]


def specials(pieces: Iterable[Piece]) -> list[str]:
    """The special tokens, in order."""
    return [piece.token for piece in pieces if isinstance(piece, Special)]


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces with each run of literal text as one piece."""
    runs: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and runs and isinstance(last := runs[-1], Text):
            runs[-1] = Text(last.text + piece.text)
        elif not (isinstance(piece, Text) and not piece.text):
            runs.append(piece)
    return runs
