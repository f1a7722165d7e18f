"""The recipe of a family of PRMs: how it is scored, as data.

A recipe says what text the model sees, where its rewards stand and how they become one. The exporter has a table
of recipes and asserts one on a checkpoint; the bundle's manifest carries it; the runtime does what it says.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle.pieces import STEP_SLOTS, Piece, Read, Slot, slot_names


class Chat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a conversation is written in the problem's place: the PRM's chat template.

    Attributes:
        turns: The pieces of one message, by its role, each with the slot `content`. Other roles are refused.
        opening: The pieces between the last message and the steps.
        begin: The pieces before the first message.
        system: The system message of a conversation that has none; None where none is written.
        refuse: Texts that an earlier answer must not hold, since the template would change it there.

    Raises:
        ValueError: If a message has other slots, or if there is a system message and no way to write it.
    """

    turns: dict[str, tuple[Piece, ...]]
    opening: tuple[Piece, ...] = ()
    begin: tuple[Piece, ...] = ()
    system: str | None = None
    refuse: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role, pieces in self.turns.items():
            if slot_names(pieces) != ["content"]:
                raise ValueError(f"a message of {role} has the slot content, not {slot_names(pieces)}")
        if "user" not in self.turns:
            raise ValueError(f"a chat template writes messages of the user; this one has {[*self.turns]}")
        if self.system is not None and "system" not in self.turns:
            raise ValueError("the chat template has a system message, but no way to write one")


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The reward head, fused into the graph: linear layers, an activation, a weighted sum, (x - mean) / std.

    Attributes:
        layers: `linear`, h -> outputs; or `mlp`, h -> h, ReLU, h -> outputs. Rows of a language model's head are a
            linear layer.
        activation: Of the outputs: `softmax` over all of them, `sigmoid` of each, or `none`.
        weights: One an output; the reward is the sum of weight * activated output.
        mean: What is subtracted from the reward.
        std: What the difference is divided by, above 0.
        good_above: The reward above which a step counts as good; None if the family has no such number.

    Raises:
        ValueError: If there is no weight, or a number is out of range.
    """

    layers: Literal["linear", "mlp"]
    activation: Literal["softmax", "sigmoid", "none"]
    weights: tuple[float, ...]
    mean: float = 0.0
    std: float = 1.0
    good_above: float | None = None

    def __post_init__(self) -> None:
        if not self.weights or not all(map(math.isfinite, (*self.weights, self.mean, self.std))):
            raise ValueError("a head has at least one output, and finite weights, mean and std")
        if self.std <= 0:
            raise ValueError(f"std={self.std}: it is above 0")

    @property
    def outputs(self) -> int:
        """How many outputs the last layer has."""
        return len(self.weights)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest reward that a step can have; infinite where nothing bounds it."""
        if self.activation == "softmax":
            low, high = min(self.weights), max(self.weights)
        elif self.activation == "sigmoid":
            low, high = sum(min(w, 0.0) for w in self.weights), sum(max(w, 0.0) for w in self.weights)
        else:
            return -math.inf, math.inf
        return (low - self.mean) / self.std, (high - self.mean) / self.std


class Cleaning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is done to the text of a step before it is written, as the authors do it.

    Attributes:
        replace: Pairs of a text and what stands in its place, in order.
        refuse: Texts that a step must not hold, since they would mean something to the model: the end of a step, say.
        number: What is put before a step that does not begin so, with `{n}` for its number from 1; None for nothing.
    """

    replace: tuple[tuple[str, str], ...] = ()
    refuse: tuple[str, ...] = ()
    number: str | None = None


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The way to score a PRM of one family.

    Where the slot of `step` is named `step`, a trace is one text with a read-out in each step. Where it is `steps` or
    `text`, each step has a text of its own that ends with it, and what stands behind the slot is in none but its own.

    Attributes:
        name: The family's, such as reasonflux-prm-7b.
        opening: The pieces up to the first step, with the slot `problem`.
        step: The pieces of a step, with one slot for it and one `Read`.
        head: The reward head on the hidden states.
        aggregate: The authors' way from step rewards to one.
        source: The files and papers that say all this.
        first: The pieces of the first step where they differ; the same as `step` where None.
        blank_line: The pieces of each blank line before a step of a text; none where they are left out.
        closing: The pieces of the final response where it is written, and read out, as one last step of its own; none
            where the steps of a response are steps like others.
        expect: The text of the token at each read-out; None where it may be any.
        cleaning: What is done to a step's text before it is written.
        split: How text is split into steps unless the caller says so: the name of a splitter, or a separator.
        max_tokens: The authors' own limit, in tokens; None where only the model's positions limit it.
        cuts: Whether the authors' code cuts a longer text there, without a word. Done on request alone.
        chat: How a conversation is written in the problem's place; None where the authors use no chat template.
        text_tokens: Added tokens that text may hold, and that are read as tokens there, as the authors' tokenizer does.
            Every other added token stands in text as the characters that it is written with.

    Raises:
        ValueError: If a slot or a `Read` is missing or too many.
    """

    name: str
    opening: tuple[Piece, ...]
    step: tuple[Piece, ...]
    head: Head
    aggregate: Aggregate
    source: str
    first: tuple[Piece, ...] | None = None
    blank_line: tuple[Piece, ...] = ()
    closing: tuple[Piece, ...] = ()
    expect: str | None = None
    cleaning: Cleaning = Cleaning()
    split: str = "blank-lines"
    max_tokens: int | None = None
    cuts: bool = False
    chat: Chat | None = None
    text_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        opening = slot_names(self.opening)
        if opening.count("problem") != 1 or set(opening) - {"problem", "reference", "choices"}:
            raise ValueError(f"opening of {self.name} has the slot problem, and maybe reference and choices: {opening}")
        for field in ("step", "first", "closing"):
            pieces: tuple[Piece, ...] = getattr(self, field) or ()
            if pieces:
                _require_step(f"{field} of {self.name}", pieces)
        if not self.step:
            raise ValueError(f"{self.name} has no step")
        if self.probes and (self.first or self.closing):
            raise ValueError(f"{self.name} gives each step a text of its own: it can have neither first nor closing")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens of {self.name} is {self.max_tokens}")
        if self.cuts and not (self.probes and self.max_tokens):
            raise ValueError(f"{self.name} can only be cut at its max_tokens where each step has a text of its own")

    @property
    def probes(self) -> bool:
        """Whether each step has a text of its own, which is rolled back for the next step."""
        return slot_names(self.step) != ["step"]

    @property
    def pieces(self) -> list[Piece]:
        """All pieces that a text may be written with."""
        chat = self.chat
        turns = [piece for pieces in chat.turns.values() for piece in pieces] if chat else []
        of_chat = [*chat.begin, *turns, *chat.opening] if chat else []
        return [*self.opening, *(self.first or ()), *self.step, *self.blank_line, *self.closing, *of_chat]


def _require_step(what: str, pieces: tuple[Piece, ...]) -> None:
    reads = [i for i, piece in enumerate(pieces) if isinstance(piece, Read)]
    slots = [i for i, piece in enumerate(pieces) if isinstance(piece, Slot)]
    names = slot_names(pieces)
    if len(reads) != 1 or len(slots) != 1 or names[0] not in STEP_SLOTS or reads[0] < slots[0]:
        raise ValueError(
            f"{what} needs one slot ({', '.join(STEP_SLOTS)}) and behind it one read; it has the slots {names} and "
            f"{len(reads)} reads"
        )
